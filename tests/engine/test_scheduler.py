"""The engine: answers against Transformers, prefixes computed once, no crosstalk, cancellation, errors."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from stellar_local.config import SamplingOptions
from stellar_local.engine import Answer, Engine, Request
from stellar_local.errors import RequestError, StellarError
from stellar_local.native.context import Context, Decoded, Entry
from stellar_local.native.model import Model

GREEDY = SamplingOptions(temperature=0, max_tokens=12)
PROMPTS = [(1, 20, 300, 41, 77, 5), (1, 9, 8, 7), (1, *range(100, 140)), (1, 400)]


@pytest.fixture(scope="module")
def model(spm_model: Path) -> Iterator[Model]:
    with Model(spm_model) as model:
        yield model


@pytest.fixture
def engine(model: Model) -> Iterator[Engine]:
    with Engine(Context(model, 256, n_batch=32)) as engine:
        yield engine


def reference(base: Path, prompt: tuple[int, ...], count: int) -> list[int]:
    """Greedy tokens by Transformers, end token included where it comes."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base)
    out = model.generate(torch.tensor([prompt]), max_new_tokens=count, do_sample=False, pad_token_id=0)
    return [int(token) for token in out[0][len(prompt) :]]


@pytest.mark.parametrize("prompt", PROMPTS, ids=range(len(PROMPTS)))
def test_greedy_tokens_equal_transformers(prompt: tuple[int, ...], engine: Engine, spm_base: Path) -> None:
    expected = reference(spm_base, prompt, 12)
    answer = engine.submit(Request(prompt, GREEDY)).answer
    assert list(answer.tokens) == [token for token in expected if token != 2]
    assert answer.finish_reason == ("stop" if 2 in expected else "length")
    assert answer.usage.prompt_tokens == len(prompt)
    assert answer.usage.completion_tokens == len(answer.tokens)


def test_pieces_join_to_the_answer(engine: Engine) -> None:
    stream = engine.submit(Request(PROMPTS[0], GREEDY))
    pieces = list(stream)
    assert "".join(pieces) == stream.answer.text
    assert list(stream) == []  # a finished stream is empty, not an error


def test_many_sequences_answer_as_one_does(model: Model, engine: Engine) -> None:
    alone = [engine.submit(Request(prompt, GREEDY)).answer.tokens for prompt in PROMPTS]
    with Engine(Context(model, 512, sequences=3, n_batch=16)) as many:
        streams = [many.submit(Request(prompt, GREEDY)) for prompt in PROMPTS * 3]
        assert [stream.answer.tokens for stream in streams] == alone * 3


def test_requests_that_reserve_everything_take_turns(model: Model, engine: Engine) -> None:
    unlimited = SamplingOptions(temperature=0)
    alone = engine.submit(Request(PROMPTS[0], unlimited)).answer
    with Engine(Context(model, 256, sequences=3, n_batch=16)) as many:
        for stream in [many.submit(Request(PROMPTS[0], unlimited)) for _ in range(4)]:
            assert stream.answer.tokens == alone.tokens
    assert alone.finish_reason in ("stop", "length")
    assert len(alone.tokens) + len(PROMPTS[0]) <= 256


def test_a_shared_prefix_is_computed_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    first = engine.submit(Request(PROMPTS[2], GREEDY)).answer
    decoded: list[int] = []
    decode = engine.context.decode

    def counting(entries: list[Entry]) -> Decoded:
        decoded.append(len(entries))
        return decode(entries)

    monkeypatch.setattr(engine.context, "decode", counting)
    longer = (*PROMPTS[2], *first.tokens, 33, 34)
    second = engine.submit(Request(longer, GREEDY)).answer
    held = len(PROMPTS[2]) + len(first.tokens) - 1  # the last token was sampled, never decoded
    assert second.usage.cached_tokens == held
    assert sum(decoded) == len(longer) - held + len(second.tokens) - (second.finish_reason == "length")
    again = engine.submit(Request(longer, GREEDY)).answer
    assert again.tokens == second.tokens
    assert again.usage.cached_tokens == len(longer) - 1


