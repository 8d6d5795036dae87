"""Texts that are nearly the same are found among many: MinHash and locality-sensitive hashing, then a true count.

A text's pieces are its runs of characters, 3 where most of it is Chinese and 5 elsewhere: about two words in both, and
long enough that any two long texts are not alike. Pieces that stand in more than 100 rows and in two of a thousand are
form, such as an instruction that a whole task shares, and do not count: else all rows of such a task would be alike.

The hashing only proposes; what it proposes is compared piece by piece. It misses one pair in a hundred at the
threshold itself, and fewer above. Memory grows by about 4 KB a row, time is nearly proportional to the rows.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from stellar_local.errors import MissingExtraError

from .normal import is_ideographic

_HASHES = 128  # of a sketch, at most
_MISSED = 0.01  # the share of pairs at the threshold that may be missed
_FORM_ROWS, _FORM_SHARE = 100, 0.002
_BUCKETS = 22  # bits: pieces are counted in 4 million buckets, so that memory does not grow with them
_REMEMBERED = 2000  # texts, a few KB each
_FACTOR = np.uint64(0x9E3779B97F4A7C15)

Texts = Sequence[str]  # of one row: texts in the same place are compared with each other
Pieces = npt.NDArray[np.uint64]


def pieces(normal: str, place: int = 0) -> Pieces:
    """64-bit hashes of a normalised text's pieces, sorted, each once, the same in every process; of another place,
    others. An empty text has none.
    """
    if not normal:
        return np.empty(0, np.uint64)
    size = 3 if is_ideographic(normal) else 5
    codes = np.frombuffer(f" {normal} ".ljust(size).encode("utf-32-le"), np.uint32).astype(np.uint64)
    count = len(codes) - size + 1
    total = np.full(count, place + 1, np.uint64)
    for at in range(size):
        total = total * _FACTOR + codes[at : at + count]
    total ^= total >> np.uint64(29)
    return np.unique(total * _FACTOR)


def bands(threshold: float) -> tuple[int, int]:
    """How a sketch is cut into (bands, hashes in each): as long as possible, so that little is compared in vain, but so
    that a pair at the threshold shares a band with a probability of 99%: 1 - (1 - t^hashes)^bands.
    """
    for hashes in range(_HASHES // 2, 1, -1):
        needed = math.ceil(math.log(_MISSED) / math.log1p(-(threshold**hashes)))
        if needed * hashes <= _HASHES:
            return needed, hashes
    return _HASHES, 1


class Likeness:
    """Compares rows' texts by the pieces that are not form; all rows are counted first.

    `telling` gives the pieces of a text in a place that are not form; it remembers the last ones it was asked for.
    """

    def __init__(self) -> None:
        self._rows = 0
        self._counts = np.zeros(1 << _BUCKETS, np.uint32)
        self.telling: Callable[[str, int], Pieces] = lru_cache(_REMEMBERED)(self._telling)

    def count(self, texts: Texts) -> None:
        """Take notice of which pieces a row has."""
        self._rows += 1
        every = np.concatenate([pieces(text, place) for place, text in enumerate(texts)])
        self._counts[np.unique(_bucket(every))] += 1

    def _telling(self, text: str, place: int) -> Pieces:
        own = pieces(text, place)
        rare = self._counts[_bucket(own)] <= max(_FORM_ROWS, _FORM_SHARE * self._rows)
        kept: Pieces = own[rare]
        return kept

    def reached(self, one: Texts, other: Texts, threshold: float) -> bool:
        """Whether every text has at least so many pieces in common with its counterpart, of all that the two have
        (Jaccard's measure). A text that is nothing but form counts with all of it.
        """
        return all(
            first == second or self._alike(first, second, place, threshold)
            for place, (first, second) in enumerate(zip(one, other, strict=True))
        )

    def _alike(self, first: str, second: str, place: int, threshold: float) -> bool:
        one, other = self.telling(first, place), self.telling(second, place)
        if not (len(one) and len(other)):
            one, other = pieces(first, place), pieces(second, place)
        shared = len(np.intersect1d(one, other, assume_unique=True))
        return bool(shared >= threshold * (len(one) + len(other) - shared))


def _bucket(every: Pieces) -> Pieces:
    buckets: Pieces = every >> np.uint64(64 - _BUCKETS)
    return buckets


class Index:
    """What was added can be asked for by likeness. Raises MissingExtraError where datasketch is not installed."""

    def __init__(self, threshold: float, likeness: Likeness) -> None:
        try:
            from datasketch import MinHash, MinHashLSH
        except ImportError as error:
            raise MissingExtraError("train", "datasketch", "finding near duplicates") from error
        self._likeness = likeness
        count, hashes = bands(threshold)
        # The scheme is named because sketches of another one differ: the same recipe must give the same file.
        self._empty = MinHash(num_perm=count * hashes, seed=1, scheme="affine32", hashfunc=int)
        self._table = MinHashLSH(num_perm=count * hashes, params=(count, hashes), hashfunc=_short)

    def sketch(self, texts: Texts) -> Any:
        """The sketch of a row's texts together: where each is like its counterpart, so is the whole."""
        every = np.concatenate([self._likeness.telling(text, place) for place, text in enumerate(texts)])
        if not len(every):
            every = np.concatenate([pieces(text, place) for place, text in enumerate(texts)])
        sketch = self._empty.copy()
        sketch.update_batch((every & np.uint64(0xFFFFFFFF)).tolist())
        return sketch

    def candidates(self, sketch: Any) -> list[int]:
        """The keys of what may be alike, lowest first."""
        return sorted(self._table.query(sketch))

    def add(self, key: int, sketch: Any) -> None:
        """Let a sketch be found under a key that is new."""
        self._table.insert(key, sketch, check_duplication=False)


def _short(band: bytes) -> bytes:
    """A band's key, shortened: it is kept once for each row and band."""
    return hashlib.blake2b(band, digest_size=8).digest()
