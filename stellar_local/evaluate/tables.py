"""Figures as texts: a value with its interval, and models side by side. Knows metrics; draws nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..console import one_line
from .results import Metric, Summary

_NONE = "-"


def written(metric: Metric) -> str:
    """A figure and its interval, such as `62.5% (50.1 to 73.4)`, `1.234 (1.1 to 1.4)`."""
    if metric.kind == "text":
        return metric.text
    if metric.value is None or math.isnan(metric.value):
        return _NONE
    shown = number(metric.value, metric.kind)
    if metric.low is None or metric.high is None or math.isnan(metric.low):
        return shown
    low, high = (number(bound, metric.kind).removesuffix("%") for bound in (metric.low, metric.high))
    return f"{shown} ({low} to {high})"


def number(value: float, kind: str) -> str:
    """One number as its kind is written."""
    if kind == "share":
        return f"{100 * value:.1f}%"
    if kind == "count":
        return f"{value:,.0f}"
    if kind == "score":
        return f"{value:.1f}"
    if kind == "perplexity":
        return f"{value:,.2f}" if value < 1e6 else f"{value:.2e}"
    return f"{value:.4f}"


def title(metric: Metric) -> str:
    """What a figure is of: its group, its language and its name."""
    return one_line(" · ".join(filter(None, [metric.group, metric.language, metric.name])))


def compared(summaries: Sequence[Summary]) -> tuple[list[str], list[list[str]]]:
    """Headers and rows: one column for each model, one row for each figure that is not a detail."""
    own = [{(metric.group, metric.language, metric.name): metric for metric in one.metrics} for one in summaries]
    places = {
        (metric.group, metric.language, metric.name): metric
        for summary in summaries
        for metric in summary.metrics
        if not metric.detail
    }
    rows = []
    for place, sample in places.items():
        counts = {str(one[place].n) for one in own if place in one and one[place].n}
        cells = [written(one[place]) if place in one else _NONE for one in own]
        rows.append([title(sample), *cells, "/".join(sorted(counts)) or _NONE])
    return ["", *(summary.label for summary in summaries), "n"], rows
