"""The runner over an engine made of lists: order, bounds, what is in hand when it is asked to stop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from stellar_local.batch.feeder import Ended, Feeder
from stellar_local.batch.fields import Item
from stellar_local.batch.runner import Runner
from stellar_local.config import SamplingOptions
from stellar_local.engine import Answer, Request, Timing, TokenLogprob, Usage
from stellar_local.errors import RequestError, StellarError, UsageError
from stellar_local.prompts import Turn


class FakeStream:
    """A stream whose end the test decides."""

    def __init__(self, number: int, on_end: Callable[[Any], None]) -> None:
        self.number, self.on_end = number, on_end
        self.started, self.end = False, None  # type: bool, Answer | BaseException | None

    def finish(self, end: Answer | BaseException | str = "done") -> None:
        usage = Usage(1, 1, 0)
        self.end = end if not isinstance(end, str) else Answer(end, "stop", usage, Timing(0, 0, 0), 0)
        self.on_end(self)

    def cancel(self) -> None:
        if self.end is None:
            self.end = Answer("par", "cancelled", Usage(1, 1, 0), Timing(0, 0, 0), 0)
            self.on_end(self)

    @property
    def answer(self) -> Answer:
        if isinstance(self.end, BaseException):
            raise self.end
        assert self.end
        return self.end


class FakeEngine:
    """Keeps what was submitted; `on_submit` may finish something at once."""

    def __init__(self, on_submit: Callable[[FakeStream], None] = lambda stream: None) -> None:
        self.streams: list[FakeStream] = []
        self._on_submit = on_submit

    def submit(self, request: Request, on_end: Any = None) -> Any:
        stream = FakeStream(request.tokens[0], on_end)
        self.streams.append(stream)
        self._on_submit(stream)
        return stream


def items(count: int) -> Callable[[Callable[[], None]], Iterator[Item]]:
    return lambda waiting: (Item(number, number, (Turn("x"),), end=number) for number in range(count))


def make(engine: FakeEngine, written: list[Mapping[str, Any]], **options: Any) -> Runner:
    def render(item: Item) -> Request:
        if item.index == 13:
            raise UsageError("unlucky")
        return Request((item.index,))

    return Runner(render, engine.submit, lambda record, end: written.append(record), **options)


def test_records_come_in_order_whatever_finishes_first() -> None:
    waiting: list[FakeStream] = []

    def later(stream: FakeStream) -> None:
        """Finish in pairs, the later one first."""
        waiting.append(stream)
        if len(waiting) == 2:
            waiting.pop().finish()
            waiting.pop().finish()

    written: list[Mapping[str, Any]] = []
    engine = FakeEngine(later)
    make(engine, written, parallel=2).run(items(12), lambda _: None)
    assert [record["index"] for record in written] == list(range(12))
    written.clear()
    make(FakeEngine(later), written, parallel=2, ordered=False).run(items(12), lambda _: None)
    assert [record["index"] for record in written] == [1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10]


def test_failures_stand_in_their_place() -> None:
    def end(stream: FakeStream) -> None:
        failures: dict[int, BaseException] = {
            1: RequestError("no_token", "none"),
            2: StellarError("llama.cpp failed"),
            3: KeyError("defect"),
        }
        stream.finish(failures.get(stream.number, "fine"))

    written: list[Mapping[str, Any]] = []
    make(FakeEngine(end), written).run(items(15), lambda _: None)
    kinds = {record["index"]: record["error"]["type"] for record in written if "error" in record}
    assert kinds == {1: "no_token", 2: "error", 3: "internal_error", 13: "invalid_request"}
    assert [record["index"] for record in written] == list(range(15))


def test_as_many_as_asked_for_are_under_way_and_the_held_are_bounded() -> None:
    """The first line never finishes until all others that may be held have."""
    most_running = 0

    def end(stream: FakeStream) -> None:
        nonlocal most_running
        running = sum(one.end is None for one in engine.streams)
        most_running = max(most_running, running)
        if stream.number:
            stream.finish()

    engine = FakeEngine(end)
    written: list[Mapping[str, Any]] = []

    def tick() -> None:
        if len(engine.streams) == 1023 and engine.streams[0].end is None:  # 1024 are held: line 13 made no request
            engine.streams[0].finish()

    make(engine, written, parallel=4, tick=tick).run(items(3000), lambda _: None)
    assert [record["index"] for record in written] == list(range(3000))
    assert most_running <= 8


def test_what_is_held_is_bounded_by_its_size_as_well() -> None:
    """Behind a slow first line, records of a megabyte each: some 64 are held, not 1024."""
    logprobs = tuple(TokenLogprob(7, b"x", -1.0, ((8, b"y", -2.0),) * 20) for _ in range(100))

    def end(stream: FakeStream) -> None:
        if stream.number:
            stream.finish(Answer("x", "stop", Usage(1, 100, 0), Timing(0, 0, 0), 0, logprobs=logprobs))

    engine = FakeEngine(end)
    written: list[Mapping[str, Any]] = []
    most = still = 0

    def tick() -> None:
        nonlocal most, still
        still = still + 1 if len(engine.streams) == most else 0
        most = len(engine.streams)
        if still == 10 and engine.streams[0].end is None:  # no more are taken
            engine.streams[0].finish()
            assert 30 < most < 100

    def asking(waiting: Callable[[], None]) -> Iterator[Item]:
        options = SamplingOptions(logprobs=20)
        return (Item(at, at, (Turn("x"),), sampling=options, end=at) for at in (0, *range(14, 200)))

    make(engine, written, parallel=4, tick=tick).run(asking, lambda _: None)
    assert len(written) == 187


def test_asked_to_stop_it_finishes_what_has_started() -> None:
    written: list[Mapping[str, Any]] = []
    told: list[int] = []

    def end(stream: FakeStream) -> None:
        if stream.number == 0:
            stream.finish()
        elif stream.number in (1, 3):
            stream.started = True
        if stream.number == 4:
            runner.ask_to_stop()

    def stopping(lines: int) -> None:
        told.append(lines)
        for number in (3, 1):
            engine.streams[number].finish()

    engine = FakeEngine(end)
    runner = make(engine, written, parallel=2)
    runner.run(items(100), stopping)
    assert told == [2]
    assert [record["index"] for record in written] == [0, 1, 3]  # 2 had not started
    assert len(engine.streams) == 5


def test_a_failing_output_cancels_what_runs() -> None:
    def write(record: Mapping[str, Any], end: int) -> None:
        raise BrokenPipeError

    engine = FakeEngine(lambda stream: stream.finish() if stream.number == 0 else None)
    runner = Runner(lambda item: Request((item.index,)), engine.submit, write, parallel=2)
    with pytest.raises(BrokenPipeError):
        runner.run(items(100), lambda _: None)
    assert {stream.answer.finish_reason for stream in engine.streams[1:]} == {"cancelled"}


def test_what_reading_fails_with_is_raised_after_the_answers() -> None:
    def broken(waiting: Callable[[], None]) -> Iterator[Item]:
        yield from items(3)(waiting)
        raise StellarError("the disk is gone")

    written: list[Mapping[str, Any]] = []
    with pytest.raises(StellarError, match="the disk is gone"):
        make(FakeEngine(FakeStream.finish), written).run(broken, lambda _: None)
    assert len(written) == 3


def test_the_feeder_reads_ahead_a_bounded_number() -> None:
    drawn = 0
    got: list[Any] = []
    arrived = threading.Semaphore(0)

    def endless(waiting: Callable[[], None]) -> Iterator[Item]:
        nonlocal drawn
        while True:
            drawn += 1
            yield Item(drawn, drawn)

    def put(batch: list[Item] | Ended) -> None:
        got.append(batch)
        arrived.release()

    feeder = Feeder(endless, put)
    feeder.start()
    for _ in range(3):
        assert arrived.acquire(timeout=10)
    assert not arrived.acquire(timeout=0.2)
    assert drawn <= 4 * 64
    feeder.taken()
    assert arrived.acquire(timeout=10)
    feeder.stop()
    assert not arrived.acquire(timeout=0.2)
