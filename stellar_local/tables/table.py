"""A table of texts: a header and rows that know where they stood. Knows neither files nor what columns mean."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Line:
    """One row: where it stood (from 1), its cells without blanks around them, and what is wrong with it."""

    number: int
    cells: list[str]
    problem: str = ""


@dataclass(frozen=True)
class Table:
    """A header and the rows below it that are not empty; `name` is the sheet's, "" for a text file's only table."""

    name: str
    header: list[str]
    lines: list[Line]
    notes: list[str] = field(default_factory=list)

    def column(self, index: int) -> list[str]:
        """A column's cells from top to bottom."""
        return [cell(line, index) for line in self.lines]


def cell(line: Line, index: int | None) -> str:
    """A row's cell; "" where there is no such column or the row ends before it."""
    return line.cells[index] if index is not None and index < len(line.cells) else ""


def key(name: str) -> str:
    """A column's name as names are compared: "World Count", "world_count" and "Ｗorld count" are the same."""
    return "".join(char for char in unicodedata.normalize("NFKC", name).casefold() if char.isalnum())


def of_lines(name: str, lines: Iterable[Line], notes: Iterable[str] = ()) -> Table | None:
    """The table whose header is the first row that is not empty; None where all are."""
    kept = [line for line in lines if line.problem or any(line.cells)]
    if not kept:
        return None
    header = list(kept[0].cells)
    while header and not header[-1]:
        header.pop()
    return Table(name, header, kept[1:], list(notes))
