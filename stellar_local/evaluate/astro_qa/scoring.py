"""Points for answers by the published rules without their faults: see `official` for those. Knows no model and no file.

A multiple choice gives 2 points for all right letters, half a point for each of some, none once one is wrong; letters
named twice count once, and no answer gets more than the most. A matching question gives a share of its tuples, each
counted once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from .questions import Question

MOST = 2.0  # points of a multiple choice


def points(right: str, named: str) -> float:
    """The points of a multiple choice, 0 to 2; both are letters in any order."""
    wanted, got = set(right), set(named)
    if not got or got - wanted:
        return 0.0
    return MOST if got == wanted else min(0.5 * len(got), MOST)


def matched(right: Sequence[tuple[str, ...]], given: Sequence[tuple[str, ...]]) -> int:
    """How many of the right tuples are given; a tuple that is right once counts once."""
    return (Counter(right) & Counter(given)).total()


def expected(question: Question) -> str:
    """The right answer, for people."""
    if question.options:
        return "; ".join(f"{letter}. {question.options[letter]}" for letter in question.right)
    if question.pairs:
        return "\n".join(" — ".join(pair) for pair in question.pairs)
    if question.reference:
        return question.reference
    return {"zh": {"true": "对", "false": "错"}, "en": {"true": "true", "false": "false"}}[question.language][
        question.right
    ]
