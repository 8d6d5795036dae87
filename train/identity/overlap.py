"""How near two questions are: the measure that keeps held-out phrasings out of the training rows.

Knows questions as words and Chinese characters, without case, punctuation and names, so that "are you Qwen" is as
near to "Are you GPT-4?" as can be. Knows nothing of what they ask.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

TOO_NEAR = 0.8
_NAME = "□"
_TOKEN = re.compile(rf"{_NAME}|[\u3400-\u9fff\uf900-\ufaff]|[^\W_\u3400-\u9fff\uf900-\ufaff]+")


@dataclass(frozen=True)
class Key:
    """A question made comparable: its words with a blank around each, and the pairs of neighbouring characters."""

    words: str
    pairs: frozenset[str]


class Measure:
    """Compares questions; `names` are those that do not make one question different from another."""

    def __init__(self, names: Iterable[str]) -> None:
        folded = sorted({_folded(name) for name in names}, key=len, reverse=True)
        edges = [
            rf"(?<![a-z0-9]){re.escape(name)}(?![a-z0-9])" if name.isascii() else re.escape(name) for name in folded
        ]
        self._names = re.compile("|".join(edges) or r"(?!)")

    def key(self, question: str) -> Key:
        """What is compared of a question. An apostrophe does not part a word."""
        text = self._names.sub(_NAME, _folded(question)).replace("'", "").replace("’", "")
        tokens = _TOKEN.findall(text)
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


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()
