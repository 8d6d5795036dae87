"""CSV and TSV rows → items: quoted fields, a prompt template over columns, an error for each row that is wrong.

Knows Python's csv dialects and our field names. A column that is named like a JSON field acts as that field; others
are there for the template.
"""

from __future__ import annotations

import csv
import json
import re
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from ..errors import RequestError, UsageError
from .fields import CONTENT, KNOWN, Defaults, Item, item_of_error, item_of_fields
from .lines import BOM, LONGEST, Line

_NOT_IN_TABLES = frozenset({"messages"})
_MOST_LINES = 2000  # of a record: where a quote is missing, each line up to there is read again as its own
_LINE_COST = 100  # bytes that Python needs for a line besides its text
_PLACE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


class PromptTemplate:
    """A prompt with {column} in the place of values, `{{` and `}}` for braces. Values are inserted once, never read.

    Raises UsageError for a brace that stands alone.
    """

    def __init__(self, text: str) -> None:
        self._parts: list[tuple[bool, str]] = []  # (whether it is a column, its name or the text)
        at = 0
        for found in _PLACE.finditer(text):
            self._parts.append((False, text[at : found.start()]))
            if found[1] is not None:
                self._parts.append((True, found[1]))
            elif len(found[0]) == 2:
                self._parts.append((False, found[0][0]))
            else:
                raise UsageError(
                    f"--prompt-template has a {found[0]} that stands alone", "write {{ and }} for braces themselves"
                )
            at = found.end()
        self._parts.append((False, text[at:]))

    @property
    def columns(self) -> list[str]:
        """The columns that are named."""
        return [text for is_column, text in self._parts if is_column]

    def fill(self, row: dict[str, str]) -> str:
        """The prompt of one row."""
        return "".join(row[text] if is_column else text for is_column, text in self._parts)


class _Rows:
    """The lines of one record after another, as csv.reader wants them; keeps a record's lines until it is read."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self._lines = iter(lines)
        self._again: deque[Line] = deque()
        self.record: list[Line] = []
        self._size = 0
        self._first = True

    def begin(self) -> None:
        """A new record begins."""
        self.record, self._size = [], 0

    def rewind(self) -> None:
        """Read the record's lines but the first again, as records of their own."""
        self._again.extendleft(reversed(self.record[1:]))
        del self.record[1:]

    def __iter__(self) -> _Rows:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._lines)
        self.record.append(line)
        data = line[0]
        if data is None:
            raise RequestError("line_too_long", f"a line is longer than {LONGEST >> 20} MiB")
        if self._first:
            data, self._first = data.removeprefix(BOM), False
        self._size += len(data) + _LINE_COST
        if len(self.record) > 1 and (self._size > LONGEST or len(self.record) > _MOST_LINES):
            raise csv.Error("unexpected end of data")
        # Bytes that are no UTF-8 become lone surrogates here, and an error when the record is whole.
        return data.decode("utf-8", "surrogateescape") + "\n"


def read_rows(
    lines: Iterable[Line], delimiter: str, template: PromptTemplate | None, defaults: Defaults
) -> Iterator[Item]:
    """Read a header and then an item for each row; rows are numbered from 0, empty lines are not counted.

    Raises UsageError where the header does not say what to ask.
    """
    csv.field_size_limit(LONGEST)
    rows = _Rows(lines)
    reader = csv.reader(rows, delimiter=delimiter, strict=True)
    header = _header(rows, reader, template)
    index = 0
    while header:
        rows.begin()
        try:
            cells = next(reader)
            if not cells:
                continue
            item = _item(index, header, cells, template, defaults, rows.record[-1][1])
        except StopIteration:
            return
        except (csv.Error, RequestError) as error:
            item = item_of_error(index, _explained(error, rows), rows.record[-1][1])
        yield item
        index += 1


def _explained(error: Exception, rows: _Rows) -> RequestError:
    if isinstance(error, RequestError):
        return error
    if "unexpected end of data" in str(error):
        rows.rewind()
        return RequestError(
            "invalid_row",
            f"a quoted field never ends, or not within {_MOST_LINES:,} lines",
            'close it with ", or write "" for a quote',
        )
    size = len(rows.record)
    where = f" (the record spans {size} lines: is a quote missing?)" if size > 1 else ""
    return RequestError("invalid_row", f"the row cannot be read: {error}{where}")


def _header(rows: _Rows, reader: Any, template: PromptTemplate | None) -> list[str]:
    """The columns' names; [] where there is no input."""
    try:
        header: list[str] = next((cells for cells in reader if cells), [])
    except (csv.Error, RequestError) as error:
        raise UsageError(f"the table's header cannot be read: {error}", "check --input-format") from error
    if not header:
        return []
    names = ", ".join(header)
    if len(set(header)) < len(header):
        raise UsageError(f"the table has two columns of the same name: {names}", "rename one")
    if template:
        if unknown := [name for name in template.columns if name not in header]:
            raise UsageError(f"--prompt-template names no column: {', '.join(unknown)}", f"the columns are {names}")
    elif not {"prompt", "instruction"} & set(header):
        raise UsageError(
            "the table has no column named prompt or instruction",
            f"make prompts of its columns ({names}) with --prompt-template",
        )
    return header


def _item(
    index: int, header: list[str], cells: list[str], template: PromptTemplate | None, defaults: Defaults, end: int
) -> Item:
    if len(cells) != len(header):
        raise RequestError("invalid_row", f"the row has {len(cells)} fields, the header {len(header)}")
    row = dict(zip(header, cells, strict=True))
    for name, cell in row.items():
        if not cell.isascii() and any("\udc80" <= char <= "\udcff" for char in cell):
            raise RequestError("invalid_utf8", f"the row is not UTF-8 (column {name})")
    data: dict[str, Any] = {
        name: cell for name, cell in row.items() if cell and name in KNOWN and name not in _NOT_IN_TABLES
    }
    if template:
        # A column that the prompt is made of is text, whatever option has its name: temperature, say.
        taken = {*CONTENT, "input", *template.columns} - {"id"}
        data = {name: value for name, value in data.items() if name not in taken}
        data["prompt"] = template.fill(row)
    elif not {"prompt", "instruction"} & data.keys():
        data["prompt"] = ""
        data.pop("input", None)
    if "schema" in data:
        try:
            data["schema"] = json.loads(data["schema"])
        except (ValueError, RecursionError) as error:
            raise RequestError("invalid_field", f"schema is not JSON: {error}") from error
    return item_of_fields(index, data, defaults, end)
