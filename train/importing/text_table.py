"""CSV and TSV files → tables of texts: encoding, delimiter, quoted fields. Knows no columns."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from stellar_local.errors import StellarError
from stellar_local.files import explain, require_file

from .table import Line, Table, of_lines

_BOMS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_DELIMITERS = (",", "\t", ";")
_COMMON = 0.8  # of the characters of Chinese text at least so many are in GB 2312, of misread text hardly any


def read(path: Path) -> Table:
    """The table of a text file. Raises StellarError where it is no text, or empty."""
    require_file(path, "table")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise explain(error, path, "read") from error
    text, encoding = _decoded(data, path)
    notes = [] if encoding.startswith("utf-8") else [f"read as {encoding.upper()}"]
    delimiter = "\t" if path.suffix.lower() == ".tsv" else _delimiter(text)
    table = of_lines("", _lines(text, delimiter), notes)
    if table is None:
        raise StellarError(f"the table is empty: {path}", "check that it is the right file")
    return table


def _decoded(data: bytes, path: Path) -> tuple[str, str]:
    """The text and its encoding: what the byte-order mark says, else UTF-8, else what Chinese Excel writes."""
    named = next((encoding for bom, encoding in _BOMS if data.startswith(bom)), None)
    try:
        return data.decode(named or "utf-8"), named or "utf-8"
    except UnicodeDecodeError as error:
        place = f"byte {error.start}"
    if named is None:
        try:
            text = data.decode("gb18030")
        except UnicodeDecodeError:
            text = ""
        # Bytes of Western text often pass for GB 18030, but never for the common characters of GB 2312.
        foreign = "".join(char for char in text if ord(char) > 127)
        if foreign and len(foreign.encode("gb2312", "ignore")) >= 2 * _COMMON * len(foreign):
            return text, "gb18030"
    raise StellarError(f"this is neither UTF-8 nor GB 18030 text: {path} ({place})", "save it as UTF-8")


def _delimiter(text: str) -> str:
    """The sign that cuts the first line that is not empty into the most columns."""
    first = next((line for line in text.split("\n") if line.strip()), "")
    return max(_DELIMITERS, key=lambda sign: len(next(csv.reader([first], delimiter=sign))))


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
