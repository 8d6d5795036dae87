"""The part of the screen that may still change: the text in hand, shown as it comes, replaced in one write.

Knows rows and the cursor; knows no Markdown. It begins at column 0 and holds the cursor, and nobody else writes to
the terminal meanwhile. Rows are laid out here and never left to the terminal, so their number is known, and what
is erased is never anybody else's.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TextIO

from .layout import DROP, KEEP, Rows

_BEGIN, _END = "\x1b[?2026h", "\x1b[?2026l"  # synchronized output: the terminal shows all of it at once
_CLEAR, _CLEAR_ABOVE = "\r\x1b[2K", "\x1b[A\x1b[2K"

Size = Callable[[], os.terminal_size]


def size_of(out: TextIO) -> os.terminal_size:
    """The terminal's size, asked of the terminal itself; 80 by 24 where it does not say."""
    try:
        size = os.get_terminal_size(out.fileno())
    except (OSError, ValueError):
        return os.terminal_size((80, 24))
    return size if size.columns and size.lines else os.terminal_size((80, 24))


class Live:
    """The region of the text in hand. Nothing reaches the screen before `flush`.

    A region that has grown taller than the screen, or whose terminal was resized, cannot be erased any more: it stays
    as it is. Of one that is too tall, the source line in hand alone may still be.
    """

    def __init__(self, out: TextIO, size: Size) -> None:
        self._out, self._size = out, size
        self._text: list[str] = []  # what is to be written that is no part of the region
        self._begin()

    def _begin(self) -> None:
        columns, lines = self._size()
        self._columns, self._limit = columns, lines - 1
        self._layout = Rows(columns - 1)  # a column of reserve, and no cursor waiting at the margin
        self._rows = [""]
        self._line = 0  # the row at which the source line in hand begins
        self._row, self._shown = 0, ""  # where the cursor is, and what its row shows already
        self._lost = columns < 4  # where a wide character may not fit, nothing is certain

    @property
    def width(self) -> int:
        """How many cells a row of anything written here may have."""
        return max(2, self._size().columns - 1)

    @property
    def empty(self) -> bool:
        """Whether nothing is in hand."""
        return self._rows == [""]

    @property
    def whole(self) -> bool:
        """Whether all that is in hand can still be replaced."""
        return not self._lost and len(self._rows) <= self._limit

    @property
    def line_whole(self) -> bool:
        """Whether the source line in hand can still be replaced."""
        return not self._lost and len(self._rows) - self._line <= self._limit

    def space(self) -> None:
        """An empty row, part of what is in hand."""
        self.add("\n")
        self._line = 0

    def add(self, text: str) -> None:
        """More of the text in hand. Newlines end source lines, tabs become spaces."""
        if self.empty and not self._lost:
            self._begin()
        self._look()
        if self._lost:  # the terminal's own wrapping does
            self._rows[-1] += text
            return
        rows, layout = self._rows, self._layout
        row, place = rows[-1], layout.place
        for char in text:
            if char == "\n":
                rows[-1] = row
                rows.append("")
                row, self._line = "", len(rows) - 1
                layout.start()
                continue
            count = 4 - layout.column % 4 if char == "\t" else 1
            for one in " " * count if char == "\t" else char:
                moved = place(one)
                if moved == KEEP:
                    row += one
                elif moved != DROP:
                    cut = len(row) - moved
                    rows[-1] = row[:cut]
                    row = row[cut:] + one
                    rows.append("")
        rows[-1] = row

    def replace(self, all_of_it: str, line: str) -> None:
        """Put finished text, whole lines, in the place of what is in hand; only `line` in that of the source line if
        no more can be erased, nothing if not even that can. Then nothing is in hand."""
        self._look()
        if not self.line_whole:
            self.leave()
            return
        first, text = (0, all_of_it) if self.whole else (self._line, line)
        finished = text.split("\n")
        while len(finished) > 1 and first < len(self._rows) and finished[0] == self._rows[first].rstrip(" "):
            first += 1  # it looks like this already
            finished.pop(0)
        text = "\n".join(finished)
        if first > self._row or (self._row, self._shown) == (0, ""):
            self._catch_up(first - 1)
            self._text.append("\n" * (first > 0) + text)
        elif (first, "") != (self._row, self._shown):
            self._text.append(_BEGIN + _CLEAR + _CLEAR_ABOVE * (self._row - first) + text + _END)
        else:
            self._text.append(text)
        self._begin()

    def leave(self) -> None:
        """Let what is in hand stand as it is; nothing is in hand any more, and the cursor is at column 0."""
        if not self.empty:
            self._catch_up(len(self._rows) - 1)
            self._text.append("" if self._rows[-1][-1:] in ("", "\n") else "\n")
        self._begin()

    def flush(self) -> None:
        """Show everything up to now, in one write."""
        self._catch_up(len(self._rows) - 1)
        text, self._text = "".join(self._text), []
        if text:
            self._out.write(text)
            self._out.flush()

    def abandon(self) -> None:
        """Something went wrong in here: nothing on the screen is to be erased any more."""
        self._lost = True

    def _look(self) -> None:
        """A terminal that was resized has moved the rows, nobody knows where to."""
        columns, lines = self._size()
        self._limit = min(self._limit, lines - 1)
        if columns != self._columns:
            self._columns = columns
            self._lost = True

    def _catch_up(self, last: int) -> None:
        """Write what the screen lacks of the region, up to row `last`."""
        if last < self._row:
            return
        row = self._rows[self._row]
        if row.startswith(self._shown):
            self._text.append(row[len(self._shown) :])
        else:  # its last word has moved on
            self._text.append(_CLEAR + row)
        for below in self._rows[self._row + 1 : last + 1]:
            self._text.append("\n" + below)
        self._row, self._shown = last, self._rows[last]
