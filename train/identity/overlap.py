"""How near two questions are: the measure that keeps held-out phrasings out of the training rows.

Knows questions as words and Chinese characters, without names, so that "are you Qwen" is as near to "Are you GPT-4?"
as can be. It is a stricter measure than `train.likeness` has, for few questions of a few words each: there a question
in other words is another one, here it must not be. Knows nothing of what they ask.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..likeness.normal import normalise, units

TOO_NEAR = 0.8
_NAME = "〇"  # a word of its own


@dataclass(frozen=True)
class Key:
    """A question made comparable: its words with a blank around each, and the pairs of neighbouring characters."""

    words: str
    pairs: frozenset[str]


class Measure:
    """Compares questions; `names` are those that do not make one question different from another."""

    def __init__(self, names: Iterable[str]) -> None:
        folded = sorted({normalise(name) for name in names}, key=len, reverse=True)
        edges = [
            rf"(?<![a-z0-9]){re.escape(name)}(?![a-z0-9])" if name.isascii() else re.escape(name) for name in folded
        ]
        self._names = re.compile("|".join(edges) or r"(?!)")

    def key(self, question: str) -> Key:
        """What is compared of a question. An apostrophe does not part a word."""
        text = normalise(question.replace("'", "").replace("’", ""))
        tokens = units(self._names.sub(f" {_NAME} ", text))
        joined = "".join(tokens)
        return Key(f" {' '.join(tokens)} ", frozenset(joined[at : at + 2] for at in range(len(joined) - 1)))


def too_near(one: Key, other: Key) -> bool:
    """Whether one question stands whole in the other, or their pairs have a Dice similarity of 0.8 or more."""
    if one.words in other.words or other.words in one.words:
        return True
    shared = len(one.pairs & other.pairs)
    return 2 * shared >= TOO_NEAR * (len(one.pairs) + len(other.pairs)) > 0


def nearest(question: Key, known: Sequence[Key]) -> int | None:
    """The place of the first known question that is too near, if any."""
    return next((place for place, key in enumerate(known) if too_near(question, key)), None)
