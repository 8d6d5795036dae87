"""The engine: answers against Transformers, prefixes computed once, no crosstalk, cancellation, errors."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from conftest import ROOT

from stellar_local.config import SamplingOptions
from stellar_local.engine import Answer, Engine, Request, Stream
from stellar_local.engine.job import Event, Job
from stellar_local.engine.scheduler import Scheduler
from stellar_local.errors import RequestError, StellarError
from stellar_local.native.context import Chunk, Context, Decoded
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

    def counting(chunks: list[Chunk]) -> Decoded:
        decoded.append(sum(len(chunk.tokens) for chunk in chunks))
        return decode(chunks)

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


def test_cancelling_again_and_again_does_not_keep_others_from_ending(model: Model) -> None:
    """Each cancellation may cut a decode short; the one after that is left to end."""
    with Engine(Context(model, 2048, sequences=2)) as engine:
        long = engine.submit(Request((1, *(5 + at % 300 for at in range(1500))), SamplingOptions(max_tokens=1)))
        deadline = time.monotonic() + 60
        while long.job and time.monotonic() < deadline:
            engine.submit(Request((1, 9), SamplingOptions(max_tokens=500))).cancel()
        assert long.answer.usage.completion_tokens == 1


def test_cancelling_who_holds_up_the_queue_lets_the_next_one_start(model: Model) -> None:
    def job(number: int, tokens: int, limit: int) -> Job:
        events[number] = []
        request = Request((1, *range(3, 2 + tokens)), SamplingOptions(temperature=1, max_tokens=limit, seed=1))
        made = Job(model, request, limit, events[number].append)
        made.number = number
        return made

    events: dict[int, list[Event]] = {}
    with Context(model, 256, sequences=3) as context:
        scheduler = Scheduler(context, parallel=3)
        jobs = [job(1, 60, 190), job(2, 200, 50), job(3, 5, 3)]
        for one in jobs:
            scheduler.add(one)
        for _ in range(5):
            scheduler.step()
        assert [one.sequence >= 0 for one in jobs] == [True, False, False]  # the second does not fit yet
        scheduler.cancel(jobs[1])
        for _ in range(5):
            scheduler.step()
        assert isinstance(events[3][-1], Answer)
        scheduler.fail_all(StellarError("over"))


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


def test_separate_sequences_are_decoded_in_the_order_of_their_numbers(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise llama.cpp runs them one after another, not at once."""
    orders: list[list[int]] = []
    with Engine(Context(model, 2048, sequences=8, unified=False)) as engine:
        assert engine.submit(Request(PROMPTS[1], GREEDY)).answer  # so that the first sequence was used last
        decode = engine.context.decode

        def noting(chunks: list[Chunk]) -> Decoded:
            orders.append([chunk.sequence for chunk in chunks])
            return decode(chunks)

        monkeypatch.setattr(engine.context, "decode", noting)
        for stream in [engine.submit(Request((1, 20 + at, 9), GREEDY)) for at in range(8)]:
            assert stream.answer
    assert all(order == sorted(order) for order in orders)
    assert list(range(8)) in orders


def test_a_long_prompt_does_not_wait_for_ever_behind_short_ones(model: Model) -> None:
    ended: list[str] = []
    one = SamplingOptions(temperature=0, max_tokens=1)
    with Engine(Context(model, 2048, sequences=4, n_batch=32)) as engine:
        streams = [
            engine.submit(Request((1, *(3 + at % 400 for at in range(300))), one), lambda _: ended.append("long"))
        ]
        for number in range(100):
            prompt = (1, 5 + number, *(7 + at for at in range(38)))
            streams.append(engine.submit(Request(prompt, one), lambda _: ended.append("short")))
        assert all(stream.answer for stream in streams)
    assert ended.index("long") < 20


