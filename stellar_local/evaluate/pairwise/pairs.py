"""Two models' answers to one question, side by side: what every judge is shown. Knows nothing of judges."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from ...errors import StellarError
from .questions import Question

Reply = tuple[str, ...] | StellarError  # an answer for each turn, or why there is none
Replies = Mapping[str, Reply]  # by the questions' keys


@dataclass(frozen=True)
class Pair:
    """A question and both models' answers, one for each turn; an answer may be empty."""

    question: Question
    a: tuple[str, ...]
    b: tuple[str, ...]

    @cached_property
    def digest(self) -> str:
        """What a judgement is bound to: another answer is another pair."""
        content = json.dumps([self.question.turns, self.a, self.b], ensure_ascii=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @property
    def same(self) -> bool:
        """Whether both models said the same, so that nobody need judge."""
        return [text.strip() for text in self.a] == [text.strip() for text in self.b]


def paired(questions: Sequence[Question], a: Replies, b: Replies) -> tuple[list[Pair], dict[str, StellarError]]:
    """The pairs of the questions that both models answered, in order; and of the others, by their keys, why not."""
    pairs: list[Pair] = []
    missing: dict[str, StellarError] = {}
    for question in questions:
        one, other = a[question.key], b[question.key]
        if isinstance(one, StellarError):
            missing[question.key] = one
        elif isinstance(other, StellarError):
            missing[question.key] = other
        else:
            pairs.append(Pair(question, one, other))
    return pairs, missing
