"""The loss curve: what the picture's pixels show, and that nothing spoils it or the file before it."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stellar_local.errors import MissingExtraError, StellarError
from train.curve import draw, smoothed
from train.logs import StepStats

BLUE, RED, GREEN = (0x1F, 0x77, 0xB4), (0xD6, 0x27, 0x28), (0x2C, 0xA0, 0x2C)  # matplotlib's C0, C3 and C2


def run(losses: Sequence[float], rate: float = 1e-4) -> list[StepStats]:
    return [StepStats(n, n / 10, loss, rate, 1.0, 900, 100 + n, 0.5, 0) for n, loss in enumerate(losses, 1)]


def pixels(path: Path) -> np.ndarray:
    """The picture as uint8[height, width, 3]."""
    from matplotlib.image import imread

    return np.asarray(imread(path) * 255).round().astype(np.uint8)[:, :, :3]


def places(picture: np.ndarray, color: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pixels of about this colour inside the axes, the legend left out."""
    near = (np.abs(picture.astype(int) - color) < 60).all(axis=2)
    near[:35] = near[540:] = near[:, :70] = near[:, 1000:] = False
    near[:170, 550:] = False
    return np.nonzero(near)


def test_a_falling_loss_falls_in_the_picture(tmp_path: Path) -> None:
    steps = run(np.linspace(3, 1, 200))
    steps = [replace(stats, learning_rate=1e-4 * stats.step) for stats in steps]
    draw(tmp_path / "loss.png", steps, [(50, 2.9), (100, 2.0), (150, 1.4)], "StellarSpeak")
    picture = pixels(tmp_path / "loss.png")
    assert picture.shape == (600, 1080, 3)
    for color, falls in ((BLUE, True), (RED, True), (GREEN, False)):
        rows, columns = places(picture, color)
        left, right = rows[columns < np.median(columns)], rows[columns > np.median(columns)]
        assert len(left) > 50 and len(right) > 50
        assert (left.mean() + 40 < right.mean()) == falls  # rows are counted from above


def test_only_what_was_measured_is_drawn(tmp_path: Path) -> None:
    draw(tmp_path / "loss.png", run([2.0, 1.0], rate=math.nan), [], "")
    picture = pixels(tmp_path / "loss.png")
    assert len(places(picture, BLUE)[0]) > 50
    assert not len(places(picture, RED)[0])
    assert not len(places(picture, GREEN)[0])
    draw(tmp_path / "loss.png", [], [(1, 2.0), (2, 1.0)], "")
    picture = pixels(tmp_path / "loss.png")
    assert not len(places(picture, BLUE)[0])
    assert len(places(picture, RED)[0]) > 50


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_left_out_and_counted(bad: float, tmp_path: Path) -> None:
    steps, evaluations = run([3.0, 2.0, bad, 1.5, 1.2]), [(2, 2.5), (4, 2.0)]
    draw(tmp_path / "good.png", [stats for stats in steps if stats.step != 3], evaluations, "")
    draw(tmp_path / "bad.png", steps, [*evaluations, (5, bad)], "")
    one, other = pixels(tmp_path / "good.png"), pixels(tmp_path / "bad.png")
    for color in (BLUE, RED):
        assert len(places(one, color)[0]) > 50
        assert np.array_equal(places(one, color), places(other, color))
    assert not np.array_equal(one[560:], other[560:])  # the label below says how many


@pytest.mark.parametrize("steps", [[], run([math.nan])])
def test_a_run_without_any_loss_has_a_picture_that_says_so(steps: list[StepStats], tmp_path: Path) -> None:
    draw(tmp_path / "loss.png", steps, [], "empty")
    picture = pixels(tmp_path / "loss.png")
    assert not len(places(picture, BLUE)[0])
    assert picture[280:320, 450:600].min() < 64  # the words in the middle


def test_a_single_step_is_a_point(tmp_path: Path) -> None:
    draw(tmp_path / "loss.png", run([2.0]), [], "")
    picture = pixels(tmp_path / "loss.png")
    assert 5 < len(places(picture, BLUE)[0]) < 100


def test_long_runs_are_drawn(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(2, 0.5, 150_000)
    draw(tmp_path / "loss.png", run(noise.tolist()), [], "")
    assert len(places(pixels(tmp_path / "loss.png"), BLUE)[0]) > 1000


@pytest.mark.parametrize("window", [1, 3, 7, 50])
def test_the_mean_is_that_of_the_learned_tokens(window: int) -> None:
    steps = run(np.random.default_rng(1).normal(2, 1, 40).tolist())
    losses, weights = np.array([s.loss for s in steps]), np.array([s.learned for s in steps])
    expected = [
        np.average(losses[max(0, n - window + 1) : n + 1], weights=weights[max(0, n - window + 1) : n + 1])
        for n in range(40)
    ]
    assert smoothed(steps, window) == pytest.approx(expected, rel=1e-12)


def test_titles_are_text_and_nothing_else(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a glyph that no font has is warned of
        for number, title in enumerate(["星语者 𠮷 $x_1$ {}", "two\nlines\x1b[2J", "long " * 100, r"$\frac{$", ""]):
            draw(tmp_path / f"{number}.png", run([2.0, 1.0]), [], title)
    pictures = [pixels(tmp_path / f"{number}.png") for number in range(5)]
    assert pictures[0][:30, :900].min() < 64
    assert pictures[4][:20, :900].min() == 255  # further right is the unit of the learning rate
    assert pictures[2][:30, :40].min() == pictures[2][:30, -40:].min() == 255  # it does not run out of the picture


def test_the_users_own_style_changes_nothing(tmp_path: Path) -> None:
    import matplotlib

    draw(tmp_path / "plain.png", run([3.0, 2.0, 1.0]), [(2, 1.5)], "x")
    with matplotlib.rc_context({"text.usetex": True, "axes.facecolor": "black", "savefig.dpi": 30}):
        draw(tmp_path / "styled.png", run([3.0, 2.0, 1.0]), [(2, 1.5)], "x")
        assert matplotlib.rcParams["axes.facecolor"] == "black"
    assert (tmp_path / "styled.png").read_bytes() == (tmp_path / "plain.png").read_bytes()


def test_a_picture_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="no limits on files here")
    target = tmp_path / "loss.png"
    draw(target, run([3.0, 2.0]), [], "")
    before = target.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(StellarError, match=r"cannot write .*loss.png"):
            draw(target, run([3.0, 2.0, 1.0]), [], "")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert target.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["loss.png"]
    with pytest.raises(StellarError, match="no such file or directory"):
        draw(tmp_path / "nowhere" / "loss.png", run([3.0]), [], "")


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.style", None)
    with pytest.raises(MissingExtraError, match="drawing the loss curve needs the package matplotlib") as caught:
        draw(tmp_path / "loss.png", run([3.0]), [], "")
    assert "stellar-local[train]" in caught.value.hint
    assert not (tmp_path / "loss.png").exists()
