"""How alike two rows' texts are: Jaccard's measure of the runs of characters in them that are not mere form.

A text's pieces are its runs of characters, 3 where most of it is Chinese and 5 elsewhere: about two words in both, and
long enough that any two long texts are not alike. Pieces that stand in more than 100 rows and in two of a thousand are
form, such as an instruction that a whole task shares, and do not count: else all rows of such a task would be alike.
What is form hangs on the rows that are counted, once and for all: those that later go make nothing else of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from .normal import is_ideographic

_FORM_ROWS, _FORM_SHARE = 100, 0.002
_BUCKETS = 22  # bits: pieces are counted in 4 million buckets, so that memory does not grow with them
_REMEMBERED = 10_000  # texts, a few KB each
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
    total *= _FACTOR
    return _distinct(total)


def all_pieces(texts: Texts) -> Pieces:
    """The pieces of all texts of a row, place by place."""
    return np.concatenate([pieces(text, place) for place, text in enumerate(texts)])


class Likeness:
    """Compares rows' texts by the pieces that are not form; all rows are counted first.

    `telling` gives the pieces of a text in a place that are not form, `whole` all of them; both remember the last ones
    they were asked for.
    """

    def __init__(self) -> None:
        self._rows = 0
        self._counts = np.zeros(1 << _BUCKETS, np.uint32)
        self.telling: Callable[[str, int], Pieces] = lru_cache(_REMEMBERED)(self._telling)
        self.whole: Callable[[str, int], Pieces] = lru_cache(_REMEMBERED)(pieces)

    def count(self, texts: Texts) -> None:
        """Take notice of which pieces a row has."""
        self._rows += 1
        self._counts[_distinct(_bucket(all_pieces(texts)))] += 1

    def _telling(self, text: str, place: int) -> Pieces:
        own = pieces(text, place)
        rare = self._counts[_bucket(own)] <= max(_FORM_ROWS, _FORM_SHARE * self._rows)
        kept: Pieces = own[rare]
        return kept

    def all_telling(self, texts: Texts) -> Pieces:
        """The telling pieces of all texts of a row; all its pieces where none is."""
        every = np.concatenate([self._telling(text, place) for place, text in enumerate(texts)])
        return every if len(every) else all_pieces(texts)

    def degree(self, one: Texts, other: Texts, least: float = 0.0) -> float:
        """How alike two rows are, 0 to 1: of each text and its counterpart the share of pieces that both have, of all
        that the two have, and of these shares the smallest. A text that is nothing but form counts with all of it.
        What is below `least` is 0, and sooner found.
        """
        smallest = 1.0
        for place, (first, second) in enumerate(zip(one, other, strict=True)):
            if first != second:
                smallest = min(smallest, self._share(first, second, place, least))
                if smallest < least:
                    return 0.0
        return smallest

    def _share(self, first: str, second: str, place: int, least: float) -> float:
        one, other = self.telling(first, place), self.telling(second, place)
        if not (len(one) and len(other)):
            one, other = self.whole(first, place), self.whole(second, place)
        fewer, more = sorted((len(one), len(other)))
        if not fewer or fewer < least * more:
            return 0.0
        both = np.concatenate([one, other])
        both.sort(kind="stable")  # two runs that are sorted already are merged
        shared = int(np.count_nonzero(both[1:] == both[:-1]))
        return shared / (fewer + more - shared)


def _distinct(hashes: Pieces) -> Pieces:
    """Sorted in place, each once: twice as fast as np.unique where there are few."""
    hashes.sort()
    first = np.ones(len(hashes), bool)
    np.not_equal(hashes[1:], hashes[:-1], out=first[1:])
    once: Pieces = hashes[first]
    return once


def _bucket(every: Pieces) -> Pieces:
    buckets: Pieces = every >> np.uint64(64 - _BUCKETS)
    return buckets
