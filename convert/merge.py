"""Merging: float32 rows of a base tensor plus each adapter's weighted change of them, block by block.

Summed in float32 and rounded once, when a level is written. Knows checkpoints and adapters; knows nothing of GGUF.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .adapter import Adapter, whole
from .checkpoint import Checkpoint
from .llama import Shape


class Merger:
    """A base and weighted adapters, seen as one checkpoint of float32 rows."""

    def __init__(self, base: Checkpoint, shape: Shape, adapters: Sequence[tuple[Adapter, float]]) -> None:
        self._base, self.shape, self._adapters = base, shape, adapters

    def rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Merged rows, float32 [stop - start, columns]; a vector is one row. Raises ModelError."""
        source = self._base.source(name)
        if len(source.shape) == 1:
            return self._base.rows(name, 0, source.shape[0]).reshape(1, -1)
        merged = self._base.rows(name, start, stop)
        for adapter, weight in self._adapters:
            if name in adapter.pairs:
                pair = adapter.pairs[name]
                merged += (pair.b.read(start, stop) * np.float32(weight * pair.scale)) @ whole(pair.a)
        return merged
