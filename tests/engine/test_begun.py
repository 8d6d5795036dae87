"""Answers that go on where they were cut: at every place they become what they would have been in one go."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stellar_local.config import SamplingOptions
from stellar_local.engine import Answer, Engine, Grammar, Request, Structures
from stellar_local.errors import RequestError
from stellar_local.native.context import Context
from stellar_local.native.model import Model

PROMPT = (1, 20, 300, 41, 77, 5)
GREEDY = SamplingOptions(temperature=0, max_tokens=80)


@pytest.fixture(params=["spm_model", "bpe_model"], scope="module")
def own_engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    path: Path = request.getfixturevalue(request.param)
    with Model(path) as model, Engine(Context(model, 512)) as engine:
        yield engine


def literal(engine: Engine, text: str) -> Grammar:
    """A grammar that makes any model say this, in tokens of its choice."""
    return Structures(engine.context.model).gbnf(f"root ::= {json.dumps(text, ensure_ascii=False)}")


def ask(engine: Engine, request: Request) -> tuple[Answer, str]:
    """The answer, and what was streamed of it."""
    stream = engine.submit(request)
    pieces = "".join(stream)
    return stream.answer, pieces


def cut_everywhere(engine: Engine, request: Request) -> list[tuple[str, str, Answer]]:
    """For each number of tokens: what was shown of the answer cut there, what was streamed then, the whole."""
    whole, streamed = ask(engine, request)
    assert streamed == whole.text
    size, found = len(whole.tokens), []
    for count in range(size):
        left = replace(request.sampling, max_tokens=(request.sampling.max_tokens or 0) - count)
        begun = replace(request, tokens=(*request.tokens, *whole.tokens[:count]), sampling=left, begun=count)
        first = ""
        if count:
            cut, first = ask(engine, replace(request, sampling=replace(request.sampling, max_tokens=count)))
            assert (cut.text, cut.tokens, cut.finish_reason) == (first, whole.tokens[:count], "length")
        rest, more = ask(engine, begun)
        assert (rest.text, rest.tokens, rest.finish_reason) == (whole.text, whole.tokens, whole.finish_reason)
        assert rest.usage.prompt_tokens == len(request.tokens) + count
        assert rest.usage.completion_tokens == size - count
        found.append((first, more, rest))
    return found


@pytest.mark.parametrize("options", [GREEDY, replace(GREEDY, repeat_penalty=1.4, frequency_penalty=0.3)])
def test_the_tokens_are_those_of_one_go(options: SamplingOptions, own_engine: Engine) -> None:
    request = Request(PROMPT, replace(options, max_tokens=16))
    plain, penalised = (ask(own_engine, Request(PROMPT, replace(one, max_tokens=16)))[0] for one in (GREEDY, options))
    assert (plain.tokens == penalised.tokens) == (options is GREEDY)
    for first, more, rest in cut_everywhere(own_engine, request):
        assert first + more == rest.text


def test_a_character_over_the_border_comes_out_whole(own_engine: Engine) -> None:
    text = "星語 tęl 🔭 镜。"
    cuts = cut_everywhere(own_engine, Request(PROMPT, GREEDY, grammar=literal(own_engine, text)))
    assert {rest.text for _, _, rest in cuts} == {text}
    tokens = cuts[0][2].tokens
    assert any("\ufffd" in own_engine.context.model.text(tokens[:count]) for count in range(len(tokens)))
    for first, more, _ in cuts:
        assert first + more == text  # so no half character was in either
        assert "\ufffd" not in first + more


def test_a_stop_text_over_the_border_is_found(own_engine: Engine) -> None:
    options = replace(GREEDY, stop=("月亮 STOP",))
    request = Request(PROMPT, options, grammar=literal(own_engine, "The 月亮 STOP here"))
    cuts = cut_everywhere(own_engine, request)
    assert all(rest.text == "The " and rest.finish_reason == "stop" for _, _, rest in cuts)
    assert all(more in ("The "[len(first) :], "") for first, more, _ in cuts)
    assert any(len(first) > len("The ") for first, _, _ in cuts)  # its beginning was shown


def test_what_only_looked_like_a_stop_text_is_shown_once(own_engine: Engine) -> None:
    options = replace(GREEDY, stop=("STOP",))
    request = Request(PROMPT, options, grammar=literal(own_engine, "a STONE, SST a STO"))
    for first, more, rest in cut_everywhere(own_engine, request):
        assert first + more == rest.text == "a STONE, SST a STO"


def test_a_placeholder_over_the_border_is_replaced(own_engine: Engine) -> None:
    text = "I am [NAME], 来自[机构]."
    request = Request(
        PROMPT, GREEDY, replace={"[NAME]": "星语者", "[机构]": "星语调校局"}, grammar=literal(own_engine, text)
    )
    for _, more, rest in cut_everywhere(own_engine, request):
        assert rest.text == "I am 星语者, 来自星语调校局."
        assert rest.text.endswith(more)


def test_a_document_goes_on_and_ends_in_time(own_engine: Engine) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "moons": {"type": "array", "items": {"type": "integer"}}},
        "required": ["name", "moons"],
        "additionalProperties": False,
    }
    grammar = Structures(own_engine.context.model).schema(schema)
    whole, _ = ask(own_engine, Request(PROMPT, GREEDY, grammar=grammar))
    for count in range(1, len(whole.tokens)):
        begun = Request((*PROMPT, *whole.tokens[:count]), GREEDY, grammar=grammar, begun=count)
        answer, _ = ask(own_engine, begun)
        assert list(json.loads(answer.text)) == ["name", "moons"]
        assert answer.tokens[:count] == whole.tokens[:count]
        assert answer.usage.completion_tokens <= 80


def test_what_cannot_go_on_is_refused(own_engine: Engine) -> None:
    model = own_engine.context.model
    said = literal(own_engine, "The 月亮 STOP")
    whole, _ = ask(own_engine, Request(PROMPT, GREEDY, grammar=said))
    every = (*PROMPT, *whole.tokens)
    for request, message in (
        (Request(every, GREEDY, grammar=said, begun=len(whole.tokens)), "nothing can follow"),
        (Request(every, replace(GREEDY, stop=("STOP",)), begun=len(whole.tokens)), "nothing can follow"),
        (Request((*PROMPT, *model.tokenize("no")), GREEDY, grammar=said, begun=1), "does not follow the grammar"),
        (Request(PROMPT, GREEDY, begun=7), "7 of 6 tokens"),
        (Request(PROMPT, GREEDY, begun=-1), "-1 of 6 tokens"),
    ):
        with pytest.raises(RequestError, match=message) as caught:
            own_engine.submit(request)
        assert caught.value.kind == "invalid_request"
    assert ask(own_engine, Request(PROMPT, GREEDY, grammar=said))[0].text == "The 月亮 STOP"


def test_one_cancelled_at_once_is_what_it_was(own_engine: Engine) -> None:
    whole, _ = ask(own_engine, Request(PROMPT, GREEDY, grammar=literal(own_engine, "星星 STO")))
    request = Request(
        (*PROMPT, *whole.tokens), replace(GREEDY, stop=("STOP",), max_tokens=400), begun=len(whole.tokens)
    )
    own_engine.submit(Request((9,) * 400, replace(GREEDY, max_tokens=90))).cancel()
    stream = own_engine.submit(request)
    stream.cancel()
    assert stream.answer.text.startswith("星星 STO")
    assert stream.answer.text == "星星 STO" + "".join(stream)
