"""Whether two tensors hold the same numbers, seen through the rounding that a checkpoint goes through on its way.

A base that was published in bfloat16, loaded in float16 and saved in float32 is still that base: its numbers agree
once both sides are rounded to one of the types that it was in. Knows sources of rows; knows no model.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .safetensors import RowSource, from_float32, spans


def same_numbers(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    """Whether two float32 arrays are equal, or equal after both are rounded to float16 or to bfloat16."""
    if one.shape != other.shape:
        return False
    if np.array_equal(one, other):
        return True
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return False
    with np.errstate(over="ignore"):
        if np.array_equal(one.astype(np.float16), other.astype(np.float16)):
            return True
    return np.array_equal(from_float32(one, "BF16"), from_float32(other, "BF16"))


def same_rows(one: RowSource, other: RowSource) -> bool:
    """Whether the first rows of two tensors, as many as the shorter one has, hold the same numbers."""
    count = min(one.shape[0], other.shape[0])
    return one.shape[1:] == other.shape[1:] and all(
        same_numbers(one.read(start, stop), other.read(start, stop)) for start, stop in spans((count, *one.shape[1:]))
    )


def is_zero(source: RowSource) -> bool:
    """Whether every number of a tensor is zero."""
    return not any(source.read(start, stop).any() for start, stop in spans(source.shape))


def is_finite(source: RowSource) -> bool:
    """Whether a tensor holds neither NaN nor infinity."""
    return all(bool(np.isfinite(source.read(start, stop)).all()) for start, stop in spans(source.shape))
