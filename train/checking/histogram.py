"""The lengths of all samples as a picture: one outline for each file, and the cutoff. Knows matplotlib alone.

The words are English; of a file's name what the fonts here can draw is shown, behind its number.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stellar_local.console import fitted, one_line
from stellar_local.errors import MissingExtraError
from stellar_local.files import atomic_file

from ..legible import legible

_BINS = 60
_LEGEND = 12  # files that are named; the others share one outline
_LABEL = 40  # columns of a file name
_STEEP = 50  # from this ratio between the highest and the lowest bar on, counts are drawn to a logarithmic scale


def require_matplotlib() -> None:
    """Raises MissingExtraError where it is not installed: asked before long work, not after."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("train", "matplotlib", "drawing a histogram") from error


def draw(path: Path, lengths: Sequence[tuple[str, Sequence[int]]], unit: str, cutoff: int | None) -> None:
    """Write a PNG of 1200 x 700 pixels; `lengths` are a file's name and its rows' lengths in `unit`.

    Files without rows are left out. Raises MissingExtraError, and StellarError where it cannot be written.
    """
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(12, 7), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    series = _series([(name, values) for name, values in lengths if values])
    longest = max((max(values) for _, values in series), default=1)
    right = max(longest, cutoff or 0) + 1
    highest, lowest = 0.0, float("inf")
    for number, (name, values) in enumerate(series):
        counts, _, _ = axes.hist(
            values,
            bins=_BINS,
            range=(0, right),
            histtype="step",
            linewidth=1.8,
            label=name,
            color=f"C{number % 10}",
            linestyle="-" if number < 10 else "--",
        )
        heights = [float(count) for count in counts if count]
        highest, lowest = max(highest, *heights, 0), min(lowest, *heights, highest or 1)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    if highest > _STEEP * lowest:
        axes.set_yscale("log")
    if cutoff is not None:
        axes.axvline(cutoff, color="black", linestyle=":", label=f"cutoff {cutoff:,}")
    axes.set_title("Length of the samples")
    axes.set_xlabel(f"{unit} (prompt and answer)")
    axes.set_ylabel("rows")
    if series or cutoff is not None:
        for text in axes.legend().get_texts():
            shown, family = legible(text.get_text())
            text.set(text=shown, family=family, parse_math=False)  # a $ in a file name is a $
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png")


def _series(lengths: list[tuple[str, Sequence[int]]]) -> list[tuple[str, Sequence[int]]]:
    """The outlines with labels that can be drawn."""
    # Behind a number: names may be drawn alike, and matplotlib leaves labels with a first underscore out.
    named = [
        (f"{number}: {fitted(one_line(name), _LABEL)}", values) for number, (name, values) in enumerate(lengths, 1)
    ]
    if len(named) <= _LEGEND:
        return named
    rest = [value for _, values in named[_LEGEND - 1 :] for value in values]
    return [*named[: _LEGEND - 1], (f"{len(named) - _LEGEND + 1} other files", rest)]
