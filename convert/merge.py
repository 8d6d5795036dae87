"""Merging: float32 rows of a base tensor plus each adapter's weighted change of them, block by block.

Summed in float32 and rounded once, when a level is written. Knows checkpoints and adapters; knows nothing of GGUF.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from .adapter import Adapter, whole
from .checkpoint import Checkpoint

BLOCK = 16 << 20  # weights per block: 64 MiB of float32


def blocks(rows: int, columns: int, multiple: int = 1) -> Iterator[tuple[int, int]]:
    """Cut rows into ranges of at most BLOCK weights, each a whole number of `multiple` rows (one at least)."""
    step = max(1, BLOCK // (columns * multiple)) * multiple
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


class Merger:
    """A base and weighted adapters, seen as one checkpoint of float32 rows."""

    def __init__(self, base: Checkpoint, adapters: Sequence[tuple[Adapter, float]]) -> None:
        self._base, self._adapters = base, adapters

    def changes(self, name: str) -> bool:
        """Whether any adapter changes this tensor."""
        return any(name in adapter.pairs for adapter, _ in self._adapters)

    def blocks(self, name: str, rows: int, columns: int, multiple: int = 1) -> Iterator[NDArray[np.float32]]:
        """The tensor's merged rows in order, float32 [n, columns] of at most 64 MiB. Raises ModelError."""
        pairs = [(adapter.pairs[name], weight) for adapter, weight in self._adapters if name in adapter.pairs]
        halves = [(whole(pair.a), whole(pair.b) * np.float32(weight * pair.scale)) for pair, weight in pairs]
        vector = len(self._base.source(name).shape) == 1  # a vector is one row of a table
        for start, stop in blocks(rows, columns, multiple):
            if vector:
                yield self._base.rows(name, 0, columns).reshape(1, columns)
                return
            merged = self._base.rows(name, start, stop)
            for a, scaled in halves:
                merged += scaled[start:stop] @ a
            yield merged
