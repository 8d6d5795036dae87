"""Quantizing a block of rows to several types at once, on all cores: ctypes frees the GIL while ggml works.

Rows are independent, so the cut into pieces changes no byte. Knows arrays and threads; knows no file.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from stellar_local.native import ggml
from stellar_local.native.ggml import GgmlType

_PIECE = 1 << 18  # weights per task: small enough to share out evenly, large enough to be worth a hand-over


class Quantizer:
    """A pool of threads; a context manager."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(max_workers=max(1, threads), thread_name_prefix="quantize")

    def __enter__(self) -> Quantizer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def run(self, rows: NDArray[np.float32], types: Iterable[GgmlType]) -> dict[GgmlType, list[NDArray[np.uint8]]]:
        """Quantize float32 [n, columns] to each type: pieces uint8 [m, row bytes] in order. Raises ModelError."""
        step = max(1, _PIECE // rows.shape[1])
        starts = range(0, rows.shape[0], step)
        tasks = {
            type: [self._pool.submit(ggml.quantize, type, rows[start : start + step]) for start in starts]
            for type in dict.fromkeys(types)
        }
        return {type: [piece.result() for piece in pieces] for type, pieces in tasks.items()}