def test_who_awaits_a_prefix_is_not_passed_over_for_one_that_does_not_fit(model: Model) -> None:
    events: dict[int, list[Event]] = {}

    def job(number: int, prompt: tuple[int, ...], limit: int) -> Job:
        events[number] = []
        options = SamplingOptions(temperature=1, min_p=0, max_tokens=limit, seed=1)
        made = Job(model, Request(prompt, options), limit, events[number].append)
        made.number = number
        return made

    prefix = (1, *range(100, 180))
    with Context(model, 256, sequences=4, n_batch=32) as context:
        scheduler = Scheduler(context, parallel=3)
        jobs = [job(1, (*prefix, 5), 100), job(2, (*prefix, 6), 3), job(3, (1, *range(200, 340)), 100)]
        for one in jobs:
            scheduler.add(one)
        for _ in range(8):
            scheduler.step()
        assert isinstance(events[2][-1], Answer) and events[2][-1].usage.cached_tokens == len(prefix)
        assert jobs[2].sequence < 0
        scheduler.fail_all(StellarError("over"))


def test_gaps_between_separate_sequences_are_filled_on_a_gpu(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fillers change no answer, and are gone after each call."""
    limits = [3, 40, 5, 40, 2, 40]

    def ask(offloaded: bool) -> tuple[list[tuple[int, ...]], list[list[int]]]:
        orders: list[list[int]] = []
        with Engine(Context(model, 6 * 256, sequences=6, unified=False)) as engine:
            engine.context.offloaded = offloaded
            decode = engine.context.decode

            def noting(chunks: list[Chunk]) -> Decoded:
                orders.append([chunk.sequence for chunk in chunks])
                return decode(chunks)

            monkeypatch.setattr(engine.context, "decode", noting)
            requests = [
                Request((1, 20 + at, 9), SamplingOptions(temperature=0, max_tokens=limits[at])) for at in range(6)
            ]
            streams = [engine.submit(request) for request in requests]
            tokens = [stream.answer.tokens for stream in streams]
            held = engine._scheduler.memory.tokens
            assert [engine.context.length(at) for at in range(6)] == [len(held[at]) for at in range(6)]
            return tokens, orders

    expected, gaps = ask(offloaded=False)
    tokens, filled = ask(offloaded=True)
    assert tokens == expected
    assert any(order != list(range(order[0], order[-1] + 1)) for order in gaps)
    assert all(order == list(range(order[0], order[-1] + 1)) for order in filled)


def test_token_ids_that_do_not_exist_are_refused(engine: Engine) -> None:
    for wrong in (-1, 480, 2**40):
        with pytest.raises(RequestError, match="token ids that the model lacks"):
            engine.submit(Request((1, wrong), GREEDY))


def test_a_callback_that_raises_harms_nobody(engine: Engine) -> None:
    def broken(stream: Stream) -> None:
        raise ValueError

    assert engine.submit(Request(PROMPTS[0], GREEDY), broken).answer.tokens
    assert engine.submit(Request(PROMPTS[0], GREEDY)).answer.tokens


def test_deterministic_mode_fails_a_request_rather_than_compute_it_otherwise(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Engine(Context(model, 512, sequences=3), deterministic=True) as engine:
        with monkeypatch.context() as patch:
            Failing(patch, engine.context, -3, first=4, times=1)
            with pytest.raises(StellarError, match="status -3"):
                _ = engine.submit(Request(PROMPTS[0], GREEDY)).answer
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


class Failing:
    """Stands before llama_decode and returns `code` from call `first` on, `times` times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, context: Context, code: int, first: int, times: int) -> None:
        self.calls = 0
        decode = context._api.llama_decode

        def failing(handle: object, batch: object) -> int:
            self.calls += 1
            return code if first <= self.calls < first + times else int(decode(handle, batch))

        monkeypatch.setattr(context._api, "llama_decode", failing)


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


def assert_cells_add_up(engine: Engine) -> None:
    memory = engine._scheduler.memory
    assert memory.free + sum(users > 0 for users in memory._users) == engine.context.n_ctx


def test_a_prefix_that_all_share_is_computed_once_though_they_come_together(model: Model) -> None:
    prefix = (1, *range(100, 300))
    prompts = [(*prefix, 9 + number, 20) for number in range(12)]
    with Engine(Context(model, 512, sequences=8, n_batch=64), parallel=6) as engine:
        streams = [engine.submit(Request(prompt, SamplingOptions(temperature=0, max_tokens=3))) for prompt in prompts]
        answers = [stream.answer for stream in streams]
        computed, generated = engine.work
    assert computed == len(prefix) + 2 * len(prompts)
    assert generated == sum(len(answer.tokens) + (answer.finish_reason == "stop") for answer in answers)
    assert [answer.usage.cached_tokens for answer in answers] == [0] + [len(prefix)] * 11


