"""What reaches the terminal: messages on stderr, progress, tables, and text made safe to print.

stdout belongs to answers; everything here writes to stderr unless it is told otherwise. Knows terminals,
knows nothing of models. rich is imported on first use, since `--help` must stay quick.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

from .errors import StellarError

# Controls drive terminals (ESC and the C1 set) or hide the order of text (bidirectional overrides).
_VISIBLE_ESCAPE = {0x1B: "␛"}
_HIDDEN = [*range(0x09), 0x0B, 0x0C, 0x0D, *range(0x0E, 0x1B), *range(0x1C, 0x20), *range(0x7F, 0xA0)]
_BIDI = [0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_SAFE: dict[int, str | None] = {**dict.fromkeys([*_HIDDEN, *_BIDI], None), **_VISIBLE_ESCAPE}


def printable(text: str) -> str:
    """Make model output safe to print: tabs and newlines stay, ESC becomes ␛, other controls go.

    Works on any cut of a stream, because each character is judged by itself.
    """
    return text.translate(_SAFE)


def one_line(text: str) -> str:
    """Text from a file as one line that is safe to print, so that a name cannot pass for a message of ours."""
    return printable(" ".join(text.splitlines()))


def restore_streams() -> None:
    """Put a null device in the place of standard streams that the caller has closed, where Python has None."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115 - for the process's life


def use_utf8(*streams: IO[str]) -> None:
    """Make text streams speak UTF-8 whatever the locale says, and never fail on a lone surrogate."""
    for stream in streams:
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(encoding="utf-8", errors="replace")


def say(message: str) -> None:
    """Print a message for people on stderr, made safe: it may quote names from a file.

    A log that is full or whose reader is gone must not stop the work: from then on messages go nowhere.
    """
    try:
        print(printable(message), file=sys.stderr, flush=True)
    except OSError:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - for the process's life


def warn(message: str) -> None:
    """Print one warning line on stderr."""
    say(f"stellar: warning: {one_line(message)}")


def show_error(error: StellarError) -> None:
    """Print an error as its sentence and, on a second line, its hint."""
    say(f"stellar: error: {error.message}")
    if error.hint:
        say(f"  hint: {error.hint}")


class Progress(Protocol):
    """What long work calls to report how far it is."""

    def advance(self, amount: float = 1.0) -> None:
        """Add `amount` units to what is done."""

    def describe(self, text: str) -> None:
        """Replace the label."""


class _PlainProgress:
    """Progress for logs and pipes: a line at each tenth, so that a log file stays short."""

    def __init__(self, label: str, total: float, unit: str) -> None:
        self._label, self._total, self._done, self._shown = one_line(label), max(total, 1e-9), 0.0, 0
        self._unit = unit
        self._started: tuple[float, float] | None = None  # when, and how much was done before
        say(f"{self._label} ...")

    def advance(self, amount: float = 1.0) -> None:
        self._done += amount
        if self._started is None:  # what comes first may be work of an earlier run, so it tells nothing of the speed
            self._started = (time.monotonic(), self._done)
        tenth = int(10 * self._done / self._total)
        if tenth > self._shown:
            self._shown = tenth
            begun, before = self._started
            speed = (self._done - before) / max(time.monotonic() - begun, 1e-9)
            line = f"{self._label}: {min(100, 10 * tenth)}%"
            if self._unit and speed:
                line += f", {_rate(speed, self._unit)}"
            left = (self._total - self._done) / speed if speed else 0.0
            say(line + (f", {left:.0f} s left" if left >= 1 else ""))

    def describe(self, text: str) -> None:
        self._label = one_line(text)


def _rate(speed: float, unit: str) -> str:
    """A speed in units a second, in millions where there are millions."""
    return f"{speed / 1e6:.1f} M {unit}/s" if speed >= 1e6 else f"{speed:.1f} {unit}/s"


