"""How far a training run is: two live lines on a terminal, else a line at each tenth and at each evaluation.

Knows measured steps, clocks and terminals; knows no trainer. rich is imported where a terminal is drawn on.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

from stellar_local.console import cells, say

from .logs import StepStats

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.live import Live

_RECENT = 20  # steps that the loss and the speed are taken over
_FRAMES = 4  # a second
_NARROWEST_BAR = 10  # columns; with less room there is none
_WIDEST_BAR = 80


class Display:
    """A context manager that shows a run of `steps` optimizer steps, of which `done` are an earlier run's.

    On a terminal the cursor is back and the last state stays when the block ends, also by Ctrl-C or an error. What is
    said on stderr meanwhile stands above the live lines. A terminal that goes away stops nothing.

    The loss is per learned token, the speed in tokens of samples, without padding, both over the last 20 steps. The
    time left comes from what this run has taken a step, evaluations and checkpoints included, without its first
    step, in which much is set up. `elapsed` is this run's time alone.
    """

    def __init__(self, steps: int, done: int, epochs: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._steps, self._epochs, self._clock = steps, epochs, clock
        self._begun, self._before, self._position = clock(), done, done
        self._first: tuple[float, int] | None = None  # when this run's first step ended, and which it was
        self._last = self._begun
        self._recent: deque[StepStats] = deque(maxlen=_RECENT)
        self._tenth = 10 * done // max(steps, 1)
        self._measured: list[str] = []  # replaced as a whole, never changed: another thread draws
        self._position_text = f"step {done}/{steps}"
        self._seconds_a_step = 0.0
        self._validation = ""
        self._live: Live | None = None

    def __enter__(self) -> Display:
        self._begun = self._last = self._clock()
        self._live = self._make_live()
        if self._live:
            with suppress(OSError):
                # Its thread draws: where a signal's handler says something, this one had better not be at it.
                self._live.start()
        elif self._before < self._steps:
            say(f"training: steps {self._before + 1} to {self._steps} (epochs: {self._epochs:g})")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            with suppress(OSError):
                self._live.stop()
            self._live = None

    def step(self, stats: StepStats) -> None:
        """An optimizer step is done."""
        now = self._clock()
        if self._first is None or stats.step <= self._first[1]:
            self._first = (now, stats.step)
        elif stats.step == self._first[1] + 1:
            self._recent.clear()  # the first step's speed is no other's
        self._recent.append(stats)
        self._last, self._position = now, stats.step
        ended, first = self._first
        self._seconds_a_step = (now - ended) / (stats.step - first) if stats.step > first else 0.0
        self._position_text = f"step {stats.step}/{self._steps}  epoch {stats.epoch:.2f}/{self._epochs:g}"
        self._measured = _measured(self._recent)
        tenth = 10 * stats.step // max(self._steps, 1)
        if not self._live and tenth > self._tenth:
            self._tenth = tenth
            where = self._position_text.replace("  ", ", ")
            times = [f"{clock_time(now - self._begun)} elapsed", *self._left(now)]
            say(", ".join([f"training: {100 * stats.step // max(self._steps, 1)}%", where, *self._measured, *times]))

    def evaluation(self, loss: float, best: bool) -> None:
        """The validation loss after the step shown last; `best`: no earlier one was lower."""
        self._validation = f"validation {_loss(loss)}"
        say(f"step {self._position}: validation loss {_loss(loss)}" + (", the best so far" if best else ""))

    def _left(self, now: float) -> list[str]:
        """The time left, if it is known: it runs down between two steps."""
        if not self._seconds_a_step or self._position >= self._steps:
            return []
        left = (self._steps - self._position) * self._seconds_a_step - (now - self._last)
        return [f"{clock_time(max(left, 0))} left"]

    def _make_live(self) -> Live | None:
        """What draws on the terminal; None where stderr is none, or one that cannot move its cursor."""
        if not sys.stderr.isatty():
            return None
        from rich.console import Console
        from rich.live import Live

        console = Console(stderr=True)
        if not console.is_interactive:
            return None
        # stdout stays as it is: answers and not messages go there.
        return Live(_Lines(self), console=console, refresh_per_second=_FRAMES, redirect_stdout=False)

    def lines(self, columns: int) -> tuple[str, int, str]:
        """What the live lines show within so many columns: the first, how wide its bar may be, and the second."""
        now = self._clock()
        percent = f"{100 * self._position // max(self._steps, 1)}%"
        elapsed = f"{clock_time(now - self._begun)} elapsed"
        above = _fitting([(0, self._position_text), (2, percent), (1, elapsed)], columns)
        room = columns - cells(above) - 2
        bar = min(room, _WIDEST_BAR) if room >= _NARROWEST_BAR else 0
        if not self._measured:
            return above, bar, _fitting([(0, "the first step is under way")], columns)
        loss, speed, *memory = self._measured
        parts = [(0, loss), (2, speed), *((1, text) for text in self._left(now)), *((3, text) for text in memory)]
        if self._validation:
            parts.append((4, self._validation))
        return above, bar, _fitting(parts, columns)

    @property
    def share(self) -> float:
        """The share of all steps that is done, an earlier run's included."""
        return self._position / max(self._steps, 1)


class _Lines:
    """The two lines as rich draws them, as of the moment of drawing."""

    def __init__(self, display: Display) -> None:
        self._display = display

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        from rich.progress_bar import ProgressBar
        from rich.segment import Segment
        from rich.text import Text

        # The last column stays free: some terminals wrap there.
        above, bar, below = self._display.lines(max(options.max_width - 1, 1))
        yield Text(above, style="bold", end="", no_wrap=True)
        if bar:
            yield Segment("  ")
            yield ProgressBar(total=1.0, completed=self._display.share, width=bar)
        yield Segment.line()
        yield Text(below, end="", no_wrap=True)


def _measured(steps: Sequence[StepStats]) -> list[str]:
    """Loss and speed over some steps, and the memory's peak where it is known."""
    learned = sum(stats.learned for stats in steps)
    loss = sum(stats.loss * stats.learned for stats in steps) / max(learned, 1)
    speed = sum(stats.tokens for stats in steps) / max(sum(stats.seconds for stats in steps), 1e-9)
    shown = [f"loss {_loss(loss)}", f"{speed:,.0f} tok/s" if speed >= 10 else f"{speed:.1f} tok/s"]
    memory = max(stats.memory for stats in steps)
    return [*shown, f"{memory / 2**30:.1f} GiB"] if memory else shown


def _loss(value: float) -> str:
    """Four digits, zeros too, so that what stands behind stays in its place."""
    return f"{value:#.4g}"


def _fitting(parts: Sequence[tuple[int, str]], columns: int) -> str:
    """As many (rank, text) as fit, in their order; those with the highest rank go first."""
    kept = list(parts)
    while len(kept) > 1 and cells("  ".join(text for _, text in kept)) > columns:
        kept.remove(max(kept))
    return "  ".join(text for _, text in kept)[:columns]


def clock_time(seconds: float) -> str:
    """Seconds as a clock shows them: 0:07, 12:34, 1:02:03."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
