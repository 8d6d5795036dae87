"""The engine: answers against Transformers, streams, cancellation, errors that stay with their request, closing."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import ROOT
from engine_cases import GREEDY, PROMPTS, Failing, assert_cells_add_up, endless

from stellar_local.config import SamplingOptions
from stellar_local.engine import Answer, Engine, Request, Stream
from stellar_local.engine.job import Job
from stellar_local.engine.scheduler import Scheduler
from stellar_local.errors import RequestError, StellarError
from stellar_local.native.context import Chunk, Context, Decoded
from stellar_local.native.model import Model


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


def test_a_stream_whose_end_was_lost_ends(engine: Engine) -> None:
    """As when Ctrl-C comes just after the last event was got."""
    stream = engine.submit(Request(PROMPTS[0], GREEDY))
    assert stream.answer.tokens
    while not stream._events.empty():
        stream._events.get()
    read: list[list[str]] = []
    reader = threading.Thread(target=lambda: read.append(list(stream)), daemon=True)
    reader.start()
    reader.join(10)
    assert read == [[]]


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


def test_cancelling_again_and_again_does_not_keep_others_from_ending(model: Model) -> None:
    """Each cancellation may cut a decode short; the one after that is left to end."""
    with Engine(Context(model, 2048, sequences=2)) as engine:
        long = engine.submit(Request((1, *(5 + at % 300 for at in range(1500))), SamplingOptions(max_tokens=1)))
        deadline = time.monotonic() + 60
        while long.job and time.monotonic() < deadline:
            engine.submit(Request((1, 9), SamplingOptions(max_tokens=500))).cancel()
        assert long.answer.usage.completion_tokens == 1


class Panic(BaseException):
    """As what a panic in Rust becomes: no Exception."""


@pytest.mark.parametrize("error", [ValueError("odd"), Panic("odd")])
def test_what_goes_wrong_in_one_request_is_told_there_alone(
    error: BaseException, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = Job.take

    def failing(job: Job, logits: object, row: int, likeliest: int | None) -> object:
        if job.request.tokens == PROMPTS[1]:
            raise error
        return take(job, logits, row, likeliest)  # type: ignore[arg-type]

    def broken(scheduler: Scheduler) -> None:
        raise error

    monkeypatch.setattr(Job, "take", failing)
    bad, good = engine.submit(Request(PROMPTS[1], GREEDY)), engine.submit(Request(PROMPTS[0], GREEDY))
    with pytest.raises(StellarError, match=f"internal error: {type(error).__name__}: odd"):
        _ = bad.answer
    assert good.answer.tokens
    monkeypatch.setattr(Scheduler, "_plan", broken)
    with pytest.raises(RequestError, match="internal error") as caught:
        _ = engine.submit(Request(PROMPTS[0], GREEDY)).answer
    assert caught.value.kind == "internal_error"
    monkeypatch.undo()
    assert engine.submit(Request(PROMPTS[0], GREEDY)).answer.tokens  # the engine lives


def test_token_ids_that_do_not_exist_are_refused(engine: Engine) -> None:
    for wrong in (-1, 480, 2**40):
        with pytest.raises(RequestError, match="token ids that the model lacks"):
            engine.submit(Request((1, wrong), GREEDY))


def test_a_callback_that_raises_harms_nobody(engine: Engine) -> None:
    def broken(stream: Stream) -> None:
        raise ValueError

    assert engine.submit(Request(PROMPTS[0], GREEDY), broken).answer.tokens
    assert engine.submit(Request(PROMPTS[0], GREEDY)).answer.tokens


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


def test_a_bias_for_a_token_that_does_not_exist_is_refused(engine: Engine) -> None:
    with pytest.raises(RequestError, match="logit_bias names token 480"):
        engine.submit(Request(PROMPTS[0], SamplingOptions(logit_bias=((480, 1.0),))))
    assert engine.submit(Request(PROMPTS[0], GREEDY)).answer.tokens


@pytest.mark.parametrize("code", [-3, -2, -1, 1, 2])
def test_a_decode_that_fails_once_costs_nothing(code: int, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    with Engine(Context(model, 512, sequences=4, n_batch=16)) as engine:
        alone = [engine.submit(Request(prompt, GREEDY)).answer.tokens for prompt in PROMPTS]
        for first in (1, 3, 6):
            with monkeypatch.context() as patch:
                Failing(patch, engine.context, code, first, times=1)
                streams = [engine.submit(Request(prompt, GREEDY)) for prompt in PROMPTS]
                assert [stream.answer.tokens for stream in streams] == alone
        assert_cells_add_up(engine)


@pytest.mark.parametrize("code", [-3, -2, -1, 1])
def test_decodes_that_keep_failing_cost_the_requests_in_hand(
    code: int, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Engine(Context(model, 512, sequences=2, n_batch=16)) as engine:
        with monkeypatch.context() as patch:
            failing = Failing(patch, engine.context, code, first=4, times=10**6)
            streams = [engine.submit(Request(prompt, GREEDY)) for prompt in PROMPTS[:2]]
            for stream in streams:
                with pytest.raises(StellarError, match="no room left" if code == 1 else f"status {code}"):
                    _ = stream.answer
            assert failing.calls < 50
        assert engine.submit(Request(PROMPTS[0], GREEDY)).answer.usage.completion_tokens > 0
        assert_cells_add_up(engine)


def test_a_request_that_breaks_decoding_takes_no_other_with_it(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    with Engine(Context(model, 512, sequences=4)) as engine:
        alone = [engine.submit(Request(prompt, GREEDY)).answer.tokens for prompt in PROMPTS]
        decode = engine.context.decode

        def poisoned(chunks: list[Chunk]) -> Decoded:
            if any(450 in chunk.tokens for chunk in chunks):
                raise StellarError("llama.cpp failed to decode (status -3)")
            return decode(chunks)

        monkeypatch.setattr(engine.context, "decode", poisoned)
        poison = engine.submit(Request((1, 2, 450), GREEDY))
        streams = [engine.submit(Request(prompt, GREEDY)) for prompt in PROMPTS]
        assert [stream.answer.tokens for stream in streams] == alone
        with pytest.raises(StellarError, match="status -3"):
            _ = poison.answer


def test_logprobs_equal_transformers(engine: Engine, spm_base: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    answer = engine.submit(Request(PROMPTS[0], SamplingOptions(temperature=0, max_tokens=6, logprobs=3))).answer
    assert len(answer.logprobs) == len(answer.tokens)
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(spm_base)(torch.tensor([[*PROMPTS[0], *answer.tokens]])).logits[0]
    expected = logits.log_softmax(-1)
    for at, one in enumerate(answer.logprobs, len(PROMPTS[0]) - 1):
        assert one.token == answer.tokens[at - len(PROMPTS[0]) + 1]
        assert one.logprob == pytest.approx(float(expected[at][one.token]), abs=2e-3)
        best = expected[at].topk(3)
        assert [token for token, _, _ in one.top] == best.indices.tolist()
        assert [value for _, _, value in one.top] == pytest.approx(best.values.tolist(), abs=2e-3)


def test_the_end_is_told_in_the_engine_s_thread(engine: Engine) -> None:
    ended: list[tuple[object, str]] = []
    stream = engine.submit(
        Request(PROMPTS[0], GREEDY), lambda one: ended.append((one, threading.current_thread().name))
    )
    assert stream.answer.tokens
    assert ended == [(stream, "stellar-engine")]
    assert stream.started


def test_any_thread_may_close_and_read(model: Model) -> None:
    engine = Engine(Context(model, 1 << 14))
    texts: list[str] = []
    stream = engine.submit(Request(PROMPTS[0], GREEDY), lambda one: texts.append(one.answer.text))
    assert list(stream) and list(stream) == []
    assert texts == [stream.answer.text]  # the answer is there when its end is told
    unfinished = engine.submit(Request(PROMPTS[0], endless(model)), lambda one: engine.close())  # for seconds
    closers = [threading.Thread(target=engine.close) for _ in range(4)]
    for thread in closers:
        thread.start()
    for thread in closers:
        thread.join(30)
    with pytest.raises(StellarError, match="closed"):
        _ = unfinished.answer
    assert not any(thread.is_alive() for thread in closers)


def test_a_model_in_use_is_not_freed(spm_model: Path) -> None:
    with Model(spm_model) as model:
        engine = Engine(Context(model, 256))
        with pytest.raises(StellarError, match="still uses the model"):
            model.close()
        assert engine.submit(Request(PROMPTS[0], GREEDY)).answer.tokens
        engine.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_is_told_that_the_engine_is_not_its_own(spm_model: Path) -> None:
    program = """
import os, sys
from pathlib import Path
from stellar_local.engine import Engine, Request
from stellar_local.errors import StellarError
from stellar_local.native.context import Context
from stellar_local.native.model import Model
engine = Engine(Context(Model(Path(sys.argv[1])), 256))
if child := os.fork():
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    engine.close()
else:
    try:
        engine.submit(Request((1, 2)))
    except StellarError as error:
        os._exit(7 if "another process" in error.message else 1)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(spm_model)], timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0


def test_close_fails_what_is_unfinished(model: Model) -> None:
    engine = Engine(Context(model, 1 << 14))
    stream = engine.submit(Request(PROMPTS[0], endless(model)))
    waiting = engine.submit(Request(PROMPTS[0]))
    engine.close()
    engine.close()
    with pytest.raises(StellarError, match="closed"):
        _ = waiting.answer
    with pytest.raises(StellarError, match="closed"):
        _ = stream.answer
    with pytest.raises(StellarError, match="closed"):
        engine.submit(Request(PROMPTS[0]))