@contextmanager
def progress(label: str, total: float, unit: str = "") -> Iterator[Progress]:
    """Show progress on stderr while the block runs: a bar with the time left on a terminal, else lines.

    With a `unit`, such as "weights", the speed in it is shown too.
    """
    if not sys.stderr.isatty():
        yield _PlainProgress(label, total, unit)
        return
    from rich.console import Console
    from rich.progress import BarColumn, ProgressColumn, Task, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar
    from rich.text import Text

    class _Speed(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(_rate(task.speed, unit) if unit and task.speed else "")

    with Bar(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        _Speed(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as bar:
        task = bar.add_task(one_line(label), total=total)

        class _RichProgress:
            def advance(self, amount: float = 1.0) -> None:
                bar.advance(task, amount)

            def describe(self, text: str) -> None:
                bar.update(task, description=one_line(text))

        yield _RichProgress()


def table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], file: IO[str] | None = None, lines: bool = True
) -> None:
    """Print a table with wrapped cells, sized to the terminal (100 columns where there is none); without `lines` one of
    short cells, and where a terminal is too narrow for them, each row as `head value, head value` below its first cell.
    """
    from rich.box import ROUNDED, SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not headers:
        return
    headers = [one_line(header) for header in headers]

    class Screen(Console):
        def on_broken_pipe(self) -> None:  # rich's own ends the process with 1; for us a reader has enough
            raise BrokenPipeError

    stream = file or sys.stderr
    screen = Screen(file=stream, width=None if stream.isatty() else 100, highlight=False)
    shown = [[printable(cell) for cell in row] for row in rows]
    widths: Sequence[int | None] = [None] * len(headers)
    if lines:
        grid = Table(box=ROUNDED, show_lines=True)
    else:
        columns = [[header, *(row[number] for row in shown)] for number, header in enumerate(headers)]
        words = [max((cells(word) for text in column for word in text.split()), default=1) for column in columns]
        room = screen.width + 1  # no gap follows the last column
        gap = min(2, (room - sum(words)) // len(words))
        if gap < 1:
            for first, *rest in shown:
                pairs = [f"{head} {cell}" for head, cell in zip(headers[1:], rest, strict=True)]
                print(first, *(folded("; ".join(pairs), screen.width - 2) if pairs else ()), sep="\n  ", file=stream)
            return
        grid = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, gap - 1, 0, 0))
        widths = _widened(words, columns, room - gap * len(words))
    for header, width in zip(headers, widths, strict=True):
        grid.add_column(Text(header), overflow="fold", width=width)
    for row in shown:
        grid.add_row(*map(Text, row))
    screen.print(grid)


def _widened(words: Sequence[int], columns: Sequence[Sequence[str]], room: int) -> list[int]:
    """The widths of columns that hold their longest words, and more of their cells whole while there is room."""
    widths = list(words)
    for number in reversed(range(len(widths))):
        wanted = max(map(cells, columns[number]))
        widths[number] += max(0, min(wanted - words[number], room - sum(widths)))
    return widths


def amount(size: float) -> str:
    """Bytes in the unit that people read."""
    return f"{size / (1 << 30):.1f} GiB" if size >= 1023.5 * (1 << 20) else f"{size / (1 << 20):.0f} MiB"


_SIZE = re.compile(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*([kmgt])(i?b)?\s*", re.IGNORECASE)


def bytes_of(text: str) -> int | None:
    """`8GiB`, `8G`, `8000MiB`, `7.5 GB` as bytes; None where it is no size.

    GB and MB count in thousands, as makers of disks do; G and GiB in 1,024s, as makers of memory do.
    """
    found = _SIZE.fullmatch(text)
    if found is None:
        return None
    base = 1000 if (found[3] or "").lower() == "b" else 1024
    return int(float(found[1]) * base ** "kmgt".index(found[2].lower()) * base)


def is_dumb() -> bool:
    """Whether the terminal can do nothing but print, by its own word."""
    return os.environ.get("TERM", "").lower() in ("dumb", "unknown")


def cells(text: str) -> int:
    """How many columns of a terminal a line of text takes: two for each Chinese character."""
    from rich.cells import cell_len

    return sum(map(cell_len, text))


def cut(text: str, columns: int) -> str:
    """The beginning of a line of text that fits into so many columns."""
    used = 0
    for index, char in enumerate(text):
        used += cells(char)
        if used > columns:
            return text[:index]
    return text


def fitted(text: str, columns: int) -> str:
    """A line of text that fits into so many columns, with … where something is missing."""
    return text if cells(text) <= columns else cut(text, columns - 1) + "…"


def folded(text: str, columns: int) -> list[str]:
    """A text as lines that fit into so many columns, broken at blanks, or between Chinese characters."""
    lines = [""]
    for word in re.findall(r"\s*(?:[\u2e80-\uffef]|[^\s\u2e80-\uffef]+)|\s+$", text):
        if lines[-1] and cells(lines[-1] + word) > columns:
            lines.append(word.lstrip())
        else:
            lines[-1] += word
    return lines


class LiveLine:
    """One line on stderr that is written over and over; only for a terminal.

    `close` wipes it out, before anything else is said: where answers go to the same terminal, before each of them.
    """

    def __init__(self) -> None:
        self._shown = False

    @staticmethod
    def possible() -> bool:
        """Whether stderr is a terminal that stdout does not share."""
        return sys.stderr.isatty() and not sys.stdout.isatty()

    @staticmethod
    def _width() -> int:
        """The columns of stderr's terminal: stdout's, which shutil asks for, may be another or none."""
        try:
            columns = os.get_terminal_size(sys.stderr.fileno()).columns
        except (OSError, ValueError):
            columns = 0
        return columns or shutil.get_terminal_size().columns

    def show(self, text: str) -> None:
        """Replace what stands there, cut to the terminal's width."""
        self._put(f"\r\x1b[K{cut(one_line(text), self._width() - 1)}")  # the last column would wrap in some terminals
        self._shown = True

    def close(self) -> None:
        """Leave an empty line behind."""
        if self._shown:
            self._put("\r\x1b[K")
            self._shown = False

    @staticmethod
    def _put(text: str) -> None:
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except OSError:
            sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - for the process's life
