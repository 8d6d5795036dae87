"""A report's section on one task: figures, bars, item by item comparison, failures, notes and examples."""

from __future__ import annotations

from collections import Counter

from ...texts import Texts
from .blocks import Block, Cell, Charts, Heading, Items, Row, Rows, Section, Table, Text
from .comparison import Comparison, Line, Models
from .figures import MOST_ROWS, Figures
from .items import Duel, duels, examples, failures, notes_of
from .overview import title_of
from .wording import interval_text, known, number, p_text


def task_section(comparison: Comparison, models: Models, texts: Texts) -> Section:
    """All that one task came to."""
    figures, title = Figures(models, texts), title_of(comparison, texts)
    about = known(texts, "about", comparison.task, fallback=" ")
    blocks: list[Block] = [Text(about)] if about.strip() else []
    if comparison.number:
        blocks.append(Items((texts("report.apart"), *comparison.apart), warning=True))
    blocks += _tables(comparison, figures, texts)
    charts = [figures.bars(line, comparison) for line in comparison.drawn]
    blocks += [Charts(shown)] if (shown := tuple(one for one in charts if one is not None)) else []
    blocks += _duels(comparison, models, texts)
    blocks += _failures(comparison, models, texts)
    if notes := notes_of(comparison.runs, models.names):
        blocks += [Heading(texts("report.notes")), Items(notes)]
    if shown_items := examples(comparison, models, texts):
        blocks += [Heading(texts("report.examples")), Text(texts("report.examples_rule")), *shown_items]
    return Section(f"task-{comparison.id}", title, tuple(blocks))


def _tables(comparison: Comparison, figures: Figures, texts: Texts) -> list[Block]:
    """One table of the figures; a folded one of details, and one of each metric that has very many groups."""
    sizes = Counter((line.name, line.detail) for line in comparison.lines if line.group)
    short: list[Line] = []
    details: list[Line] = []
    long: dict[str, list[Line]] = {}
    for line in comparison.lines:
        if line.group and sizes[line.name, line.detail] > MOST_ROWS:
            long.setdefault(line.name, []).append(line)
        else:
            (details if line.detail else short).append(line)
    caption = texts("report.figures_caption", task=title_of(comparison, texts))
    found: list[Block] = [figures.table(caption, short, comparison.runs)] if short else []
    for lines in long.values():
        caption = texts("report.groups_caption", metric=figures.metric(lines[0]), count=len(lines))
        found.append(figures.table(caption, lines, comparison.runs, folded=True))
    if details:
        caption = texts("report.details_caption", count=len(details))
        found.append(figures.table(caption, details, comparison.runs, folded=True))
    return found or [Text(texts("report.no_figures"))]


def _duels(comparison: Comparison, models: Models, texts: Texts) -> list[Block]:
    """Models against one another on the same items, which shows smaller differences than two intervals do."""
    rows, by = [], {"share": "", "score": texts("report.by_score"), "nats": texts("report.by_loss")}
    for first, second in models.pairs(comparison.runs):
        for duel in duels(first, second):
            title = texts("report.against", first=models.name(first.model), second=models.name(second.model))
            how = known(texts, "group", duel.condition) if duel.condition else ""
            note = " · ".join(filter(None, (how, by[duel.kind])))
            rows.append(Row(Cell(title, note=note, series=models.index(second.model)), _duel(duel)))
    if not rows:
        return []
    keys = (
        texts("report.pair"),
        texts("report.wins"),
        texts("report.losses"),
        texts("report.same"),
        texts("report.difference"),
        "p",
    )
    table = Table(texts("report.pairs_caption"), tuple(map(Cell, keys)), (Rows("", tuple(rows)),))
    return [table, Text(texts("report.pairs_note"))]


def _duel(duel: Duel) -> tuple[Cell, ...]:
    sign = "+" if duel.difference > 0 else ""
    # A difference of two shares is told in points: 3% more could be read as a ratio.
    difference = Cell(f"{sign}{number(duel.difference, duel.kind)}", interval_text(duel.low, duel.high, duel.kind))
    counts = (f"{count:,}" for count in (duel.wins, duel.losses, duel.same))
    return (*map(Cell, counts), difference, Cell(p_text(duel.p)))


def _failures(comparison: Comparison, models: Models, texts: Texts) -> list[Block]:
    """How many items each model has and how many failed, where some did or the numbers differ."""
    found = {run.model.identity: failures(run) for run in comparison.runs}
    logs = [one for one in found.values() if one is not None]
    if not any(one.failed for one in logs) and len({one.items for one in logs}) < 2:
        return []
    rows, messages = [], []
    for run in comparison.runs:
        one, label = found[run.model.identity], models.name(run.model)
        cells = ("–", "–", "–")
        if one is not None:
            kinds = ", ".join(f"{kind}: {count:,}" for kind, count in one.types.most_common())
            cells = (f"{one.items:,}", f"{one.failed:,}", kinds or "–")
            messages += [f"{label}: {message}" for message in one.messages if message]
        rows.append(Row(Cell(label, series=models.index(run.model)), tuple(map(Cell, cells))))
    keys = texts("report.model"), texts("report.items"), texts("report.failed_items"), texts("report.errors")
    table = Table(texts("report.failures_caption"), tuple(map(Cell, keys)), (Rows("", tuple(rows)),))
    return [table, *([Items(tuple(messages))] if messages else [])]
