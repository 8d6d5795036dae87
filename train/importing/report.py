"""What an import did, counted: for people on stderr, and as JSON. Knows no format."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stellar_local.console import one_line, say
from stellar_local.errors import StellarError

from .outcome import Outcome

_NAMED = 10  # rows of each reason that are named for people; JSON names all


@dataclass
class Part:
    """What became of one file, or of one sheet of a workbook.

    Each of its `rows` was either `used` or is in `left_out`: (row, reason, how many rows of a sheet it spans). `notes`
    count what of used rows was left out; `remarks` are on the whole file.
    """

    path: Path
    format: str
    sheet: str = ""
    language: str = ""
    unit: str = "line"  # what rows are numbered by: lines of a text, rows of a sheet
    rows: int = 0
    used: int = 0
    triples: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    remarks: list[str] = field(default_factory=list)
    left_out: list[tuple[int, str, int]] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """Count what became of a row."""
        self.rows += outcome.rows
        if outcome.triples:
            self.used += outcome.rows
            self.triples += len(outcome.triples)
            self.kinds[outcome.kind] += 1
            self.notes.update(outcome.notes)
        else:
            self.left_out.append((outcome.line, outcome.reason, outcome.rows))

    @property
    def name(self) -> str:
        """The file, with the sheet where it has several."""
        return f"{self.path}, sheet {self.sheet}" if self.sheet else str(self.path)

    def show(self) -> None:
        """Say it on stderr."""
        what = ", ".join(filter(None, [self.format or " and ".join(self.kinds) or "JSON", self.language]))
        say(one_line(f"{self.name} ({what}): {self.rows} rows → {self.triples} triples"))
        for remark in self.remarks:
            say(f"  {remark}")
        for note, count in self.notes.most_common():
            say(f"  {count} × {note}")
        for reason, rows in self._reasons().items():
            count = sum(spans for _, spans in rows)
            named = ", ".join(str(number) for number, _ in rows[:_NAMED]) + (", …" if len(rows) > _NAMED else "")
            say(one_line(f"  {count} left out: {reason} ({self.unit}{'s' if len(rows) > 1 else ''} {named})"))

    def _reasons(self) -> dict[str, list[tuple[int, int]]]:
        reasons: dict[str, list[tuple[int, int]]] = {}
        for number, reason, spans in self.left_out:
            reasons.setdefault(reason, []).append((number, spans))
        return reasons

    def as_json(self) -> dict[str, Any]:
        """The part as JSON holds it."""
        return {
            "path": str(self.path),
            "sheet": self.sheet or None,
            "format": self.format or "JSON",
            "language": self.language or None,
            "rows": self.rows,
            "used": self.used,
            "triples": self.triples,
            "kinds": dict(self.kinds),
            "notes": dict(self.notes),
            "remarks": self.remarks,
            "left_out": [{self.unit: number, "reason": why, "rows": spans} for number, why, spans in self.left_out],
        }


@dataclass
class Report:
    """What an import did; `out` is None where nothing was written."""

    out: Path | None = None
    parts: list[Part] = field(default_factory=list)

    @property
    def triples(self) -> int:
        """How many triples there are."""
        return sum(part.triples for part in self.parts)

    @property
    def left_out(self) -> int:
        """How many rows gave no triple."""
        return sum(part.rows - part.used for part in self.parts)

    def first(self) -> str:
        """The first row that was left out, by its place, with the reason."""
        part = next(part for part in self.parts if part.left_out)
        number, reason, _ = part.left_out[0]
        return f"{part.name}, {part.unit} {number}: {reason}"

    def as_json(self) -> dict[str, Any]:
        """The report as JSON holds it."""
        return {
            "out": str(self.out) if self.out else None,
            "rows": sum(part.rows for part in self.parts),
            "triples": self.triples,
            "left_out": self.left_out,
            "files": [part.as_json() for part in self.parts],
        }


class NothingImported(StellarError):
    """An import that wrote nothing because of its rows; `report` says which."""

    def __init__(self, message: str, hint: str, report: Report) -> None:
        super().__init__(message, hint)
        self.report = report
