"""Intervals and tests against SciPy's figures and published ones."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stellar_local.evaluate.statistics import mean_interval, ratio_interval, resample, sign_test, wilson


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    # R. G. Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_is_newcombe_s(right: int, total: int, low: float, high: float) -> None:
    assert wilson(right, total) == pytest.approx((low, high), abs=5e-5)


def test_wilson_at_the_ends() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 5)[0] == 0.0
    assert wilson(5, 5)[1] == 1.0
    low, high = wilson(5, 5)
    mirrored = wilson(0, 5)
    assert (1 - high, 1 - low) == pytest.approx(mirrored)


@pytest.mark.parametrize(
    ("wins", "losses", "p"),
    # scipy.stats.binomtest(wins, wins + losses).pvalue
    [(0, 0, 1.0), (5, 5, 1.0), (9, 1, 0.021484375), (12, 31, 0.005401572654591), (60, 40, 0.056887933640), (1, 0, 1.0)],
)
def test_sign_test_is_the_exact_binomial(wins: int, losses: int, p: float) -> None:
    assert sign_test(wins, losses) == pytest.approx(p, rel=1e-9)
    assert sign_test(losses, wins) == sign_test(wins, losses)


def test_sign_test_of_thousands() -> None:
    assert 0 < sign_test(5200, 4800) < 1e-4
    assert sign_test(5000, 5000) == 1.0


def test_mean_interval_covers() -> None:
    """Of 200 samples of 40 values about 95% have the true mean in their interval."""
    generator = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        mean, low, high = mean_interval(generator.normal(3.0, 2.0, 40).tolist())
        assert low <= mean <= high
        hits += low <= 3.0 <= high
    assert 178 <= hits <= 199


def test_intervals_are_the_same_each_time() -> None:
    values = [0.0, 1.0, 1.0, 3.0, 2.0]
    assert mean_interval(values) == mean_interval(values)
    assert mean_interval(values)[0] == 1.4


def test_ratio_interval_weighs_items() -> None:
    ratio, low, high = ratio_interval([10.0, 1.0, 2.0], [10.0, 4.0, 4.0])
    assert ratio == pytest.approx(13 / 18)
    assert 0.25 <= low < ratio < high <= 1.0
    with pytest.raises(ValueError, match="two numbers"):
        ratio_interval([1.0], [])


def test_nothing_gives_no_number() -> None:
    assert all(map(math.isnan, mean_interval([])))
    assert all(map(math.isnan, ratio_interval([0.0], [0.0])))
    assert all(map(math.isnan, resample(3, lambda drawn: np.full(len(drawn), np.nan))))
