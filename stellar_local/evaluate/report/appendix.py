"""A report's last section: what is needed to make it again. Commands, hashes, versions, machines, settings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...texts import Texts
from .blocks import Block, Cell, Code, Heading, Row, Rows, Section, Table
from .collected import Collected, Run
from .comparison import Comparison, Models, settings_of
from .overview import title_of
from .wording import clean, known


def appendix(
    collected: Collected, models: Models, comparisons: Sequence[Comparison], command: str, texts: Texts
) -> Section:
    """Everything that the figures depend on; `command` is the one that writes this report."""
    named = [(title_of(one, texts), run, models.name(run.model)) for one in comparisons for run in one.runs]
    named += [(known(texts, "task", run.task), run, run.model.label) for run in collected.judged]
    runs = [run for _, run, _ in named]
    commands = dict.fromkeys(_line(run.command) for run in runs if run.command)
    blocks: list[Block] = [Heading(texts("report.commands")), Code("\n".join([*commands, _line(command)]))]
    hashes = [Row(Cell(models.name(one)), (_code(one.file), _code(one.sha256))) for one in models.models]
    keys = texts("report.model"), texts("report.file"), "SHA-256"
    blocks.append(Heading(texts("report.hashes")))
    if hashes:
        blocks.append(_table(texts("report.model_hashes"), keys, hashes))
    data: dict[tuple[str, str], dict[str, None]] = {}
    for title, run, _ in named:
        for one in run.data:
            data.setdefault(one, {})[title] = None
    if data:
        rows = [
            Row(Cell(file or "–", code=True), (Cell(", ".join(tasks)), _code(digest)))
            for (file, digest), tasks in data.items()
        ]
        blocks.append(
            _table(texts("report.data_hashes"), (texts("report.file"), texts("report.task"), "SHA-256"), rows)
        )
    if comparisons:
        blocks += [Heading(texts("report.settings")), _settings(comparisons, texts)]
    blocks += [Heading(texts("report.surroundings")), _surroundings(named, texts)]
    return Section("again", texts("report.again"), tuple(blocks))


def _settings(comparisons: Sequence[Comparison], texts: Texts) -> Table:
    """What each task was measured with; settings that are empty are not told."""
    rows = []
    for comparison in comparisons:
        told = [
            f"{key} = {value}" for key, value in settings_of(comparison.runs[0]).items() if value not in ("", "null")
        ]
        rows.append(Row(Cell(title_of(comparison, texts)), (Cell("; ".join(told) or "–", code=bool(told)),)))
    return _table(texts("report.settings_caption"), (texts("report.task"), texts("report.settings")), rows)


def _surroundings(named: Sequence[tuple[str, Run, str]], texts: Texts) -> Table:
    """When, where and with what each run was measured; runs alike in all of it share a row."""
    alike: dict[tuple[str, str], list[str]] = {}
    started: dict[tuple[str, str], list[str]] = {}
    for title, run, label in named:
        versions = ", ".join(f"{key} {value}" for key, value in run.versions.items())
        key = run.machine or "–", versions or "–"
        alike.setdefault(key, []).append(f"{title}: {label}")
        started.setdefault(key, []).append(run.started.replace("T", " ").removesuffix("Z"))
    rows = []
    total = sum(map(len, alike.values()))
    for (machine, versions), who in alike.items():
        what = texts("report.all_runs") if len(who) == total else "; ".join(who)
        times = sorted(filter(None, started[machine, versions]))
        when = "–" if not times else times[0] if times[0] == times[-1] else f"{times[0]} … {times[-1]}"
        rows.append(Row(Cell(what), (Cell(machine), Cell(versions), Cell(when))))
    keys = texts("report.measurements"), texts("report.machine"), texts("report.versions"), texts("report.started")
    return _table(texts("report.surroundings_caption"), keys, rows)


def _table(caption: str, keys: Iterable[str], rows: Sequence[Row]) -> Table:
    return Table(caption, tuple(map(Cell, keys)), (Rows("", tuple(rows)),))


def _code(text: str) -> Cell:
    return Cell(text, code=True) if text else Cell("–")


def _line(text: str) -> str:
    """A command whole, to be copied, on one line."""
    return " ".join(clean(text).split("\n"))
