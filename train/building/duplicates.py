"""Rows that say what an earlier row says are left out: the same but for form, the same question, nearly the same.

Knows rows and what may not stand beside what; the first of several always stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .normal import numbers
from .rows import DUPLICATE, Removals, Row
from .showing import shown
from .similar import Index, Likeness

SAME_QUESTION = "another answer to the same question"
NEAR = "near duplicate"
IN_VALIDATION = "its question is in validation already"
LIKE_VALIDATION = "near a question of validation"
_COMPARED = 100  # candidates for one row at most, the latest ones: rows made from one pattern must not take for ever


def unique_questions(rows: Sequence[Row], removals: Removals) -> list[Row]:
    """For validation: one row for each question."""
    seen: dict[str, Row] = {}
    kept = []
    for row in rows:
        first = seen.setdefault(row.question, row)
        if first is row:
            kept.append(row)
        else:
            removals.add(row, IN_VALIDATION, first.place)
    return kept


@dataclass(frozen=True)
class Near:
    """What is near: texts that are at least `threshold` alike by `likeness`, which knows all rows that are compared."""

    threshold: float
    likeness: Likeness


def near_by(threshold: float | None, rows: Sequence[Row]) -> Near | None:
    """The measure for these rows; None where nothing but the same is to be found."""
    if threshold is None:
        return None
    near = Near(threshold, Likeness())
    for row in shown(rows, len(rows), "counting what is common"):
        near.likeness.count(_whole(row))
    return near


def apart_from(validation: Sequence[Row], rows: Sequence[Row], near: Near | None, removals: Removals) -> list[Row]:
    """For training: rows whose question is none of validation's, nor near one (instruction and input both at least
    `near` alike), whatever the answer.
    """
    asked = {row.question: row for row in validation}
    twins = _Twins(near) if near is not None else None
    if twins is not None:
        for row in validation:
            twins.add(row, _question(row))
    kept = []
    for row in shown(rows, len(rows), "comparing with validation"):
        twin = asked.get(row.question) or (twins.find(_question(row)) if twins is not None else None)
        if twin is None:
            kept.append(row)
        else:
            removals.add(row, LIKE_VALIDATION, twin.place)
    return kept


def without_similar(rows: Sequence[Row], near: Near | None, same_question: str, removals: Removals) -> list[Row]:
    """For training: rows without duplicates that differ in form (`normalise`), without further answers to a question
    (unless `same_question` is "all"), and without near duplicates: instruction, input and answer each at least `near`
    alike, and the same numbers in all, since another number is another problem.

    Rows of a source with `keep_similar` all stay, but later rows of others are compared with them.
    """
    twins = _Twins(near) if near is not None else None
    pairs: dict[tuple[str, str], Row] = {}
    questions: dict[str, Row] = {}
    kept = []
    for row in shown(rows, len(rows), "comparing rows"):
        if not row.source.keep_similar:
            if first := pairs.get((row.question, row.answer)):
                removals.add(row, DUPLICATE, first.place)
                continue
            if same_question == "first" and (first := questions.get(row.question)):
                removals.add(row, SAME_QUESTION, first.place)
                continue
            if twins is not None and (first := twins.find(_whole(row), same_numbers=True)):
                removals.add(row, NEAR, first.place)
                continue
        if twins is not None:
            twins.add(row, _whole(row))
        pairs.setdefault((row.question, row.answer), row)
        questions.setdefault(row.question, row)
        kept.append(row)
    return kept


def _question(row: Row) -> tuple[str, ...]:
    return row.instruction, row.input


def _whole(row: Row) -> tuple[str, ...]:
    return row.instruction, row.input, row.answer


class _Twins:
    """Rows that were added, found again by texts that are near to theirs."""

    def __init__(self, near: Near) -> None:
        self._near = near
        self._index = Index(near.threshold, near.likeness)
        self._rows: list[tuple[Row, tuple[str, ...]]] = []
        self._sketched: tuple[tuple[str, ...], Any] = ((), None)

    def _sketch(self, texts: tuple[str, ...]) -> Any:
        """A row is looked for and then added: the sketch is made once."""
        if self._sketched[0] != texts:
            self._sketched = (texts, self._index.sketch(texts))
        return self._sketched[1]

    def add(self, row: Row, texts: tuple[str, ...]) -> None:
        self._index.add(len(self._rows), self._sketch(texts))
        self._rows.append((row, texts))

    def find(self, texts: tuple[str, ...], same_numbers: bool = False) -> Row | None:
        own = [numbers(text) for text in texts] if same_numbers else []
        for key in self._index.candidates(self._sketch(texts))[-_COMPARED:]:
            row, others = self._rows[key]
            # Cheapest test first: in rows made from one pattern the numbers differ.
            if same_numbers and own != [numbers(text) for text in others]:
                continue
            if self._near.likeness.reached(texts, others, self._near.threshold):
                return row
        return None
