"""The texts of evaluation sets: every text of JSON, JSONL, TXT, CSV, TSV and XLSX files, with the place of each.

Knows the formats, that ids are no content, that an answer which only shows what a right one has is none either, and
which texts are of rows such as training data have; compares nothing.
"""

from __future__ import annotations

import csv
import io
import json
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from stellar_local.console import warn
from stellar_local.errors import MissingExtraError, StellarError, UsageError
from stellar_local.files import explain, files_below, is_there, read_text, require_file

from ..corpus import Triple
from ..table_text import decoded, delimiter

Text = tuple[str, str]  # where it stands, and what it says


class RowText(NamedTuple):
    """A text of a row that has instruction and output, as training data do: it may be worded as they are."""

    where: str
    text: str


_ID = re.compile(r"(.*[_-])?(id|uuid|idx|index)", re.IGNORECASE)


def files_of(name: str, path: Path) -> list[tuple[str, Path]]:
    """A file, or the files in a folder, with what they are called in places, where the whole is called `name`.

    Hidden files, and those that Excel leaves while it has a workbook open, are none. Raises UsageError for what is
    absent, empty or of an unknown format, StellarError for what cannot be read or is no file.
    """
    known = f"known are {', '.join(_READERS)}"
    if not is_there(path):
        raise UsageError(f"evaluation set not found: {path}", "check the path")
    if not path.is_dir():
        if path.suffix.lower() not in _READERS:
            raise UsageError(f"unknown format of an evaluation set: {path}", known)
        return [(name, require_file(path, "evaluation set"))]
    files = [file for file in files_below(path) if file.suffix.lower() in _READERS]
    if not files:
        raise UsageError(f"no evaluation files in {path}", known)
    return [(f"{name.rstrip('/')}/{file.relative_to(path).as_posix()}", file) for file in files]


def texts_of(name: str, path: Path) -> Iterator[Text]:
    """Every text of a file, each with its place. Raises StellarError for what cannot be read; warns of one without."""
    found = False
    for one in _READERS[path.suffix.lower()](path):
        found = found or bool(one[1].strip())
        kind = RowText if isinstance(one, RowText) else _text
        yield kind(f"{name}, {one[0]}", one[1])
    if not found:
        warn(f"the evaluation set {name} has no text, so nothing is compared with it")


def _json(path: Path) -> Iterator[Text]:
    """One document, item by item where it is a list; or one document a line, whatever the file is called."""
    text = read_text(path, "evaluation set")
    places: list[tuple[str, object]] = []
    try:
        document = json.loads(text)
    except RecursionError as error:
        raise StellarError(f"{path} is nested too deeply", "give the questions as a list") from error
    except ValueError:
        for number, line in enumerate(text.split("\n"), 1):
            try:
                places += [(f"line {number}", json.loads(line))] if line.strip() else []
            except (ValueError, RecursionError) as error:
                raise StellarError(f"not JSON: {path}, line {number}", "give JSON, or one value a line") from error
    else:
        if isinstance(document, list):
            places = [(f"item {number}", item) for number, item in enumerate(document, 1)]
        else:
            blank = len(text) - len(text.lstrip())
            places = [(f"line {text.count(chr(10), 0, blank) + 1}", document)]
    for where, item in places:
        yield from _texts(where, item)


def texts_of_row(where: str, row: Triple) -> Iterator[Text]:
    """The texts of a row, as they are found in a file of such rows."""
    return _texts(where, row.as_dict())


def _texts(where: str, item: object) -> Iterator[Text]:
    """The texts in a JSON value but ids; and a question that stands apart from its input, as one.

    Of a question with `expect`, as `stellar data identity` writes them, only the question: the answer beside it is an
    example of what is to be learned, and stands in training data for good reason. Without recursion: JSON may be deep.
    """
    waiting: list[tuple[object, Callable[[str, str], Text]]] = [(item, _text)]
    while waiting:
        value, kind = waiting.pop()
        if isinstance(value, str):
            yield kind(where, value)
        elif isinstance(value, list):
            waiting += [(part, kind) for part in reversed(value)]
        elif isinstance(value, dict):
            instruction, given = value.get("instruction"), value.get("input")
            if isinstance(instruction, str) and isinstance(value.get("output"), str):
                kind = RowText
            if isinstance(instruction, str) and isinstance(given, str) and given.strip():
                yield kind(where, f"{instruction}\n{given}")
            by_rule = isinstance(instruction, str) and isinstance(value.get("expect"), dict)
            waiting += [
                (part, kind)
                for key, part in reversed(value.items())
                if not (isinstance(part, str) and _ID.fullmatch(key))
                and (not by_rule or key in ("instruction", "input"))
            ]


def _text(where: str, text: str) -> Text:
    return where, text


def _lines(path: Path) -> Iterator[Text]:
    for number, line in enumerate(read_text(path, "evaluation set").split("\n"), 1):
        if text := line.rstrip("\r"):
            yield f"line {number}", text


def _csv(path: Path) -> Iterator[Text]:
    """Every cell. Rows are read leniently, but for a quote that never ends: all that follows would be one text."""
    text, _ = decoded(path)
    sign = "\t" if path.suffix.lower() == ".tsv" else delimiter(text)
    csv.field_size_limit(1 << 30)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=sign)
    try:
        if began := _endless(text, sign):
            raise csv.Error(f"a quoted field that begins in line {began} never ends")
        for cells in reader:
            for cell in cells:
                yield f"line {reader.line_num}", cell
    except csv.Error as error:
        raise StellarError(f"{path}: {error}", "save it as CSV again") from error


def _endless(text: str, sign: str) -> int:
    """The line on which a row begins whose quoted field never ends; 0 where there is none."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=sign, strict=True)
    while True:
        began = reader.line_num + 1
        try:
            next(reader)
        except StopIteration:
            return 0
        except csv.Error as error:
            if "unexpected end of data" in str(error):
                return began


def _xlsx(path: Path) -> Iterator[Text]:
    """Every cell that holds a text, sheet by sheet."""
    try:
        import openpyxl
    except ImportError as error:
        raise MissingExtraError("train", "openpyxl", f"reading {path.name}") from error
    found: list[Text] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of styles and extensions that openpyxl will not keep
            book = openpyxl.load_workbook(path, read_only=True, data_only=True)
            try:
                for sheet in book.worksheets:
                    for number, cells in enumerate(sheet.iter_rows(values_only=True), 1):
                        found += [(f"{sheet.title}, row {number}", cell) for cell in cells if isinstance(cell, str)]
            finally:
                book.close()
    except MemoryError:
        raise
    except OSError as error:
        raise explain(error, path, "read") from error
    except Exception as error:  # openpyxl lets through whatever zipfile, zlib, XML and its own types raise
        raise StellarError(f"{path} is no workbook that can be read", "open it and save it as .xlsx again") from error
    yield from found


_READERS: dict[str, Callable[[Path], Iterator[Text]]] = {
    ".json": _json,
    ".jsonl": _json,
    ".txt": _lines,
    ".csv": _csv,
    ".tsv": _csv,
    ".xlsx": _xlsx,
}
