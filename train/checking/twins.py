"""Rows that say what an earlier row says, found in one pass: equal, equal but for form, the same question, alike.

Likeness is found by MinHash and bands of it (locality-sensitive hashing) and then counted truly. A pair at the
threshold is missed about once in a hundred. Memory grows by what a row's normalised text takes and about 2 KB.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..corpus import Triple
from .findings import CONFLICT, DUPLICATE, NEAR
from .normal import likeness, numbers, squeezed

THRESHOLD = 0.85  # of the likeness of two questions and of their answers
_BANDS, _ROWS = 12, 7  # 1 - (1 - 0.85^7)^12 = 99%
_BUCKET = 8  # rows that one band's value leads to: texts of one pattern would otherwise all be compared
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(32)


@dataclass(frozen=True)
class Twin:
    """What a row has in common with an earlier one, whose key this is."""

    kind: str
    earlier: int
    detail: str


class Twins:
    """Rows seen so far."""

    def __init__(self) -> None:
        # An affine function of 32-bit hashes for each place of a sketch.
        generator = np.random.default_rng(1)
        self._factors = generator.integers(2**31, size=_BANDS * _ROWS, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
        self._offsets = generator.integers(2**32, size=_BANDS * _ROWS, dtype=np.uint32)
        self._exact: dict[int, int] = {}
        self._pairs: dict[int, int] = {}
        self._questions: dict[int, int] = {}
        self._buckets: dict[int, tuple[int, ...]] = {}
        self._texts: dict[int, tuple[str, str]] = {}

    def add(self, key: int, row: Triple, question: str, answer: str) -> Twin | None:
        """Remember a row under a new key; returns the nearest kind of twin among the earlier ones, if any.

        `question` (instruction and input) and `answer` are normalised.
        """
        first = self._exact.setdefault(hash(row), key)
        if first != key:
            return Twin(DUPLICATE, first, "")
        first = self._pairs.setdefault(hash((question, answer)), key)
        if first != key:
            return Twin(NEAR, first, "the same but for case, white space and punctuation")
        asked = self._questions.setdefault(hash(question), key)
        near = self._near(key, question, answer)
        if near is None and asked != key:
            return Twin(CONFLICT, asked, "")
        return near

    def _near(self, key: int, question: str, answer: str) -> Twin | None:
        bands = self._bands(question, answer)
        buckets = [self._buckets.get(band, ()) for band in bands]
        found = None
        for other in sorted({one for bucket in buckets for one in bucket}):
            asked, answered = self._texts[other]
            alike = min(likeness(asked, question), likeness(answered, answer))
            if alike >= THRESHOLD:
                found = Twin(NEAR, other, f"{alike:.0%} alike")
                break
        for band, bucket in zip(bands, buckets, strict=True):
            if len(bucket) < _BUCKET:
                self._buckets[band] = (*bucket, key)
                self._texts[key] = (question, answer)
        return found

    def _bands(self, question: str, answer: str) -> list[int]:
        """The bands' values; rows with other numbers share none, since another number is another problem."""
        pieces = np.concatenate([_pieces(question, 1), _pieces(answer, 2)])
        sketch = (pieces[:, None] * self._factors + self._offsets).min(axis=0)
        figures = (numbers(question), numbers(answer))
        return [hash((at, sketch[at : at + _ROWS].tobytes(), figures)) for at in range(0, len(sketch), _ROWS)]


def _pieces(normal: str, part: int) -> npt.NDArray[np.uint32]:
    """32-bit hashes of `shingles`; those of another part of the row are others."""
    text, size = squeezed(normal)
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32).astype(np.uint64)
    count = len(codes) - size + 1
    total = np.full(count, part, np.uint64)
    for at in range(size):
        total = total * _FACTOR + codes[at : at + count]
    total ^= total >> np.uint64(29)
    hashes: npt.NDArray[np.uint32] = (total * _FACTOR >> _HALF).astype(np.uint32)
    return hashes
