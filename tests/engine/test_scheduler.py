"""What runs when: prefixes computed once, memory that runs out, order and fairness, answers that depend on no other."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from engine_cases import GREEDY, PROMPTS, Failing, assert_cells_add_up, is_greedy

from stellar_local.config import SamplingOptions
from stellar_local.engine import Answer, Engine, Request
from stellar_local.engine.job import Event, Job
from stellar_local.engine.scheduler import Scheduler
from stellar_local.errors import RequestError, StellarError
from stellar_local.native.context import Chunk, Context, Decoded
from stellar_local.native.model import Model


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


def exact(engine: Engine, prompt: tuple[int, ...]) -> tuple[tuple[int, ...], list[float], int]:
    """Tokens, their log-probabilities to the last bit, cached tokens."""
    answer = engine.submit(Request(prompt, SamplingOptions(temperature=0, max_tokens=20, logprobs=0))).answer
    return answer.tokens, [one.logprob for one in answer.logprobs], answer.usage.cached_tokens


def test_deterministic_answers_depend_on_nothing_but_the_request(model: Model) -> None:
    prefix = (1, *(3 + number * 7 % 400 for number in range(150)))
    prompts = [(*prefix, 5 + number, 6) for number in range(6)]
    fresh = []
    for prompt in prompts:
        with Engine(Context(model, 512, flash_attn="on"), deterministic=True) as engine:
            fresh.append(exact(engine, prompt))
    with Engine(Context(model, 512, sequences=4, flash_attn="on"), deterministic=True) as engine:
        assert engine.submit(Request((1, 9, 8, 7), GREEDY)).answer.tokens
        shared = [exact(engine, prompt) for prompt in prompts]
        assert [one[:2] for one in shared] == [one[:2] for one in fresh]
        assert [one[2] for one in shared] == [0] + [128] * 5
        computed, _ = engine.work
        assert computed == 4 + len(prefix) + 2 + 5 * (len(prefix) + 2 - 128)


def test_deterministic_mode_fails_a_request_rather_than_compute_it_otherwise(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Engine(Context(model, 512, sequences=3), deterministic=True) as engine:
        with monkeypatch.context() as patch:
            Failing(patch, engine.context, -3, first=4, times=1)
            with pytest.raises(StellarError, match="status -3"):
                _ = engine.submit(Request(PROMPTS[0], GREEDY)).answer
        assert engine.submit(Request(PROMPTS[0], GREEDY)).answer.tokens
