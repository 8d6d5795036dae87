"""Tables and charts of figures: one column or mark a model. Knows comparisons; knows nothing of how they are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...texts import Texts
from ..results import Metric
from .blocks import Bar, Bars, Cell, Point, Points, Row, Rows, Scale, Table
from .collected import Model, Run
from .comparison import Comparison, Line, Models
from .wording import interval_text, known, language_name, name, nice_ticks, unit, value_text

MOST_ROWS = 12  # of one metric in a table that is not folded, and of groups in a chart


@dataclass(frozen=True)
class Figures:
    """Writes the figures of one report's models in one language."""

    models: Models
    texts: Texts

    def heads(self, models: Sequence[Model]) -> tuple[Cell, ...]:
        """Cells with the models' names and colours."""
        return tuple(Cell(self.models.name(one), series=self.models.index(one)) for one in models)

    def metric(self, line: Line) -> str:
        """A metric's name in the page's language."""
        return known(self.texts, "metric", line.name)

    def items(self, line: Line) -> str:
        """Of which items a line is: its group and language, or all."""
        parts = (known(self.texts, "group", part) for part in line.group.split(": ") if part)
        group = (": " if self.texts.language == "en" else "：").join(parts)
        language = language_name(self.texts, line.language) if line.language else ""
        return " · ".join(filter(None, [group, language])) or self.texts("report.all")

    def better(self, line: Line) -> str:
        """Which way is better, in words."""
        keys = {"higher": self.texts("report.higher"), "lower": self.texts("report.lower")}
        return keys.get(line.better, "")

    def titled(self, line: Line) -> str:
        """A metric's name and of which items it is, where not of all."""
        return " · ".join([self.metric(line), *([self.items(line)] if line.group or line.language else [])])

    def directed(self, line: Line) -> str:
        """A metric's name and which way is better."""
        metric, better = self.metric(line), self.better(line)
        if not better:
            return metric
        return f"{metric} ({better})" if self.texts.language == "en" else f"{metric}（{better}）"

    def table(self, caption: str, lines: Sequence[Line], runs: Sequence[Run], folded: bool = False) -> Table:
        """A row a line, a column a model; lines of one metric together."""
        by_metric: dict[str, list[Line]] = {}
        for line in lines:
            by_metric.setdefault(line.name, []).append(line)
        parts = []
        for rows in by_metric.values():
            if len(rows) == 1:
                parts.append(Rows("", (self.row(self.head(rows[0]), rows[0]),)))
            else:
                shown = tuple(self.row(Cell(self.items(line)), line) for line in rows)
                parts.append(Rows(self.directed(rows[0]), shown))
        columns = (Cell(self.texts("report.figure")), Cell("n"), *self.heads([run.model for run in runs]))
        return Table(caption, columns, tuple(parts), folded)

    def head(self, line: Line) -> Cell:
        """The name of a row that stands alone."""
        return Cell(self.titled(line), note=self.better(line))

    def row(self, head: Cell, line: Line) -> Row:
        """A line's values with their intervals; the number of items once, where it is the same for all models."""
        counts = {one.n for one in line.values if one is not None and one.n > 0}
        shared = len(counts) == 1
        cells = [self._value(one, line, mark, not shared) for one, mark in zip(line.values, line.marks, strict=True)]
        return Row(head, (Cell(f"{counts.pop():,}" if shared else ""), *cells))

    def _value(self, metric: Metric | None, line: Line, mark: str, counted: bool) -> Cell:
        if metric is None:
            return Cell("–")
        if line.kind == "text":
            return Cell(name(metric.text) or "–")
        interval = interval_text(metric.low, metric.high, line.kind)
        count = f"n {metric.n:,}" if counted and metric.n > 0 else ""
        return Cell(value_text(metric.value, line.kind), " · ".join(filter(None, [interval, count])), mark)

    def bars(self, headline: Line, comparison: Comparison) -> Bars | None:
        """A metric's values for all items, then for each language and group, unless those are too many to look at."""
        lines = [line for line in comparison.lines if line.name == headline.name and line.kind == headline.kind]
        lines = [line for line in lines if not line.detail] or lines
        if len(lines) > MOST_ROWS:
            lines = [line for line in lines if not line.group] or [headline]
        groups = [(self.items(line) if len(lines) > 1 else "", self._bars(line, comparison)) for line in lines]
        groups = [(title, bars) for title, bars in groups if bars]
        ends = [end for _, bars in groups for bar in bars for end in (bar.value, bar.low, bar.high) if end is not None]
        if not ends:
            return None
        caption = self.directed(headline)
        return Bars(caption, _scale("", headline.kind, min(0.0, *ends), max(0.0, *ends)), tuple(groups))

    def _bars(self, line: Line, comparison: Comparison) -> tuple[Bar, ...]:
        return tuple(
            Bar(
                self.models.name(run.model),
                self.models.index(run.model),
                one.value,
                one.low,
                one.high,
                value_text(one.value, line.kind),
                interval_text(one.low, one.high, line.kind),
            )
            for run, one in zip(comparison.runs, line.values, strict=True)
            if one is not None and one.value is not None
        )

    def plane(self, line: Line, comparison: Comparison, cost: str) -> Points | None:
        """A metric against "size" (GiB) or "speed" (tokens a second); None for fewer than two models that have both."""
        found = []
        for run, one in zip(comparison.runs, line.values, strict=True):
            size = run.model.bytes / (1 << 30) if run.model.bytes else None
            x = size if cost == "size" else run.speed
            if one is not None and one.value is not None and x is not None:
                label, index = self.models.name(run.model), self.models.index(run.model)
                told = f"{label}: {value_text(one.value, line.kind)}"
                if interval := interval_text(one.low, one.high, line.kind):
                    told += f" [{interval}]"
                told += f", {x:.2f} GiB" if cost == "size" else f", {x:.1f} {self.texts('report.tokens_per_second')}"
                found.append(Point(label, index, x, one.value, one.low, one.high, told))
        if len(found) < 2:
            return None
        metric = self.titled(line)
        caption = (
            self.texts("report.against_size", metric=metric)
            if cost == "size"
            else self.texts("report.against_speed", metric=metric)
        )
        title = self.texts("report.size_axis") if cost == "size" else self.texts("report.speed_axis")
        ends = [end for one in found for end in (one.y, one.low, one.high) if end is not None]
        up = _scale(self.better(line), line.kind, min(ends), max(ends))
        across = _scale(title, "plain", 0.0, max(one.x for one in found))
        return Points(caption, across, up, tuple(found))


def _scale(title: str, kind: str, low: float, high: float) -> Scale:
    """An axis with round ticks, which are written with no more digits than they need."""
    factor = 100 if kind == "share" else 1
    ticks = nice_ticks(low * factor, high * factor)
    digits = next((some for some in range(6) if all(abs(round(one, some) - one) < 1e-9 for one in ticks)), 6)
    texts = [f"{one:,.{digits}f}".replace("-", "−") + unit(kind) for one in ticks]
    places = [one / factor for one in ticks]
    return Scale(title, places[0], places[-1], tuple(zip(places, texts, strict=True)))
