"""What may be alike is found among many: MinHash sketches, cut into bands; who shares a band is a candidate.

A pair at the threshold is missed once in a hundred, one above it less often. Which pairs are compared hangs on the
items alone, not on their order nor on the process: a second look at the same items finds the same, whatever they were
shuffled. Knows hashes of pieces; knows no texts. Memory is about 750 bytes an item.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_HASHES = 128  # of a sketch, at most
_MISSED = 0.01  # the share of pairs at the threshold that may be missed
_CROWD = 32  # items that share a band, from which on only so many of them are compared with all: else time explodes
_CLOSEST = 32  # others that one item is truly compared with: rows of one pattern look promising by the hundred
_CHUNK = 4096  # pieces that are hashed at once, so that a text of any length takes little memory
_TOP = np.uint64(32)

_DOUBT = 3  # standard deviations that a sketch may be below the threshold: one pair in a thousand is further off

Hashes = npt.NDArray[np.uint64]
Sketches = npt.NDArray[np.uint32]


def bands(threshold: float) -> tuple[int, int]:
    """How a sketch is cut into (bands, hashes in each): as long as possible, so that little is compared in vain, but so
    that a pair at the threshold shares a band with a probability of 99%: 1 - (1 - t^hashes)^bands.
    """
    for hashes in range(_HASHES // 2, 1, -1):
        needed = math.ceil(math.log(_MISSED) / math.log1p(-(threshold**hashes)))
        if needed * hashes <= _HASHES:
            return needed, hashes
    return _HASHES, 1


class Sketcher:
    """Hashes of pieces to sketches, and these to the keys of their bands: the same in every process and NumPy."""

    def __init__(self, threshold: float) -> None:
        self.bands, self._hashes = bands(threshold)
        self.size = size = self.bands * self._hashes
        self._least = threshold - _DOUBT * math.sqrt(threshold * (1 - threshold) / size)
        drawn = np.frombuffer(hashlib.shake_128(b"stellar").digest(16 * size), np.uint64)
        # An affine function of 32-bit hashes for each place of a sketch; odd factors lose nothing.
        self._factors = (drawn[:size] >> _TOP).astype(np.uint32) | np.uint32(1)
        self._offsets = drawn[:size].astype(np.uint32)
        self._mixers = drawn[size:].reshape(self.bands, self._hashes) | np.uint64(1)

    def sketch(self, pieces: Hashes) -> Sketches:
        """The sketch of at least one piece."""
        top = (pieces >> _TOP).astype(np.uint32)
        sketch = np.full(len(self._factors), 0xFFFFFFFF, np.uint32)
        for at in range(0, len(top), _CHUNK):
            hashed = top[at : at + _CHUNK, None] * self._factors + self._offsets
            np.minimum(sketch, hashed.min(axis=0), out=sketch)
        return sketch

    def keys(self, sketch: Sketches, apart: bytes = b"") -> Hashes:
        """The keys of a sketch's bands. Items that differ in `apart` share none."""
        keys: Hashes = (sketch.reshape(self.bands, self._hashes) * self._mixers).sum(axis=1, dtype=np.uint64)
        if apart:
            keys ^= np.uint64(int.from_bytes(hashlib.blake2b(apart, digest_size=8).digest(), "little"))
        return keys

    def promising(self, sketch: Sketches, others: Sketches) -> npt.NDArray[np.intp]:
        """Which of the other sketches agree with this one so far that their pieces may be at the threshold, in their
        order; of very many those that agree most.
        """
        agree = (others == sketch).mean(axis=1)
        found = np.flatnonzero(agree >= self._least)
        if len(found) > _CLOSEST:
            found = np.sort(found[np.argsort(-agree[found], kind="stable")[:_CLOSEST]])
        return found


class Neighbours:
    """Items, by number, that may be alike: `of` gives those that were added and share a band with one.

    Only the first `known` items are ever added. `among`: there are no other items than these. In a crowd each is
    compared with the same few; which, their keys say.
    """

    def __init__(self, keys: Hashes, known: int | None = None, among: Sequence[int] | None = None) -> None:
        count, width = keys.shape
        known = count if known is None else known
        there = np.arange(count) if among is None else np.asarray(among, np.int64)
        self._crowds: dict[int, int] = {}  # that are greater than _CROWD: bucket → how many were added
        self._central = np.zeros((count, width), bool)  # the few of a crowd
        self._buckets = np.full((count, width), -1, np.int32)  # -1: no other item has this key
        marks = keys.sum(axis=1, dtype=np.uint64)
        number = 0
        for band in range(width):
            order = there[np.argsort(keys[there, band], kind="stable")]
            ordered = keys[order, band]
            begins = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(there) else np.empty(0, np.int64)
            sizes = np.diff(np.r_[begins, len(there)])
            for begin, size in zip(begins[sizes > 1].tolist(), sizes[sizes > 1].tolist(), strict=True):
                members = order[begin : begin + size]
                self._buckets[members, band] = number
                own = members[members < known]
                if len(own) > _CROWD:
                    self._crowds[number] = 0
                    # By value, so that equal marks are in or out together.
                    last = np.partition(marks[own], _CROWD - 1)[_CROWD - 1]
                    self._central[own, band] = marks[own] <= last
                number += 1
        self._added: dict[int, list[int]] = {}
        self._added_central: dict[int, list[int]] = {}

    def add(self, item: int) -> None:
        """Let an item be found."""
        for band in np.flatnonzero(self._buckets[item] >= 0).tolist():
            bucket = int(self._buckets[item, band])
            self._added.setdefault(bucket, []).append(item)
            if self._central[item, band]:
                self._added_central.setdefault(bucket, []).append(item)

    def of(self, item: int) -> Sequence[int]:
        """The items that are to be compared with this one, lowest first."""
        found: set[int] = set()
        for band in np.flatnonzero(self._buckets[item] >= 0).tolist():
            bucket = int(self._buckets[item, band])
            few = bucket in self._crowds and not self._central[item, band]
            found.update((self._added_central if few else self._added).get(bucket, ()))
        return sorted(found)
