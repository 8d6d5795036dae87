"""What a report is made of, whatever it is written as: sections of tables, charts, examples and text.

Plain data. All texts are as they were found: whoever writes them escapes them.
"""

from __future__ import annotations

from dataclasses import dataclass

NO_SERIES = -1


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, a smaller note below, the full text for whoever points at it.

    `mark` is "best" or "worse" where the report judges the value; `series` is the number of the model, which has a
    colour in all charts; `code` is for names of files, hashes and the like.
    """

    text: str
    note: str = ""
    mark: str = ""
    title: str = ""
    series: int = NO_SERIES
    code: bool = False


@dataclass(frozen=True)
class Row:
    """A row of a table: the cell that names it, and the others."""

    head: Cell
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Rows:
    """Rows that belong together, below a title where there is one."""

    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Table:
    """A table; `head` names the columns, the first of them that of the rows' names.

    A `folded` table is hidden below its caption until a reader opens it, where that can be done.
    """

    caption: str
    head: tuple[Cell, ...]
    parts: tuple[Rows, ...]
    folded: bool = False


@dataclass(frozen=True)
class Scale:
    """An axis: what it shows, from where to where, and its ticks with their texts."""

    title: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]

    def share(self, value: float) -> float:
        """Where a value lies on the axis: 0 at its beginning, 1 at its end; values beyond it are at its ends."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))


@dataclass(frozen=True)
class Bar:
    """One bar: the model's name, its number among the models, the value, its interval, and both as text."""

    label: str
    series: int
    value: float
    low: float | None
    high: float | None
    text: str
    interval: str


@dataclass(frozen=True)
class Bars:
    """Bars in groups, each with a title."""

    caption: str
    scale: Scale
    groups: tuple[tuple[str, tuple[Bar, ...]], ...]


@dataclass(frozen=True)
class Point:
    """One model in a plane; `low` and `high` are the interval of `y`."""

    label: str
    series: int
    x: float
    y: float
    low: float | None
    high: float | None
    text: str


@dataclass(frozen=True)
class Points:
    """One point a model: what it reaches against what it costs."""

    caption: str
    across: Scale
    up: Scale
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Charts:
    """Charts side by side where there is room."""

    charts: tuple[Bars | Points, ...]


@dataclass(frozen=True)
class Answer:
    """What models said, all the same: each by its name and its number.

    `verdict` is "right", "wrong", "error" or "" (not judged so), `told` the same in words.
    """

    models: tuple[tuple[str, int], ...]
    verdict: str
    told: str
    text: str
    note: str = ""


@dataclass(frozen=True)
class Example:
    """One question with the answers of all models; `language` is that of the item, where it is known."""

    title: str
    question: str
    expected: str
    answers: tuple[Answer, ...]
    language: str = ""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Items:
    """A list of short texts; `warning` where they are what a reader must know before trusting the figures."""

    texts: tuple[str, ...]
    warning: bool = False


@dataclass(frozen=True)
class Code:
    """Text to copy, such as commands."""

    text: str


@dataclass(frozen=True)
class Heading:
    """A heading within a section."""

    text: str


Block = Table | Charts | Example | Text | Items | Code | Heading


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading of its own, which the list of contents leads to."""

    id: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Page:
    """A whole report. `facts` are a few short ones for its top."""

    title: str
    language: str
    facts: tuple[str, ...]
    sections: tuple[Section, ...]
    end: str
