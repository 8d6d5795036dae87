"""CSV and TSV files → tables of texts: rows and quoted fields. Knows no columns."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from stellar_local.errors import StellarError
from stellar_local.tables.table import Line, Table, of_lines

from ..table_text import decoded, delimiter


def read(path: Path) -> Table:
    """The table of a text file. Raises StellarError where it is no text, or empty."""
    text, encoding = decoded(path)
    notes = [] if encoding.startswith("utf-8") else [f"read as {encoding.upper()}"]
    sign = "\t" if path.suffix.lower() == ".tsv" else delimiter(text)
    table = of_lines("", _lines(text, sign), notes)
    if table is None:
        raise StellarError(f"the table is empty: {path}", "check that it is the right file")
    return table


def _lines(text: str, delimiter: str) -> Iterator[Line]:
    csv.field_size_limit(1 << 30)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    width = 0
    while True:
        began = reader.line_num + 1
        try:
            cells = [cell.strip() for cell in next(reader)]
        except StopIteration:
            return
        except csv.Error as error:
            yield Line(began, [], _explained(error, began, reader.line_num))
            continue
        if not any(cells):
            continue
        width = width or len(cells)
        if len(cells) > width and any(cells[width:]):
            yield Line(began, cells, f"more fields than the header has ({len(cells)}, not {width})")
        elif len(cells) < width:
            yield Line(began, cells, f"fewer fields than the header has ({len(cells)}, not {width})")
        else:
            yield Line(began, cells)


def _explained(error: csv.Error, began: int, ended: int) -> str:
    if "unexpected end of data" in str(error):
        return "a quoted field never ends: all that follows is in it"
    return f"cannot be read: {error}" + (f" (up to line {ended}: is a quote missing?)" if ended > began else "")
