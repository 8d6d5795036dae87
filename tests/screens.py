"""A terminal made of pyte's, to judge what is really on the screen, and what was written to which row."""

from __future__ import annotations

import io
import os
import re
import unicodedata

import pyte
from pyte.screens import HistoryScreen
from wcwidth import wcwidth

from stellar_local.render import layout

layout.WIDTHS = layout.Widths()  # as wide as pyte shows them, whatever the locale is here

SEQUENCE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b.|[\x00-\x08\x0b-\x1f\x7f-\x9f]")
ALLOWED = re.compile(r"\x1b\[(?:[0-9;]*m|A|2K|\?2026[hl])|\r")


class _Screen(HistoryScreen):
    """Notes which rows are written to or erased, counted from the first row there ever was."""

    def __init__(self, columns: int, lines: int) -> None:
        self.touched: set[int] = set()
        super().__init__(columns, lines, history=100_000)

    @property
    def row(self) -> int:
        return len(self.history.top) + self.cursor.y

    def draw(self, data: str) -> None:
        self.touched.add(self.row)
        # pyte drops what follows a character of no width that is no accent, in the same write
        super().draw("".join(char for char in data if wcwidth(char) > 0 or unicodedata.combining(char)))
        self.touched.add(self.row)

    def erase_in_line(self, how: int = 0, private: bool = False) -> None:
        self.touched.add(self.row)
        super().erase_in_line(how, private)

    def erase_in_display(self, how: int = 0, *args: object, **kwargs: object) -> None:
        if how == 0:
            self.touched |= set(range(self.row, len(self.history.top) + self.lines))
        super().erase_in_display(how, *args, **kwargs)


class Screen(io.StringIO):
    """A stream that is a terminal. `rows()` is all that was ever shown, scrolled off or not."""

    def __init__(self, columns: int = 80, lines: int = 24) -> None:
        super().__init__()
        self.columns, self.lines = columns, lines
        self.screen = _Screen(columns, lines)
        self.screen.set_mode(pyte.modes.LNM)  # what the terminal driver does with newlines
        self._stream = pyte.Stream(self.screen)
        self.writes: list[str] = []

    def write(self, text: str) -> int:
        self.writes.append(text)
        self._stream.feed(text)
        return len(text)

    def isatty(self) -> bool:
        return True

    def size(self) -> os.terminal_size:
        return os.terminal_size((self.columns, self.lines))

    def resize(self, columns: int, lines: int) -> None:
        self.columns, self.lines = columns, lines
        self.screen.resize(lines, columns)

    @property
    def written(self) -> str:
        return "".join(self.writes)

    def sequences(self) -> set[str]:
        """Every control that was written, newlines apart."""
        return set(SEQUENCE.findall(self.written))

    def rows(self) -> list[str]:
        top = ["".join(line[x].data for x in range(self.columns)) for line in self.screen.history.top]
        rows = [row.rstrip() for row in [*top, *self.screen.display]]
        return rows[: self.screen.row + 1]

    def text(self) -> str:
        return "\n".join(self.rows())