def test_a_seed_reproduces(engine: Engine) -> None:
    def ask(seed: int | None) -> Answer:
        options = SamplingOptions(temperature=3.0, top_k=0, top_p=1, min_p=0, seed=seed, max_tokens=16)
        return engine.submit(Request(PROMPTS[1], options)).answer

    drawn = ask(None)
    assert ask(drawn.seed).tokens == drawn.tokens
    assert ask(5).tokens == ask(5).tokens != ask(6).tokens


def test_stop_text_and_stop_token(engine: Engine) -> None:
    whole = engine.submit(Request(PROMPTS[0], GREEDY)).answer
    mark = whole.text[2:5]
    stopped = engine.submit(Request(PROMPTS[0], SamplingOptions(temperature=0, max_tokens=12, stop=(mark,)))).answer
    assert (stopped.text, stopped.finish_reason) == (whole.text[: whole.text.index(mark)], "stop")
    token = whole.tokens[3]
    cut = engine.submit(Request(PROMPTS[0], GREEDY, stop_tokens=frozenset([token]))).answer
    assert cut.tokens == whole.tokens[: whole.tokens.index(token)]
    assert cut.finish_reason == "stop"


def test_cancel_keeps_what_came(model: Model) -> None:
    with Engine(Context(model, 512)) as engine:
        prompt = (1, 9, 8, 7)
        unlimited = SamplingOptions(temperature=1.5, min_p=0, seed=1)
        stream = engine.submit(Request(prompt, unlimited))
        waiting = engine.submit(Request(prompt, unlimited))
        first = next(iter(stream))
        stream.cancel()
        waiting.cancel()
        assert stream.answer.finish_reason == "cancelled"
        assert stream.answer.text.startswith(first)
        assert len(stream.answer.tokens) < 500
        assert (waiting.answer.text, waiting.answer.usage.completion_tokens) == ("", 0)
        assert engine.submit(Request(prompt, GREEDY)).answer.usage.completion_tokens > 0
        stream.cancel()  # a finished stream is left alone
        assert engine.submit(Request(prompt, GREEDY)).answer.finish_reason != "cancelled"


def test_cancelling_one_leaves_the_others_right(model: Model, engine: Engine) -> None:
    expected = engine.submit(Request(PROMPTS[2], GREEDY)).answer.tokens
    with Engine(Context(model, 512, sequences=2, n_batch=16)) as many:
        for _ in range(10):
            doomed = many.submit(Request(PROMPTS[0], SamplingOptions(temperature=1, max_tokens=100)))
            kept = many.submit(Request(PROMPTS[2], GREEDY))
            threading.Timer(0.002, doomed.cancel).start()
            assert kept.answer.tokens == expected
            assert doomed.answer.finish_reason in ("cancelled", "stop", "length")


@pytest.mark.parametrize(("tokens", "kind"), [((), "empty_prompt"), ((1,) * 256, "context_length_exceeded")])
def test_impossible_requests(tokens: tuple[int, ...], kind: str, engine: Engine) -> None:
    with pytest.raises(RequestError) as caught:
        engine.submit(Request(tokens))
    assert caught.value.kind == kind


def test_a_failing_decode_fails_its_requests_only(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(engine.context, "decode", lambda entries: Decoded.FULL)
        with pytest.raises(StellarError, match="no room left"):
            _ = engine.submit(Request(PROMPTS[0], GREEDY)).answer
    assert engine.submit(Request(PROMPTS[0], GREEDY)).answer.usage.completion_tokens > 0


def test_close_fails_what_is_unfinished(model: Model) -> None:
    engine = Engine(Context(model, 512))
    stream = engine.submit(Request(PROMPTS[0], SamplingOptions(temperature=2.0, min_p=0)))
    waiting = engine.submit(Request(PROMPTS[0]))
    engine.close()
    engine.close()
    with pytest.raises(StellarError, match="closed"):
        _ = waiting.answer
    with pytest.raises(StellarError, match="closed"):
        _ = stream.answer
    with pytest.raises(StellarError, match="closed"):
        engine.submit(Request(PROMPTS[0]))
