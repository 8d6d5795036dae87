"""A report's first sections: the models, the results at a glance, quality against size and speed."""

from __future__ import annotations

from collections.abc import Sequence

from ...texts import Texts
from .blocks import Block, Cell, Charts, Items, Row, Rows, Section, Table, Text
from .collected import Model, Run
from .comparison import DIVERGENCE, Comparison, Models
from .figures import Figures
from .wording import count_text, known, size_text

_PLANES = 2  # of one metric: a language each, or with and without a system line


def title_of(comparison: Comparison, texts: Texts) -> str:
    """A task's name, with its number where there are several comparisons of it."""
    title = known(texts, "task", comparison.task)
    return f"{title} ({comparison.number})" if comparison.number else title


def models_section(models: Models, comparisons: Sequence[Comparison], texts: Texts) -> Section:
    """What was measured: the files, how large they are, how fast they were."""
    table = Table(
        texts("report.models_caption"),
        tuple(
            map(
                Cell,
                (
                    texts("report.model"),
                    texts("report.level"),
                    texts("report.size"),
                    texts("report.bits_per_weight"),
                    texts("report.parameters"),
                    texts("report.file"),
                    "SHA-256",
                ),
            )
        ),
        (Rows("", tuple(_model(model, models, texts) for model in models.models)),),
    )
    blocks: list[Block] = [table]
    if speeds := _speeds(models, comparisons, texts):
        blocks += [speeds, Text(texts("report.speed_note"))]
    return Section("models", texts("report.models"), tuple(blocks))


def _model(model: Model, models: Models, texts: Texts) -> Row:
    bits = model.bits_per_weight
    adapters = texts("report.with_adapters", names=", ".join(model.lora)) if model.lora else ""
    digest = Cell(f"{model.sha256[:12]}…", title=model.sha256, code=True) if model.sha256 else Cell("–")
    cells = (
        Cell(model.level or "–"),
        Cell(size_text(model.bytes)),
        Cell("–" if bits is None else f"{bits:.2f}"),
        Cell(count_text(model.parameters, texts)),
        Cell(model.file.replace("\\", "/").rpartition("/")[2] or "–", title=model.file, code=bool(model.file)),
        digest,
    )
    return Row(Cell(models.name(model), note=adapters, series=models.index(model)), cells)


def _speeds(models: Models, comparisons: Sequence[Comparison], texts: Texts) -> Table | None:
    """Tokens a second by task, in models' order."""
    rows = []
    for comparison in comparisons:
        found: dict[int, Run] = {models.index(run.model): run for run in comparison.runs if run.speed}
        if found:
            speeds = [found[index].speed if index in found else None for index in range(len(models.models))]
            cells = tuple(Cell("–" if one is None else f"{one:,.1f}") for one in speeds)
            rows.append(Row(Cell(title_of(comparison, texts)), cells))
    if not rows:
        return None
    head = (Cell(texts("report.task")), *Figures(models, texts).heads(models.models))
    return Table(texts("report.speed_caption"), head, (Rows("", tuple(rows)),))


def glance_section(models: Models, comparisons: Sequence[Comparison], texts: Texts) -> Section:
    """The headline figures of every task in one table, and how all tables are to be read."""
    figures = Figures(models, texts)
    parts = []
    for comparison in comparisons:
        rows = []
        places = [models.index(run.model) for run in comparison.runs]
        for line in comparison.headlines:
            row = figures.row(figures.head(line), line)
            spread = [Cell("–")] * len(models.models)
            for place, cell in zip(places, row.cells[1:], strict=True):
                spread[place] = cell
            rows.append(Row(row.head, (row.cells[0], *spread)))
        if rows:
            parts.append(Rows(title_of(comparison, texts), tuple(rows)))
    head = (Cell(texts("report.figure")), Cell("n"), *figures.heads(models.models))
    blocks: list[Block] = [Table(texts("report.glance_caption"), head, tuple(parts))] if parts else []
    reading = (
        texts("report.reading_interval"),
        texts("report.reading_best"),
        texts("report.reading_worse"),
        texts("report.reading_overlap"),
    )
    return Section("results", texts("report.results"), (*blocks, Items(reading)))


def cost_section(models: Models, comparisons: Sequence[Comparison], texts: Texts) -> Section | None:
    """The first metric of every task against size and against speed, and beside a divergence the first other one.

    None where there is nothing to compare.
    """
    figures = Figures(models, texts)
    blocks: list[Block] = []
    for comparison in comparisons:
        names = list(dict.fromkeys(line.name for line in comparison.headlines))
        shown = names[: 2 if names and names[0] == DIVERGENCE else 1]
        rows = [[line for line in comparison.headlines if line.name == name][:_PLANES] for name in shown]
        for line in (line for row in rows for line in row):
            planes = (figures.plane(line, comparison, cost) for cost in ("size", "speed"))
            if charts := tuple(one for one in planes if one is not None):
                blocks.append(Charts(charts))
    if not blocks:
        return None
    return Section("cost", texts("report.cost"), (Text(texts("report.cost_note")), *blocks))
