"""The two kinds of judging models: one behind an endpoint, asked by a few threads, and one on this machine.

Knows endpoints, engines and signals; knows nothing of what is judged.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...batch.signals import orderly
from ...config import SamplingOptions
from ...console import say, warn
from ...engine import Answer
from ...engine.job import told
from ...errors import ExitCode, StellarError
from ...flags import Setup
from ...prompts import Turn
from ..asking import Ask, Asker, Outcome, Single
from .endpoint import Endpoint, Judgement, Unusable
from .judging import Put

_MOST_FAILURES = 8  # one after the other, until the endpoint is given up
_WHAT_TO_CHECK = "check --endpoint and --judge-model, and run the same command again: what was judged is kept"
_TICK = 1.0  # seconds

_Event = tuple[str, Judgement | StellarError]


@dataclass
class EndpointJudge:
    """A model behind an endpoint, asked `workers` questions at once."""

    name: str
    endpoint: Endpoint
    workers: int = 4

    @property
    def identity(self) -> Mapping[str, Any]:
        """The address, the model and how it samples."""
        one = self.endpoint
        return {"endpoint": one.url, "model": one.model, "temperature": one.temperature}

    @property
    def max_tokens(self) -> int:
        """The longest judgement."""
        return self.endpoint.max_tokens

    def run(self, prompts: Sequence[tuple[str, str]], put: Put) -> ExitCode | None:
        """As Judge.run says. Raises Unusable where the endpoint refuses all, or fails many times in a row."""
        return _Run(self.endpoint, prompts, put).run(min(self.workers, len(prompts)))


class _Run:
    """One run of threads that ask, and the thread that keeps what they bring."""

    def __init__(self, endpoint: Endpoint, prompts: Sequence[tuple[str, str]], put: Put) -> None:
        self._endpoint, self._put = endpoint, put
        self._waiting = deque(prompts)
        self._stop = threading.Event()
        self._events: queue.SimpleQueue[_Event | threading.Thread | None] = queue.SimpleQueue()
        self._failures = 0
        self._given_up: StellarError | None = None
        endpoint.wait = lambda seconds: not self._stop.wait(seconds)

    def run(self, workers: int) -> ExitCode | None:
        threads = {threading.Thread(target=self._ask, name="stellar-judge", daemon=True) for _ in range(workers)}
        with orderly(lambda: self._events.put(None)) as signals:
            try:
                for thread in threads:
                    thread.start()
                while threads:
                    self._take(threads)
            except KeyboardInterrupt:
                if signals.code is None:
                    raise
            finally:
                self._end()
        if self._given_up:
            raise self._given_up
        return signals.code

    def _ask(self) -> None:
        try:
            while True:
                key, prompt = self._waiting.popleft()
                try:
                    self._events.put((key, self._endpoint.ask(prompt)))
                except Exception as error:
                    if isinstance(error, Unusable):
                        self._end()  # before another is begun
                    self._events.put((key, told(error)))
        except IndexError:  # nothing is left
            self._events.put(threading.current_thread())

    def _take(self, threads: set[threading.Thread]) -> None:
        try:
            event = self._events.get(timeout=_TICK)
        except queue.Empty:
            return
        if event is None:
            self._end()
            say("finishing what is being judged; press Ctrl-C again to stop at once")
        elif isinstance(event, threading.Thread):
            threads.discard(event)
        else:
            self._keep(*event)

    def _keep(self, key: str, outcome: Judgement | StellarError) -> None:
        if isinstance(outcome, Judgement) and not outcome.empty:
            self._failures = 0
        elif isinstance(outcome, Unusable):
            self._give_up(outcome)
            return
        elif self._stop.is_set():
            return  # it was not tried to the end
        else:
            self._failures += 1
        self._put(key, outcome)
        if self._failures >= _MOST_FAILURES:
            said, hint = "its answer is empty", ""
            if isinstance(outcome, StellarError):
                said, hint = outcome.message, outcome.hint
            self._give_up(
                Unusable(f"{self._failures} judgements in a row failed, the last so: {said}", hint or _WHAT_TO_CHECK)
            )

    def _give_up(self, error: StellarError) -> None:
        self._given_up = error
        self._end()

    def _end(self) -> None:
        """Begin nothing more, and wait for no other try."""
        self._waiting.clear()
        self._stop.set()


@dataclass
class LocalJudge:
    """A model on this machine. `digest` is its file's SHA-256; LoRA adapters and the template of the models under test
    are not its own.
    """

    name: str
    path: Path
    digest: str
    setup: Setup
    max_tokens: int
    parallel: int | None = None

    @property
    def identity(self) -> Mapping[str, Any]:
        """The file and how it samples."""
        return {"sha256": self.digest, "temperature": 0.0}

    def run(self, prompts: Sequence[tuple[str, str]], put: Put) -> ExitCode | None:
        """As Judge.run says. Raises StellarError where the model cannot run."""

        class _Silent:
            """Whoever keeps the judgements counts them."""

            def advance(self, amount: float = 1.0) -> None: ...
            def describe(self, text: str) -> None: ...

        def keep(item: Single, outcome: Outcome | StellarError) -> None:
            if isinstance(outcome, Answer):
                usage = outcome.usage
                cut = outcome.finish_reason == "length"
                put(item.key, Judgement(outcome.text, cut, usage.prompt_tokens, usage.completion_tokens))
            elif isinstance(outcome, StellarError):
                put(item.key, outcome)

        sampling = SamplingOptions(temperature=0, max_tokens=self.max_tokens)
        options = replace(self.setup.runtime, lora=(), template=None, level=None)
        runtime = self.setup.open(self.path, options, parallel=self.parallel)
        for note in runtime.notes:
            warn(f"{self.name}: {note}")
        with runtime:
            items = [Ask(key, (Turn(prompt),), sampling=sampling) for key, prompt in prompts]
            return Asker(runtime, keep, _Silent()).run(items)
