"""The loss curve of a training run as a PNG: each step, their mean, the evaluations and the learning rate.

Knows the measured numbers and matplotlib, which is imported when something is drawn; knows no logs' formats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from stellar_local.console import fitted, one_line
from stellar_local.errors import MissingExtraError
from stellar_local.files import atomic_file

from .legible import legible
from .logs import StepStats

_SIZE = (9.0, 5.0)  # inches
_DPI = 120
_MARKED = 40  # so many points or fewer are marked: a line of one point cannot be seen
_WIDEST = 200  # steps that a mean is taken over
_FAINT = "#b9d3e8"
_TITLE = 80  # columns


def draw(path_png: Path, steps: Sequence[StepStats], evaluations: Sequence[tuple[int, float]], title: str) -> None:
    """Draw a run's steps and its evaluations, (step, validation loss), into a PNG of 1080 × 600 pixels.

    Values that are not finite are left out, and the picture says how many. The file appears complete or not at all.
    Raises MissingExtraError without matplotlib, and StellarError where the file cannot be written.
    """
    try:
        import matplotlib.style
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError as error:
        raise MissingExtraError("train", "matplotlib", "drawing the loss curve") from error

    shown = [stats for stats in steps if math.isfinite(stats.loss)]
    checked = [(step, loss) for step, loss in evaluations if math.isfinite(loss)]
    rates = [(stats.step, stats.learning_rate) for stats in steps if math.isfinite(stats.learning_rate)]
    with matplotlib.style.context("default"):  # the user's own may ask for TeX
        figure = Figure(figsize=_SIZE, dpi=_DPI, layout="constrained")
        axes = figure.add_subplot()
        rate_axes = axes.twinx()
        axes.grid(alpha=0.25)
        if rates:
            rate_axes.plot(*zip(*rates, strict=True), color="C2", linestyle="--", linewidth=1, label="learning rate")
            rate_axes.set_ylim(bottom=0)
            rate_axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        window = max(1, min(len(shown) // 20, _WIDEST))
        numbers, losses = [stats.step for stats in shown], [stats.loss for stats in shown]
        if shown:
            marker = "." if len(shown) <= _MARKED else ""
            color = _FAINT if window > 1 else "C0"
            axes.plot(numbers, losses, color=color, linewidth=1, marker=marker, label="training, each step")
        if window > 1:
            label = f"training, mean of {window} steps"
            axes.plot(numbers, smoothed(shown, window), color="C0", linewidth=1.8, label=label)
        if checked:
            best_step, best = min(checked, key=lambda point: point[1])
            label = f"validation, best {best:.4g} at step {best_step}"
            marker = "o" if len(checked) <= _MARKED else ""
            axes.plot(*zip(*checked, strict=True), color="C3", marker=marker, markersize=5, label=label)
        if not shown and not checked:
            axes.text(0.5, 0.5, "no finite loss", transform=axes.transAxes, ha="center")
        epochs = f" (epochs: {steps[-1].epoch:.3g})" if steps else ""
        left_out = len(steps) - len(shown) + len(evaluations) - len(checked)
        axes.set_xlabel(f"step{epochs}" + (f"; not finite and left out: {left_out}" if left_out else ""))
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel("loss per learned token (nats)")
        rate_axes.set_ylabel("learning rate")
        lines = [*axes.get_lines(), *rate_axes.get_lines()]
        if lines:
            rate_axes.legend(handles=lines, loc="upper right", framealpha=0.9)
        text, family = legible(fitted(one_line(title), _TITLE))
        axes.set_title(text, family=family, parse_math=False)  # a name may hold a $
        with atomic_file(path_png) as temporary:
            figure.savefig(temporary, format="png")


def smoothed(steps: Sequence[StepStats], window: int) -> list[float]:
    """For each step the mean loss per learned token over it and the `window` - 1 before; fewer at the beginning."""
    means: list[float] = []
    total = learned = 0.0
    for index, stats in enumerate(steps):
        weight = max(stats.learned, 1)
        total, learned = total + stats.loss * weight, learned + weight
        if index >= window:
            gone = steps[index - window]
            total, learned = total - gone.loss * max(gone.learned, 1), learned - max(gone.learned, 1)
        means.append(total / learned)
    return means