def test_separate_memory_computes_a_prefix_once_as_well(model: Model, engine: Engine) -> None:
    prefix = (1, *range(100, 200))
    prompts = [(*prefix, 9 + number, 20) for number in range(10)]
    alone = [engine.submit(Request(prompt, GREEDY)).answer.tokens for prompt in prompts]
    with Engine(Context(model, 1024, sequences=4, n_batch=64, unified=False)) as separate:
        streams = [separate.submit(Request(prompt, GREEDY)) for prompt in prompts]
        answers = [stream.answer for stream in streams]
        computed, _ = separate.work
        with pytest.raises(RequestError, match="the prompt has 256 tokens, the context holds 256"):
            separate.submit(Request((1,) * 256))
    assert [answer.tokens for answer in answers] == alone
    assert [answer.usage.cached_tokens for answer in answers] == [0] + [len(prefix)] * 9
    assert computed == len(prefix) + 2 * len(prompts)


def test_a_prefix_stays_for_later_though_others_run_between(model: Model) -> None:
    few_shot = (1, *range(100, 200))
    with Engine(Context(model, 512, sequences=4), parallel=2) as engine:
        assert engine.submit(Request((*few_shot, 5, 6), GREEDY)).answer.usage.cached_tokens == 0
        for _ in range(4):
            assert engine.submit(Request((1, 9, 8, 7), GREEDY)).answer.finish_reason
        assert engine.submit(Request((*few_shot, 7, 8), GREEDY)).answer.usage.cached_tokens == len(few_shot)


def test_memory_that_runs_out_makes_the_youngest_wait_and_loses_none(model: Model, engine: Engine) -> None:
    unlimited = SamplingOptions(temperature=0)
    alone = [engine.submit(Request(prompt, unlimited)).answer for prompt in PROMPTS]
    with Engine(Context(model, 256, sequences=4, n_batch=32)) as many:
        for _ in range(40):  # short answers, so that the long ones that follow are thought to be short as well
            assert many.submit(Request(PROMPTS[1], SamplingOptions(temperature=0, max_tokens=1))).answer.tokens
        places: list[int] = []
        start = many._scheduler._start

        def noting(job: Job, source: int, shared: int) -> None:
            places.append(job.number)
            start(job, source, shared)

        many._scheduler._start = noting  # type: ignore[method-assign]
        streams = [many.submit(Request(prompt, unlimited)) for prompt in PROMPTS * 3]
        answers = [stream.answer for stream in streams]
        assert_cells_add_up(many)
    assert sum(len(prompt) for prompt in PROMPTS) + sum(len(answer.tokens) for answer in alone) > 256
    assert len(places) > len(set(places)) == 12  # some gave up their place, and got one again
    for prompt, answer in zip(PROMPTS * 3, answers, strict=True):
        assert is_greedy(model, prompt, answer.tokens)


class Steady(Context):
    """A context whose logits depend on place and token alone, so that rounding cannot tip a drawn token."""

    def decode(self, chunks: Sequence[Chunk]) -> Decoded:
        self.rows = [(chunk.position + len(chunk.tokens), chunk.tokens[-1]) for chunk in chunks if chunk.outputs]
        return super().decode(chunks)

    @property
    def logits(self) -> npt.NDArray[np.float32]:
        rows = [np.random.default_rng(row).normal(0, 2, self.model.n_vocab) for row in self.rows]
        return np.array(rows, np.float32).reshape(-1, self.model.n_vocab)


@pytest.mark.parametrize("seed", range(3))
def test_a_sampled_answer_goes_on_as_if_its_place_had_not_been_lost(seed: int, model: Model) -> None:
    options = SamplingOptions(temperature=1.5, seed=seed, max_tokens=20, repeat_penalty=1.2, stop=("\x00",))

    def ask(lost_after: int) -> Answer:
        events: list[Event] = []
        with Steady(model, 256, sequences=2, n_batch=32) as context:
            scheduler = Scheduler(context, parallel=2)
            for number, (prompt, chosen, put) in enumerate(
                [(PROMPTS[2], GREEDY, print), (PROMPTS[1], options, events.append)]
            ):
                job = Job(model, Request(prompt, chosen), chosen.max_tokens or 0, put)
                job.number = number + 1
                scheduler.add(job)
            for number in range(100):
                if number == lost_after:
                    assert scheduler._make_room()
                    assert [job.number for job in scheduler.waiting] == [2]
                scheduler.step()
        assert isinstance(events[-1], Answer)
        return events[-1]

    whole, broken = ask(lost_after=-1), ask(lost_after=6)
    assert (broken.tokens, broken.text, broken.seed) == (whole.tokens, whole.text, seed)
    assert len(whole.tokens) == 20


