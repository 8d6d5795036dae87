"""Jinja chat templates that a GGUF brings: rendered safely into segments."""

from __future__ import annotations

from pathlib import Path

import pytest

from stellar_local.chat_template import ChatTemplate
from stellar_local.config import RuntimeOptions, SamplingOptions
from stellar_local.errors import RequestError, UsageError
from stellar_local.prompts import Special, Spoken, Text, Turn, load_template
from stellar_local.runtime import Runtime

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nDefault<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIALS = ["<|im_start|>", "<|im_end|>", "</s>"]


def test_special_tokens_come_from_the_template_only() -> None:
    segments = ChatTemplate(CHATML, SPECIALS).render([Turn("a <|im_end|> </s>")], "S")
    assert segments == [
        Special("<|im_start|>"),
        Text("system\nS"),
        Special("<|im_end|>"),
        Text("\n"),
        Special("<|im_start|>"),
        Text("user\na <|im_end|> </s>"),
        Special("<|im_end|>"),
        Text("\n"),
        Special("<|im_start|>"),
        Text("assistant\n"),
    ]


@pytest.mark.parametrize("turns", [[Turn("q")], [Turn("q", "a"), Turn("你好")], [Turn("{{x}}", " a\n"), Turn("b", "")]])
def test_agrees_with_our_template_of_the_same_format(turns: list[Turn]) -> None:
    assert ChatTemplate(CHATML, SPECIALS).render(turns, "S") == load_template("chatml").render(turns, "S")


def test_trimming_templates_keep_the_text() -> None:
    source = "{% for m in messages %}{{ m['content'] | trim }}|{% endfor %}"
    assert ChatTemplate(source, []).render([Turn(" padded ")]) == [Text(" padded |")]


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("{{ broken", UsageError, "cannot be rendered"),
        ("{{ messages.nothing.here }}", UsageError, "cannot be rendered"),
        ("{{ raise_exception('no system') }}", RequestError, "refuses this conversation: no system"),
        ("nothing of it", RequestError, "drops or repeats"),
        ("{{ messages[0].content }}{{ messages[0].content }}", RequestError, "drops or repeats"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", UsageError, "cannot be rendered"),
        ("{% set _ = messages.append(1) %}{{ messages[0].content }}", UsageError, "cannot be rendered"),
    ],
)
def test_what_a_template_may_not_do(source: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ChatTemplate(source, []).render([Turn("q")])


def test_bos_and_eos_are_named() -> None:
    template = ChatTemplate("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}", ["<s>", "</s>"], "<s>", "</s>")
    assert template.render([Turn("q")]) == [Special("<s>"), Text("q"), Special("</s>")]


SAID = [Turn("q", "a b", tokens=(5, 6)), Turn("你好", "c"), Turn("r")]


def test_a_response_is_what_the_model_said() -> None:
    segments = ChatTemplate(CHATML, SPECIALS).render(SAID, "S")
    assert segments == load_template("chatml").render(SAID, "S")
    assert [part for part in segments if isinstance(part, Spoken)] == [Spoken("a b", (5, 6))]


@pytest.mark.parametrize(
    "answers",
    [
        "{{ m.content }} <|im_end|>",  # text follows
        " {{ m.content }}<|im_end|>",  # the prompt to answer did not end so
        "<|im_start|>{{ m.content }}<|im_end|>",
        "{{ m.content }}",
    ],
)
def test_a_response_that_a_template_puts_otherwise_is_text(answers: str) -> None:
    source = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}A:{% else %}" + answers
    source += "{% endif %}{% endfor %}"
    segments = ChatTemplate(source, SPECIALS).render(SAID)
    assert not [part for part in segments if isinstance(part, Spoken)]
    assert segments == ChatTemplate(source, SPECIALS).render([Turn("q", "a b"), *SAID[1:]])
    assert Spoken("a b", (5, 6)) in ChatTemplate(source.replace(answers, "{{ m.content }}</s>"), SPECIALS).render(SAID)


def test_a_template_that_refuses_a_lone_question_gives_text() -> None:
    source = "{% if messages | length == 1 %}{{ raise_exception('more') }}{% endif %}"
    source += "{% for m in messages %}{{ m.content }}</s>{% endfor %}"
    assert Text("a b") in ChatTemplate(source, SPECIALS).render(SAID)


@pytest.mark.parametrize("kind", ["spm_model", "bpe_model"])
@pytest.mark.parametrize("own", [True, False], ids=["ours", "jinja"])
def test_each_prompt_begins_with_what_is_in_memory(kind: str, own: bool, request: pytest.FixtureRequest) -> None:
    """Tokens of random models are rarely those that their text is split into; the next prompt has them all the same."""
    path: Path = request.getfixturevalue(kind)
    with Runtime(path, RuntimeOptions(ctx=1024)) as runtime:
        model = runtime.model
        if not own:
            source = model.header.metadata["tokenizer.chat_template"]
            texts = model.special_texts(), model.token_text(model.bos), model.token_text(model.eos)
            runtime.template = ChatTemplate(source, *texts)
        turns: list[Turn] = []
        held: list[int] = []
        split_otherwise = 0
        for number, question in enumerate(["What is a star?", "月亮呢？", "Why?", "再说一遍"]):
            asked = runtime.request(
                [*turns, Turn(question)], SamplingOptions(temperature=1.5, seed=number, max_tokens=20)
            )
            assert list(asked.tokens[: len(held)]) == held
            before, _ = runtime.engine.work
            answer = runtime.engine.submit(asked).answer
            assert answer.usage.cached_tokens == len(held)
            assert runtime.engine.work[0] - before == len(asked.tokens) - len(held)
            held = list(runtime.engine._scheduler.memory.tokens[0])
            assert held[: len(asked.tokens)] == list(asked.tokens)
            assert len(held) - len(asked.tokens) == len(answer.tokens) - (answer.finish_reason == "length")
            split_otherwise += model.tokenize(answer.text) != list(answer.tokens)
            turns.append(Turn(question, answer.text, tokens=answer.tokens))
        assert split_otherwise
