"""The rows of a recipe's sources, each with its place, and what a source's filters leave of them.

Knows sources and filters; compares no row with another, but for those that are the same to the letter.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from stellar_local.console import one_line
from stellar_local.errors import UsageError
from stellar_local.files import require_file
from stellar_local.tables.language import language_of

from .. import corpus
from ..corpus import Triple
from ..likeness.forms import Form
from ..likeness.normal import normalise
from ..likeness.showing import shown
from .recipe import Source

DUPLICATE, LIMIT = "duplicate", "limit"  # reasons why a row is left out
_EXAMPLES = 100  # of each reason that the record names
_EXCERPT = 80  # characters


@dataclass(frozen=True)
class Row:
    """A triple with its source and place, and the form in which it is compared."""

    source: Source
    file: str
    line: int
    triple: Triple
    form: Form
    language: str
    asks: str = ""

    @property
    def question(self) -> str:
        """What is asked, normalised: as the row's file names it (`asks`), else instruction and input."""
        return self.asks or self.form.question

    @property
    def place(self) -> str:
        """Where it stands, as a person looks it up."""
        return f"{self.source.name} ({self.file}, line {self.line})"


@dataclass
class Removals:
    """What was left out: how many rows of each source for each reason, and examples of each reason."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def add(self, row: Row, reason: str, because: str = "") -> None:
        """One row goes; `because` names what it collides with."""
        self.counts[row.source.name, reason] += 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < _EXAMPLES:
            question = one_line(row.triple.instruction + " " + row.triple.input)[:_EXCERPT].strip()
            examples.append(
                {"source": row.source.name, "file": row.file, "line": row.line, "question": question}
                | ({"because": because} if because else {})
            )

    def totals(self) -> dict[str, int]:
        """How many rows went for each reason, the most frequent first."""
        totals: Counter[str] = Counter()
        for (_, reason), count in self.counts.items():
            totals[reason] += count
        return dict(totals.most_common())

    def of(self, source: str) -> dict[str, int]:
        """How many rows of one source went for each reason."""
        return {reason: count for (name, reason), count in self.counts.items() if name == source}


def read_source(source: Source, removals: Removals) -> tuple[list[Row], int]:
    """A source's rows that pass its filters, and how many it has.

    Raises StellarError for a broken row or a file that cannot be read, UsageError where no row is left.
    """
    rows: list[Row] = []
    read = 0
    for path in source.files:
        hint = "paths in a recipe are relative to the recipe" if source.given else "check the path"
        require_file(path, f"the source {source.name}", hint)
        located = corpus.located(path)
        for line, triple in shown(located, len(located), f"reading {path.name}"):
            read += 1
            text = f"{triple.instruction}\n{triple.input}\n{triple.output}"
            asks = normalise(triple.asks) if triple.asks else ""
            row = Row(source, path.name, line, triple, Form.of(triple), language_of(text), asks)
            if reason := _left_out(row, text):
                removals.add(row, reason)
            else:
                rows.append(row)
    if not rows:
        raise UsageError(
            f"no row of the source {source.name} passes its filters: {', '.join(removals.of(source.name))}",
            "change the filters or leave the source out",
        )
    return rows, read


def _left_out(row: Row, text: str) -> str:
    """The filter that a row does not pass; "" if it passes all."""
    source, length = row.source, len(row.triple.output)
    if source.languages and row.language not in source.languages:
        return "language"
    if length < source.min_chars:
        return "min_chars"
    if source.max_chars is not None and length > source.max_chars:
        return "max_chars"
    if not all(pattern.search(text) for pattern in source.contains):
        return "contains"
    if any(pattern.search(text) for pattern in source.excludes):
        return "excludes"
    return ""


def first_of_identical(rows: Iterable[Row], removals: Removals) -> list[Row]:
    """The rows without those that are the same, to the letter, as an earlier one."""
    seen: dict[Triple, Row] = {}
    kept = []
    for row in rows:
        first = seen.setdefault(row.triple, row)
        if first is row:
            kept.append(row)
        else:
            removals.add(row, DUPLICATE, first.place)
    return kept


def limited(rows: list[Row], seed: int, removals: Removals) -> list[Row]:
    """At most as many rows of each source as its limit allows, in their order.

    Each source has its own generator, so that a limit on one leaves the choice in another alone.
    """
    by_source: dict[str, list[Row]] = {}
    for row in rows:
        by_source.setdefault(row.source.name, []).append(row)
    kept: list[Row] = []
    for name, own in by_source.items():
        limit = own[0].source.limit
        if limit is not None and limit < len(own):
            chosen = random.Random(f"{seed} {name}").sample(own, limit)
            taken = set(map(id, chosen))
            for row in own:
                if id(row) not in taken:
                    removals.add(row, LIMIT)
            own = chosen
        kept += own
    return kept