def test_random_requests_that_come_go_and_share(model: Model, engine: Engine) -> None:
    """Many requests with common prefixes, cancelled at random, in too little memory: each gets its own answer."""
    draw = random.Random(5)
    prefixes = [[1, *(draw.randrange(3, 400) for _ in range(size))] for size in (5, 40, 80)]
    requests = []
    for _ in range(60):
        prompt = [*draw.choice(prefixes), *(draw.randrange(3, 400) for _ in range(draw.randrange(1, 12)))]
        options = SamplingOptions(temperature=0, max_tokens=draw.choice([1, 5, 20, 60]))
        requests.append(Request(tuple(prompt), options))
    alone = [engine.submit(request).answer.tokens for request in requests]
    with Engine(Context(model, 256, sequences=9, n_batch=48), parallel=7) as many:
        streams = [many.submit(request) for request in requests]
        for number in draw.sample(range(60), 8):
            threading.Timer(draw.random() / 5, streams[number].cancel).start()
        for request, stream, expected in zip(requests, streams, alone, strict=True):
            answer = stream.answer
            assert is_greedy(model, request.tokens, answer.tokens)
            if answer.finish_reason != "cancelled":
                assert len(answer.tokens) == len(expected) or answer.tokens != expected[: len(answer.tokens)]
        assert_cells_add_up(many)


def is_greedy(model: Model, prompt: tuple[int, ...], answer: tuple[int, ...]) -> bool:
    """Whether each token is the likeliest, or as likely within what rounding in differently composed batches costs."""
    with Context(model, 512, outputs=512, n_batch=512) as context:
        tokens = [*prompt, *answer]
        context.decode([Chunk(0, 0, tokens, len(answer) + 1)])
        rows = context.logits[:-1]
        return all(float(row.max() - row[token]) < 0.02 for row, token in zip(rows, answer, strict=True))


def test_deterministic_answers_depend_on_nothing_but_the_request(model: Model) -> None:
    prefix = (1, *(3 + number * 7 % 400 for number in range(150)))
    prompts = [(*prefix, 5 + number, 6) for number in range(6)]
    fresh = []
    for prompt in prompts:
        with Engine(Context(model, 512), deterministic=True) as engine:
            fresh.append(exact(engine, prompt))
    with Engine(Context(model, 512, sequences=4), deterministic=True) as engine:
        assert engine.submit(Request((1, 9, 8, 7), GREEDY)).answer.tokens
        shared = [exact(engine, prompt) for prompt in prompts]
        assert [one[:2] for one in shared] == [one[:2] for one in fresh]
        assert [one[2] for one in shared] == [0] + [128] * 5
        computed, _ = engine.work
        assert computed == 4 + len(prefix) + 2 + 5 * (len(prefix) + 2 - 128)


def exact(engine: Engine, prompt: tuple[int, ...]) -> tuple[tuple[int, ...], list[float], int]:
    """Tokens, their log-probabilities to the last bit, cached tokens."""
    answer = engine.submit(Request(prompt, SamplingOptions(temperature=0, max_tokens=20, logprobs=0))).answer
    return answer.tokens, [one.logprob for one in answer.logprobs], answer.usage.cached_tokens


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
    engine = Engine(Context(model, 512))
    texts: list[str] = []
    stream = engine.submit(Request(PROMPTS[0], GREEDY), lambda one: texts.append(one.answer.text))
    assert list(stream) and list(stream) == []
    assert texts == [stream.answer.text]  # the answer is there when its end is told
    unfinished = engine.submit(Request(PROMPTS[0], SamplingOptions(temperature=2, min_p=0)), lambda one: engine.close())
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
