"""How far a batch is and what it came to, told on stderr. Knows records and clocks; knows nothing of the engine."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from ..console import LiveLine, say

_LIVE = 0.2  # seconds between two states of a live line
_PLAIN = 10.0  # … and between two lines in a log


class Summary:
    """What a batch came to, counted record by record. `skipped` lines were in the output file already, of which
    `failed_before` as errors.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.answered = self.failed = self.skipped = self.failed_before = 0
        self.prompt_tokens = self.cached_tokens = self.completion_tokens = 0
        self.errors: Counter[str] = Counter()
        self._clock, self._began = clock, clock()

    def add(self, record: Mapping[str, Any]) -> None:
        """Count a record that has been written."""
        if "error" in record:
            self.failed += 1
            self.errors[record["error"]["type"]] += 1
            return
        usage = record["usage"]
        self.answered += 1
        self.prompt_tokens += usage["prompt_tokens"]
        self.cached_tokens += usage["cached_tokens"]
        self.completion_tokens += usage["completion_tokens"]

    @property
    def seconds(self) -> float:
        """Since the first line could be read; loading the model is not in it."""
        return self._clock() - self._began

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens, over all sequences."""
        return self.completion_tokens / max(self.seconds, 1e-9)

    def values(self) -> dict[str, Any]:
        """As a JSON object; times in seconds."""
        return {
            "answered": self.answered,
            "failed": self.failed,
            "skipped": self.skipped,
            "failed_before": self.failed_before,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "completion_tokens": self.completion_tokens,
            "seconds": round(self.seconds, 3),
            "tokens_per_second": round(self.tokens_per_second, 2),
            "errors": dict(self.errors),
        }

    def sentence(self) -> str:
        """As a line for people."""
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        if self.failed_before:
            skipped += f" ({self.failed_before} of them had failed: --retry-errors runs them again)"
        return (
            f"{self.answered} answered, {self.failed} failed{skipped}, "
            f"{self.prompt_tokens} prompt and {self.completion_tokens} completion tokens, "
            f"{self.tokens_per_second:.1f} tokens/s in {duration(self.seconds)}"
        )


def duration(seconds: float) -> str:
    """Seconds as people say them: 0.4 s, 12 s, 3 min 5 s, 2 h 14 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


class Progress:
    """The state of a batch now and then: a live line on a terminal, else a line every 10 seconds.

    `size` is the input's in bytes where it is known: the share that is read is the share that is done.
    """

    def __init__(self, summary: Summary, size: int | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._summary, self._size, self._clock = summary, size, clock
        self._live = LiveLine() if LiveLine.possible() else None
        self._next = clock() + (_LIVE if self._live else _PLAIN)
        self._began = clock()
        self._first: int | None = None  # the input's bytes before the first line that this run has done
        self._done = 0

    def skip(self, end: int) -> None:
        """A line was skipped: what an earlier run did tells nothing of this one's speed."""
        if self._first is None:
            self._done = end

    def advance(self, end: int) -> None:
        """A line is done; `end` counts the input's bytes up to its end."""
        if self._first is None:
            self._first, self._began = self._done, self._clock()
        self._done = max(self._done, end)

    def tick(self) -> None:
        """Show the state if it is time to."""
        now = self._clock()
        if now < self._next:
            return
        self._next = now + (_LIVE if self._live else _PLAIN)
        if self._live:
            self._live.show(self._state(now))
        else:
            say(self._state(now))

    def _state(self, now: float) -> str:
        summary = self._summary
        parts = [f"{summary.answered + summary.failed + summary.skipped} lines"]
        if summary.failed:
            parts.append(f"{summary.failed} failed")
        if self._size:
            parts.insert(0, f"{min(100, 100 * self._done // self._size)}%")
        parts.append(f"{summary.tokens_per_second:.1f} tokens/s")
        if self._size and self._first is not None and self._done > self._first:
            left = (self._size - self._done) * (now - self._began) / (self._done - self._first)
            if left > 0:
                parts.append(f"{duration(left)} left")
        return ", ".join(parts)

    def close(self) -> None:
        """Make room for other messages."""
        if self._live:
            self._live.close()
