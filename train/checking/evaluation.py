"""The texts of evaluation sets: every text of JSON, JSONL, TXT, CSV, TSV and XLSX files, with the place of each.

Knows the formats and that ids are no content; knows nothing of training data.
"""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

from stellar_local.errors import MissingExtraError, StellarError, UsageError
from stellar_local.files import explain, read_text, require_file

FORMATS = (".json", ".jsonl", ".txt", ".csv", ".tsv", ".xlsx")
_IDS = ("id", "uuid", "idx", "index")


def files_of(path: Path) -> list[Path]:
    """A file itself, or all evaluation files in a folder. Raises UsageError or ModelError where there is none."""
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.suffix.lower() in FORMATS)
        if not found:
            raise UsageError(f"no evaluation files in {path}", f"known are {', '.join(FORMATS)}")
        return found
    require_file(path, "evaluation set")
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"unknown format of an evaluation set: {path}", f"known are {', '.join(FORMATS)}")
    return [path]


def texts_of(path: Path) -> Iterator[tuple[str, str]]:
    """Every text of a file with its place in it (`line 3`). Raises StellarError for what cannot be read."""
    ending = path.suffix.lower()
    if ending == ".xlsx":
        yield from _workbook(path)
    elif ending in (".csv", ".tsv"):
        yield from _table(path, "\t" if ending == ".tsv" else ",")
    elif ending == ".txt":
        for number, line in enumerate(read_text(path, "evaluation set").splitlines(), 1):
            yield f"line {number}", line
    else:
        yield from _json(path)


def _json(path: Path) -> Iterator[tuple[str, str]]:
    """One document, item by item where it is a list; or one document a line, whatever the file is called."""
    text = read_text(path, "evaluation set")
    try:
        document = json.loads(text)
        items = [
            (f"item {n}", item) for n, item in enumerate(document if isinstance(document, list) else [document], 1)
        ]
    except (ValueError, RecursionError):
        items = []
        for number, line in enumerate(text.split("\n"), 1):
            try:
                items += [(f"line {number}", json.loads(line))] if line.strip() else []
            except (ValueError, RecursionError) as error:
                raise StellarError(f"not JSON: {path}, line {number}", "give JSON, or one value a line") from error
    for where, item in items:
        for found in _strings(item):
            yield where, found


def _strings(item: object) -> Iterator[str]:
    """The texts in a JSON value but ids; and a question with an input, as one. Without recursion: JSON may be deep."""
    waiting = [item]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            waiting += reversed(value)
        elif isinstance(value, dict):
            instruction, given = value.get("instruction"), value.get("input")
            if isinstance(instruction, str) and isinstance(given, str) and given.strip():
                yield f"{instruction}\n{given}"
            waiting += [part for key, part in reversed(value.items()) if key.rpartition("_")[2].lower() not in _IDS]


def _table(path: Path, delimiter: str) -> Iterator[tuple[str, str]]:
    """Every cell; the encoding is UTF-8, or what Chinese Excel writes."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise explain(error, path, "read") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        try:
            text = data.decode("gb18030")
        except UnicodeDecodeError as error:
            raise StellarError(f"{path} is neither UTF-8 nor GB18030", "save it as UTF-8") from error
    csv.field_size_limit(1 << 30)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        for cells in reader:
            for cell in cells:
                yield f"line {reader.line_num}", cell
    except csv.Error as error:
        raise StellarError(f"{path}, line {reader.line_num}: {error}", "save it as CSV again") from error


def _workbook(path: Path) -> Iterator[tuple[str, str]]:
    """Every cell that holds a text, sheet by sheet."""
    try:
        import openpyxl
    except ImportError as error:
        raise MissingExtraError("train", "openpyxl", f"reading {path.name}") from error
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        try:
            for sheet in book.worksheets:
                for number, cells in enumerate(sheet.iter_rows(values_only=True), 1):
                    for cell in cells:
                        if isinstance(cell, str):
                            yield f"{sheet.title}, row {number}", cell
        finally:
            book.close()
    except OSError as error:
        raise explain(error, path, "read") from error
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError, SyntaxError, EOFError) as error:
        raise StellarError(f"{path} is no workbook that can be read", "open it and save it as .xlsx again") from error
