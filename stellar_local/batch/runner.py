"""Runs items through the engine and gives back records, in input order or as they finish.

One loop over one queue of events: lists of items from the reading thread, finished answers from the engine's thread,
a signal's request to end. Knows neither files nor formats.
"""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from ..engine import Request, Stream
from ..errors import RequestError, StellarError
from .feeder import Ended, Feeder
from .fields import Item
from .writer import record_of

_AHEAD = 2  # requests under way for each sequence: the engine always has one waiting to go on with
_LEAST_HELD = 1024  # finished records that may wait for an earlier one, at least
_HELD = 64  # … and for each sequence
_MOST_WEIGHT = 64 << 20  # … and about as many bytes: log-probabilities make a record of megabytes
_BYTES_A_LOGPROB = 500  # of memory, for a token or one of its alternatives
_TICK = 1.0  # seconds between two looks at the clock while nothing happens


class Submit(Protocol):
    """Engine.submit."""

    def __call__(self, request: Request, on_end: Callable[[Stream], None] | None = None) -> Stream: ...


class _Line:
    """A line under way. `record` is set when it is finished, `dropped` when it will not be; `weight` is the bytes that
    a finished one holds, about.
    """

    __slots__ = ("dropped", "end", "item", "record", "stream", "weight")

    def __init__(self, item: Item) -> None:
        self.item: Item | None = item
        self.end = item.end
        self.stream: Stream | None = None
        self.record: dict[str, Any] | None = None
        self.dropped = False
        self.weight = 0


class Runner:
    """`render` makes an item's request (it may raise StellarError), `submit` gives it to the engine.

    `write` gets each record when it is due, with the input's bytes up to the end of its line; `tick` is called at
    least once a second. Memory does not grow with the number of lines.
    """

    def __init__(
        self,
        render: Callable[[Item], Request],
        submit: Submit,
        write: Callable[[Mapping[str, Any], int], None],
        tick: Callable[[], None] = lambda: None,
        parallel: int = 1,
        ordered: bool = True,
    ) -> None:
        self._render, self._submit, self._write, self._tick = render, submit, write, tick
        self._most, self._ordered = _AHEAD * parallel, ordered
        self._most_held = max(_LEAST_HELD, _HELD * parallel)
        self._events: queue.SimpleQueue[list[Item] | Ended | _Line | None] = queue.SimpleQueue()
        self._lists: deque[list[Item]] = deque()
        self._items: Iterator[Item] = iter(())
        self._held: deque[_Line] = deque()  # in input order: under way, or finished and waiting for an earlier line
        self._running: set[_Line] = set()
        self._ended: Ended | None = None
        self._weight = 0
        self.stopping = False

    def ask_to_stop(self) -> None:
        """Finish the lines in hand and drop the rest. May be called from a signal handler, and from any thread."""
        self._events.put(None)

    def run(self, items: Callable[[Callable[[], None]], Iterator[Item]], stopping: Callable[[int], None]) -> None:
        """Answer all items. `stopping` is told how many lines are still being finished, when asked to stop.

        Raises what reading the input failed with, after what was read is answered; and what `write` raises, at once.
        Whatever ends it, nothing of it runs on in the engine.
        """
        feeder = Feeder(items, self._events.put)
        feeder.start()
        try:
            while True:
                self._fill(feeder)
                self._tick()
                if not self._running and (self.stopping or (self._ended and not self._lists)):
                    break
                try:
                    self._take(self._events.get(timeout=_TICK), stopping)
                except queue.Empty:
                    continue
        finally:
            feeder.stop()
            for line in self._running:
                if line.stream:
                    line.stream.cancel()
        if self._ended and self._ended.error and not self.stopping:
            raise self._ended.error

    def _take(self, event: list[Item] | Ended | _Line | None, stopping: Callable[[int], None]) -> None:
        if isinstance(event, _Line):
            self._finish(event)
        elif isinstance(event, Ended):
            self._ended = event
        elif event is None:
            self._stop(stopping)
        else:
            self._lists.append(event)

    def _fill(self, feeder: Feeder) -> None:
        """Submit what there is room for."""
        while not self.stopping and len(self._running) < self._most and self._can_hold():
            item = next(self._items, None)
            if item is not None:
                self._begin(item)
            elif self._lists:
                self._items = iter(self._lists.popleft())
                feeder.taken()
            else:
                return

    def _can_hold(self) -> bool:
        return len(self._held) < self._most_held and self._weight < _MOST_WEIGHT

    def _begin(self, item: Item) -> None:
        line = _Line(item)
        if self._ordered:
            self._held.append(line)
        try:
            if item.error:
                raise item.error
            self._running.add(line)
            line.stream = self._submit(self._render(item), on_end=lambda _: self._events.put(line))
        except Exception as error:
            self._running.discard(line)
            if isinstance(error, StellarError) and not isinstance(error, RequestError):
                error = RequestError("invalid_request", error.message, error.hint)
            self._settle(line, record_of(item, error))

    def _finish(self, line: _Line) -> None:
        """The engine is done with a line."""
        self._running.discard(line)
        assert line.stream and line.item
        try:
            answer = line.stream.answer
        except Exception as error:
            self._settle(line, record_of(line.item, error))
            return
        cancelled = answer.finish_reason == "cancelled"
        self._settle(line, None if cancelled else record_of(line.item, answer))

    def _settle(self, line: _Line, record: dict[str, Any] | None) -> None:
        """A line has its record, or (None) will have none; write what is due."""
        line.record, line.dropped = record, record is None
        line.item = line.stream = None
        if not self._ordered:
            if record is not None:
                self._write(record, line.end)
            return
        line.weight = _weight(record)
        self._weight += line.weight
        while self._held and (self._held[0].dropped or self._held[0].record is not None):
            due = self._held.popleft()
            self._weight -= due.weight
            if due.record is not None:
                self._write(due.record, due.end)

    def _stop(self, stopping: Callable[[int], None]) -> None:
        """Drop what has not started; what has is finished."""
        self.stopping = True
        self._lists.clear()
        waiting = [line for line in self._running if line.stream and not line.stream.started]
        stopping(len(self._running) - len(waiting))
        for line in waiting:
            if line.stream:
                line.stream.cancel()


def _weight(record: Mapping[str, Any] | None) -> int:
    """About how many bytes of memory a record takes."""
    if record is None:
        return 0
    tokens = record.get("logprobs", {}).get("content", ())
    alternatives = len(tokens[0]["top_logprobs"]) if tokens else 0
    return 1000 + 4 * len(record.get("text", "")) + len(tokens) * (1 + alternatives) * _BYTES_A_LOGPROB
