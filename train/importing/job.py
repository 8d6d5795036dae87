"""Import files into one file of triples, which appears complete or not at all. Knows which reader each file has."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import IO

from stellar_local.console import progress, warn
from stellar_local.errors import UsageError
from stellar_local.files import atomic_file, ensure_folder
from stellar_local.tables import workbook
from stellar_local.tables.table import Table

from ..corpus import Triple
from . import conversation, inputs, sheets, text_table
from .choices import Choices
from .outcome import Outcome
from .report import NothingImported, Part, Report

_SHOWN_FROM = 1 << 25  # bytes of input that take long enough for progress to be shown


def run(given: Sequence[Path], out: Path, choices: Choices, strict: bool = False) -> Report:
    """Import files and folders into `out`: a JSON list where it ends in .json, else JSON lines.

    Says on stderr what became of each file. Raises StellarError for a file that cannot be read; NothingImported where
    there is no triple, or with `strict` where a row was left out: then nothing is written.
    """
    files = inputs.collect(given, out, choices.format)
    ensure_folder(out.parent)
    report = Report()
    size = sum(path.stat().st_size for path in files)
    with (
        atomic_file(out) as temporary,
        temporary.open("w", encoding="utf-8", newline="\n") as handle,
        progress("importing", size) if size >= _SHOWN_FROM else nullcontext() as shown,
    ):
        write = _Writer(handle, as_list=out.suffix.lower() == ".json")
        for path in files:
            for part, outcomes in _parts(path, choices, shown.advance if shown else lambda _: None):
                report.parts.append(part)
                for outcome in outcomes:
                    part.add(outcome)
                    write.add(outcome.triples)
                part.show()
        write.end()
        _judge(report, strict)
    report.out = out
    return report


def _judge(report: Report, strict: bool) -> None:
    if strict and report.left_out:
        first, others = report.first(), report.left_out - 1
        message = f"{first}" + (f", and {others} more rows left out" if others else "")
        raise NothingImported(message, "repair them, or import without --strict; nothing was written", report)
    if not report.triples:
        why = f": {report.first()}" if report.left_out else ""
        raise NothingImported(f"there is no triple in these files{why}", "nothing was written", report)


def _parts(path: Path, choices: Choices, advance: Callable[[float], None]) -> Iterator[tuple[Part, Iterator[Outcome]]]:
    """Each table of a file, or the file itself, with what becomes of its rows."""
    how = inputs.reader(path)
    if how == inputs.JSON:
        yield Part(path, ""), conversation.outcomes(path, choices, advance)
        return
    tables = workbook.read(path, extra="train") if how == inputs.WORKBOOK else [text_table.read(path)]
    errors: list[UsageError] = []
    read = [found for table in tables if (found := _sheet(table, choices, errors))]
    if not read:
        raise UsageError(f"{path}: {errors[0].message}", errors[0].hint)
    for error in errors:
        warn(f"a sheet of {path} is left out: {error.message}")
    for table, sheet in read:
        part = Part(path, sheet.kind, table.name if len(tables) > 1 else "", sheet.language)
        part.unit = "row" if how == inputs.WORKBOOK else "line"
        part.remarks += table.notes
        yield part, sheet.outcomes
    advance(path.stat().st_size)


def _sheet(table: Table, choices: Choices, errors: list[UsageError]) -> tuple[Table, sheets.Sheet] | None:
    try:
        return table, sheets.read(table, choices)
    except UsageError as error:
        errors.append(error)
        return None


class _Writer:
    """Writes triples one by one as JSON lines, or as the list that the makers' training data are."""

    def __init__(self, handle: IO[str], as_list: bool) -> None:
        self._handle, self._as_list, self._between = handle, as_list, "[\n" if as_list else ""

    def add(self, triples: Sequence[Triple]) -> None:
        for triple in triples:
            row = triple.as_dict() | ({"asks": triple.asks} if triple.asks else {})
            self._handle.write(self._between + json.dumps(row, ensure_ascii=False))
            self._between = ",\n" if self._as_list else "\n"

    def end(self) -> None:
        self._handle.write("\n]\n" if self._as_list else "\n")
