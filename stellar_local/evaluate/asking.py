"""Items to put to a model, and the loop that puts them: many at once through the engine, outcomes as they come.

An item asks for an answer, rates given answers by their likelihood, or scores a text. Knows prompts, requests and
streams; knows no file and no task.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..batch.signals import orderly
from ..config import SamplingOptions
from ..console import Progress, say
from ..engine import Answer, Request, Stream
from ..engine.memory import shared_length
from ..engine.request import Look
from ..errors import ExitCode, RequestError, StellarError
from ..prompts import Turn
from ..runtime import Runtime

_AHEAD = 2  # requests under way for each sequence, so that the engine always has one waiting
_TICK = 1.0  # seconds


@dataclass(frozen=True)
class Ask:
    """Ask for an answer; its outcome is an Answer. `system` None is the template's own line, "" none; the answer goes
    on from `begun`. `about` is the task's own.
    """

    key: str
    turns: tuple[Turn, ...]
    system: str | None = None
    sampling: SamplingOptions = SamplingOptions(temperature=0)
    begun: str = ""
    about: Any = None


@dataclass(frozen=True)
class Rate:
    """Rate given answers, or continuations of `begun`; the outcome is a tuple of Rated, one for each option."""

    key: str
    turns: tuple[Turn, ...]
    options: tuple[str, ...]
    system: str | None = None
    begun: str = ""
    about: Any = None


@dataclass(frozen=True)
class Rated:
    """How likely an option is as the answer: the natural logarithm of its probability, over so many tokens."""

    logprob: float
    tokens: int


@dataclass(frozen=True)
class Score:
    """Score the last tokens of a text; the outcome is an Answer with `scores`. `make` gives all tokens and how many of
    the last are scored, `look` is as in Request.
    """

    key: str
    make: Callable[[Runtime], tuple[tuple[int, ...], int]]
    look: Look | None = field(default=None, compare=False)
    about: Any = None


@dataclass(frozen=True)
class Expand:
    """An item that only a model's tokens can tell: it becomes those that `make` gives, whose keys are its own with #0,
    #1 and so on behind.
    """

    key: str
    make: Callable[[Runtime], Sequence[Score]]


Single = Ask | Rate | Score
Item = Single | Expand
Outcome = Answer | tuple[Rated, ...]


def requests_of(runtime: Runtime, item: Single) -> list[Request]:
    """What an item asks of the engine. Raises StellarError where its prompt cannot be made."""
    if isinstance(item, Ask):
        tokens = runtime.tokens(item.turns, item.system, item.begun)
        begun = len(tokens) - shared_length(tokens, runtime.tokens(item.turns, item.system)) if item.begun else 0
        return [runtime.request_of(tokens, item.sampling, begun=begun)]
    if isinstance(item, Score):
        tokens, scored = item.make(runtime)
        return [Request(tokens, scored=scored, look=item.look, adapters=runtime.adapter_set())]
    prompt = runtime.tokens(item.turns, item.system, item.begun)
    whole = [runtime.tokens(item.turns, item.system, item.begun + option) for option in item.options]
    # An option may join with the end of the prompt into one token: all are scored from where they may first differ.
    shared = min(shared_length(prompt, tokens) for tokens in whole)
    if any(len(tokens) <= shared for tokens in whole):
        raise RequestError("invalid_request", "an option has no tokens of its own", "give options that are not empty")
    return [Request(tokens, scored=len(tokens) - shared, adapters=runtime.adapter_set()) for tokens in whole]


class _Under:
    """An item under way: its streams, and how many of them have not ended."""

    def __init__(self, item: Single) -> None:
        self.item, self.left = item, 0
        self.streams: list[Stream] = []


class Asker:
    """Puts items to a runtime, as many at once as it runs. `put` gets each item's outcome, or the error that it met,
    in the order in which they end; then the `bar`, if there is one, goes on by 1.
    """

    def __init__(
        self, runtime: Runtime, put: Callable[[Single, Outcome | StellarError], None], bar: Progress | None = None
    ) -> None:
        self._runtime, self._deliver, self._bar = runtime, put, bar
        self._events: queue.SimpleQueue[_Under | None] = queue.SimpleQueue()
        self._running: set[_Under] = set()
        self._stopping = False

    def run(self, items: Iterable[Single]) -> ExitCode | None:
        """Put all items; the exit code of the signal that ended it early, None where none came.

        The first Ctrl-C or SIGTERM lets what is in hand end, the second drops it.
        """
        waiting = iter(items)
        with orderly(lambda: self._events.put(None)) as signals:
            try:
                self._work(waiting)
            except KeyboardInterrupt:
                if signals.code is None:
                    raise
            finally:
                for under in self._running:
                    for stream in under.streams:
                        stream.cancel()
            return signals.code

    def _work(self, waiting: Iterator[Single]) -> None:
        most = _AHEAD * self._runtime.engine.parallel
        while True:
            while not self._stopping and sum(under.left for under in self._running) < most:
                item = next(waiting, None)
                if item is None:
                    break
                self._begin(item)
            if not self._running:
                return
            try:
                under = self._events.get(timeout=_TICK)
            except queue.Empty:
                continue
            if under is None:
                self._stop()
            else:
                under.left -= 1
                if not under.left:
                    self._finish(under)

    def _begin(self, item: Single) -> None:
        under = _Under(item)
        try:
            requests = requests_of(self._runtime, item)
            under.left = len(requests)
            self._running.add(under)
            for request in requests:
                stream = self._runtime.engine.submit(request, on_end=lambda _: self._events.put(under))
                under.streams.append(stream)
        except StellarError as error:
            self._running.discard(under)
            for stream in under.streams:
                stream.cancel()
            under.left = -1  # what is cancelled ends later, and is no one's any more
            self._put(item, error)

    def _stop(self) -> None:
        """Drop what has not started; what has is finished."""
        self._stopping = True
        for under in list(self._running):
            if not any(stream.started for stream in under.streams):
                for stream in under.streams:
                    stream.cancel()
        left = sum(any(stream.started for stream in under.streams) for under in self._running)
        if left:
            say(f"finishing {left} item{'s' if left > 1 else ''}; press Ctrl-C again to stop at once")

    def _finish(self, under: _Under) -> None:
        self._running.discard(under)
        try:
            answers = [stream.answer for stream in under.streams]
        except StellarError as error:
            self._put(under.item, error)
            return
        if any(answer.finish_reason == "cancelled" for answer in answers):
            return
        if isinstance(under.item, Rate):
            self._put(under.item, tuple(_rated(answer.scores) for answer in answers))
        else:
            self._put(under.item, answers[0])

    def _put(self, item: Single, outcome: Outcome | StellarError) -> None:
        self._deliver(item, outcome)
        if self._bar:
            self._bar.advance()


def _rated(scores: Sequence[float]) -> Rated:
    return Rated(float(sum(scores)), len(scores))
