"""One question of Astro-QA's sheets → what is asked and what is right. Knows each kind's cells; knows no columns.

Nothing is made up: a question whose sheet gives no answer is Unusable, and so is one whose answer cannot be told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from . import answers
from .unusable import Unusable

_COUNT_SLACK = 0.1  # a stated length further off than this share is not asked for


@dataclass(frozen=True)
class Choice:
    """A question's options by their letters, those that the sheet leaves empty left out; and the right letters."""

    options: dict[str, str]
    right: str


@dataclass(frozen=True)
class Matching:
    """Groups of items, in the sheet's order, and the tuples of one item of each group that belong together."""

    groups: list[list[str]]
    pairs: list[tuple[str, ...]]


@dataclass(frozen=True)
class Free:
    """A question answered in free text. `count` is the answer's length as the sheet states it, "" where it does not."""

    is_term: bool
    count: str


def choice(question: str, options: Sequence[str], answer: str) -> Choice:
    """A question with options A, B and so on, of which one or several are right. Raises Unusable."""
    _asked(question)
    if answers.lost_dates(options):
        raise Unusable("the options are dates that Excel turned into numbers")
    right = answers.letters(answer, options)
    lettered = {chr(65 + place): text for place, text in enumerate(options) if text}
    if len(lettered) < 2:
        raise Unusable("fewer than two options")
    return Choice(lettered, right)


def judgment(question: str, answer: str) -> bool:
    """Whether a statement is true. Raises Unusable."""
    _asked(question)
    if not answer:
        raise Unusable("no answer")
    true = answers.verdict(answer)
    if true is None:
        raise Unusable("the answer is neither true nor false")
    return true


def matching(rows: Sequence[Sequence[str]], given: Sequence[str]) -> Matching:
    """Groups to be paired: `rows` are the lines of one question, each with an item of each group in no order.

    `given` are their answer cells. Raises Unusable.
    """
    groups = [[item for item in column if item] for column in zip(*rows, strict=True)]
    groups = [group for group in groups if group]
    if len(groups) < 2:
        raise Unusable("fewer than two groups")
    return Matching(groups, answers.pairs(given, groups))


def free(question: str, answer: str, type: str, count: str) -> Free:
    """A term to explain or a question to answer freely. Raises Unusable."""
    _asked(question)
    if not answer:
        raise Unusable("no answer")
    whole = count.isdecimal() and len(count) < 10  # isdigit would take ② and ²
    holds = whole and abs(int(count) - len(answer)) <= _COUNT_SLACK * len(answer)
    is_term = any(word in type.casefold() for word in ("名词", "术语", "term"))
    return Free(is_term, count if holds else "")


def _asked(question: str) -> None:
    if not question:
        raise Unusable("no question")
