"""Rows that may not stand beside others are left out: of evaluation sets, of validation, and what is said twice.

Knows rows, sources and reasons; what is alike, and what overlaps, is for `train.likeness`.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..likeness.duplicates import NEAR as ALIKE
from ..likeness.duplicates import SAME, Near, Rules, counted, repeats
from ..likeness.duplicates import SAME_QUESTION as OTHER_ANSWER
from ..likeness.overlap import Evaluation
from ..likeness.showing import shown
from .rows import DUPLICATE, Removals, Row

EVALUATION = "in an evaluation set"
SAME_QUESTION = "another answer to the same question"
NEAR = "near duplicate"
IN_VALIDATION = "its question is in validation already"
LIKE_VALIDATION = "near a question of validation"
_REASONS = {SAME: DUPLICATE, OTHER_ANSWER: SAME_QUESTION, ALIKE: NEAR}


def without_overlap(rows: Sequence[Row], evaluation: Evaluation, removals: Removals) -> list[Row]:
    """The rows that share nothing with the evaluation sets."""
    kept = []
    for row in shown(rows, len(rows), "comparing with evaluation sets"):
        if overlap := evaluation.overlap(row.triple, row.form):
            removals.add(row, EVALUATION, overlap)
        else:
            kept.append(row)
    return kept


def unique_questions(rows: Sequence[Row], removals: Removals) -> list[Row]:
    """For validation: one row for each question. What is merely near stays: it is held out by its own hash, whatever
    other sources say.
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


def apart_from(validation: Sequence[Row], rows: Sequence[Row], near: float | None, removals: Removals) -> list[Row]:
    """For training: rows whose question is none of validation's, nor near one (instruction and input both at least
    `near` alike), whatever the answer.
    """
    asked = {row.question: row for row in validation}
    count, index = len(validation), None
    if near is not None:
        questions = [row.form.asked for row in [*validation, *rows]]
        index = Near(near, questions, counted(questions), of_questions=count)
        for item in range(count):
            index.add(item)
    kept = []
    for item, row in enumerate(shown(rows, len(rows), "comparing with validation"), count):
        twin = asked.get(row.question)
        if twin is None and index is not None and (found := index.find(item)):
            twin = validation[found[0]]
        if twin is None:
            kept.append(row)
        else:
            removals.add(row, LIKE_VALIDATION, twin.place)
    return kept


def without_similar(rows: Sequence[Row], near: float | None, same_question: str, removals: Removals) -> list[Row]:
    """For training: rows without duplicates that differ in form, without further answers to a question (unless
    `same_question` is "all"), and without near duplicates.

    Rows of a source with `keep_similar` all stay, but later rows of others are compared with them.
    """
    rules = Rules(near, same_question == "first")
    found = repeats([row.form for row in rows], rules, [row.source.keep_similar for row in rows])
    for repeat in found:
        removals.add(rows[repeat.row], _REASONS[repeat.kind], rows[repeat.first].place)
    gone = {repeat.row for repeat in found}
    return [row for item, row in enumerate(rows) if item not in gone]
