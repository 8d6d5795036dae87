"""Intervals and tests for small samples. Knows numbers only.

Everything random is seeded, so that the same measurements always give the same figures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

Z = 1.959963984540054  # the normal distribution's 97.5% point
LEVEL = 0.95
RESAMPLES = 2000
_SEED = 20260113
_MOST_CELLS = 1 << 22  # indices drawn at once, which bounds memory


def wilson(right: float, total: float, z: float = Z) -> tuple[float, float]:
    """The 95% score interval of a share (E. B. Wilson, 1927); (0, 1) of nothing. `right` need not be whole."""
    if total <= 0:
        return 0.0, 1.0
    share, square = right / total, z * z
    middle = share + square / (2 * total)
    half = z * math.sqrt(share * (1 - share) / total + square / (4 * total * total))
    low, high = (middle - half) / (1 + square / total), (middle + half) / (1 + square / total)
    # At 0 and 1 the bound is exact, but for rounding.
    return (0.0 if right <= 0 else max(low, 0.0)), (1.0 if right >= total else min(high, 1.0))


def resample(
    units: int,
    statistic: Callable[[npt.NDArray[np.intp]], npt.NDArray[np.float64]],
    level: float = LEVEL,
    resamples: int = RESAMPLES,
) -> tuple[float, float]:
    """The percentile bootstrap interval (B. Efron, 1979) of a statistic of `units` items.

    `statistic` is given indices of items, intp [resamples at once, units], drawn with replacement, and returns the
    statistic of each row, float64 [resamples at once]. Values that are no numbers (a ratio over nothing) are left out;
    (nan, nan) where all are, or with fewer than two items, which vary in nothing.
    """
    if units < 2:
        return math.nan, math.nan
    generator = np.random.default_rng(_SEED)
    at_once = max(1, min(resamples, _MOST_CELLS // units))
    found: list[npt.NDArray[np.float64]] = []
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        found.append(statistic(generator.integers(0, units, (rows, units))))
    values = np.concatenate(found)
    values = values[np.isfinite(values)]
    if not len(values):
        return math.nan, math.nan
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The mean and its 95% bootstrap interval; items are the units. (nan, nan, nan) of nothing."""
    array = np.asarray(values, np.float64)
    if not len(array):
        return math.nan, math.nan, math.nan
    return (float(array.mean()), *resample(len(array), lambda drawn: array[drawn].mean(axis=1)))


def ratio_interval(tops: Sequence[float], bottoms: Sequence[float]) -> tuple[float, float, float]:
    """The ratio of two sums over the same items, such as nats by tokens, and its 95% bootstrap interval."""
    top, bottom = np.asarray(tops, np.float64), np.asarray(bottoms, np.float64)
    if len(top) != len(bottom):
        raise ValueError("a ratio needs two numbers an item")
    if not bottom.sum():
        return math.nan, math.nan, math.nan

    def ratios(drawn: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
        with np.errstate(divide="ignore", invalid="ignore"):
            found: npt.NDArray[np.float64] = top[drawn].sum(axis=1) / bottom[drawn].sum(axis=1)
        return found

    return (float(top.sum() / bottom.sum()), *resample(len(top), ratios))


def sign_test(wins: int, losses: int) -> float:
    """The probability of a split at least as uneven as this, if both were equally likely: two-sided, exact; ties left
    out. 1 where nothing was won or lost.
    """
    total, fewer = wins + losses, min(wins, losses)
    if not total:
        return 1.0
    tail = way = 1  # ways to lose none, and then one more and one more
    for losses_so_far in range(fewer):
        way = way * (total - losses_so_far) // (losses_so_far + 1)
        tail += way
    return min(1.0, float(2 * tail / 2**total))  # whole numbers until the division: exact however many there are
