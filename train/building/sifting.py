"""Rows that may not stand beside others are left out: beside evaluation sets, validation, and what is said twice.

Knows rows, sources and reasons; what is alike, and what overlaps, is for `train.likeness`.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..likeness.duplicates import NEAR as ALIKE
from ..likeness.duplicates import SAME, Near, Rules, repeats
from ..likeness.duplicates import SAME_QUESTION as OTHER_ANSWER
from ..likeness.overlap import Evaluation, Meeting
from ..likeness.showing import shown
from ..likeness.similar import Likeness
from .rows import DUPLICATE, Removals, Row

EVALUATION = "in an evaluation set"
SAME_QUESTION = "another answer to the same question"
NEAR = "near duplicate"
IN_VALIDATION = "its question is in validation already"
LIKE_VALIDATION = "near a question of validation"
OVERLAPS_VALIDATION = "shares a run of words with validation"
_REASONS = {SAME: DUPLICATE, OTHER_ANSWER: SAME_QUESTION, ALIKE: NEAR}


class Barrier:
    """What keeps rows out that overlap with an evaluation set, as `stellar data check` would find them. What is form
    hangs on which rows there are: so those that are left can be asked about again, and are looked up but once.
    """

    def __init__(self, evaluation: Evaluation, reason: str) -> None:
        self._evaluation, self._reason = evaluation, reason
        self._meetings: dict[int, Meeting] = {}  # by the rows' identity: all are read before any is compared

    def passed(self, rows: Sequence[Row], removals: Removals) -> list[Row]:
        """The rows that share nothing with the evaluation set, where there are no others."""
        new = [row for row in rows if id(row) not in self._meetings]
        for row in shown(new, len(new), "comparing with evaluation sets"):
            self._meetings[id(row)] = self._evaluation.meeting(row.triple, row.form)
        found = self._evaluation.overlaps([self._meetings[id(row)] for row in rows], [row.form for row in rows])
        kept = []
        for row, overlap in zip(rows, found, strict=True):
            if overlap:
                removals.add(row, self._reason, overlap)
            else:
                kept.append(row)
        return kept


def unique_questions(rows: Sequence[Row], removals: Removals) -> list[Row]:
    """For validation: one row for each question, in one phrasing. What is merely near stays: it is held out by its own
    hash, whatever other sources say.
    """
    seen: dict[str, Row] = {}
    kept = []
    for row in rows:
        first = seen.setdefault(row.question, row)
        if first is row:
            kept.append(row)
        else:
            removals.add(row, IN_VALIDATION, first.place)
    return kept


def apart_from(
    validation: Sequence[Row], rows: Sequence[Row], near: float | None, likeness: Likeness | None, removals: Removals
) -> list[Row]:
    """For training: rows whose question is none of validation's, nor near one (instruction and input both at least
    `near` alike), whatever the answer.
    """
    asked = {row.form.question: row for row in validation} | {row.question: row for row in validation}
    count, index = len(validation), None
    if near is not None and likeness is not None:
        questions = [row.form.asked for row in [*validation, *rows]]
        index = Near(near, questions, likeness, of_questions=count)
        for item in range(count):
            index.add(item)
    kept = []
    for item, row in enumerate(shown(rows, len(rows), "comparing with validation"), count):
        twin = asked.get(row.question) or asked.get(row.form.question)
        if twin is None and index is not None and (found := index.find(item)):
            twin = validation[found[0]]
        if twin is None:
            kept.append(row)
        else:
            removals.add(row, LIKE_VALIDATION, twin.place)
    return kept


def without_similar(
    rows: Sequence[Row], near: float | None, same_question: str, removals: Removals, likeness: Likeness | None = None
) -> list[Row]:
    """For training: rows without duplicates that differ in form, without further answers to a question (unless
    `same_question` is "all"), and without near duplicates.

    Rows of a source with `keep_similar` all stay, but later rows of others are compared with them.
    """
    rules = Rules(near, same_question == "first")
    found = repeats([row.form for row in rows], rules, [row.source.keep_similar for row in rows], likeness)
    for repeat in found:
        removals.add(rows[repeat.row], _REASONS[repeat.kind], rows[repeat.first].place)
    gone = {repeat.row for repeat in found}
    return [row for item, row in enumerate(rows) if item not in gone]
