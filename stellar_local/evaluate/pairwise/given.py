"""Answers that were made elsewhere: a file of `stellar batch`, of FastChat (model_answer), of this command, or any JSON
lines with an id and a text. Knows forms of files; runs no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...console import say
from ...errors import RequestError, StellarError
from ..json_rows import BrokenRowError, read_rows
from .pairs import Reply
from .questions import Question, identifier, texts_of

SUFFIXES = (".jsonl", ".json", ".ndjson")
_FIELDS = ("answers", "turns", "text", "answer", "output")
_HINT = 'give JSON lines such as {"question_id": 1, "text": "…"}, a "turns" list for several turns'


def is_answers(path: Path) -> bool:
    """Whether A or B names a file of answers, and no model."""
    return path.suffix.lower() in SUFFIXES


def read_answers(path: Path, questions: Sequence[Question]) -> dict[str, Reply]:
    """The answers to all questions by their keys; for those that the file lacks, why there is none.

    A row belongs to the question with its key or its id; rows that `stellar batch` numbered belong to the questions by
    their order, if there are no others. Raises StellarError for a file that cannot be read or fits no question.
    """
    known = {question.key for question in questions}
    rows, _ = read_rows(path, "answers file", _HINT, _answer)
    given = [row for row in rows if row is not None]
    found = {id: reply for id, _, reply in given}
    numbered = bool(given) and all(id == str(index) for id, index, _ in given)
    by_order = numbered and len({question.key.rpartition(":")[0] for question in questions}) == 1
    if by_order:
        say(f"{path}: its ids are line numbers, so its answers go to the questions in their order")
    replies: dict[str, Reply] = {}
    for question in questions:
        own = str(question.position) if by_order else question.key if question.key in found else question.id
        replies[question.key] = _fitting(found.get(own), question, path)
    if all(isinstance(reply, StellarError) for reply in replies.values()):
        raise StellarError(f"{path} answers none of the {len(known)} questions", "its ids must be those of --questions")
    return replies


def _answer(row: dict[str, Any]) -> tuple[str, Any, Reply] | None:
    """A row as its id, its index and its answer; None for the header of a log."""
    if "stellar_eval" in row:
        return None
    id = row["key"] if isinstance(row.get("key"), str) else identifier(row)
    if id is None:
        raise BrokenRowError("it has no id: question_id or id")
    if isinstance(error := row.get("error"), dict):
        return id, row.get("index"), RequestError("no_answer", str(error.get("message", "it failed")))
    choices = row.get("choices")  # FastChat's: several tries, each with its turns
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        row = choices[0]
    name = next((name for name in _FIELDS if row.get(name) is not None), None)
    if name is None:
        raise BrokenRowError(f"it has no answer: one of {', '.join(_FIELDS)}, choices")
    return id, row.get("index"), texts_of(row[name], name)


def _fitting(reply: Reply | None, question: Question, path: Path) -> Reply:
    if reply is None:
        return RequestError("no_answer", f"{path.name} has no answer to it")
    if isinstance(reply, tuple) and len(reply) != len(question.turns):
        return RequestError("no_answer", f"{path.name} has {len(reply)} answers for {len(question.turns)} turns")
    return reply
