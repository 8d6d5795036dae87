"""Excel workbooks (.xlsx) → tables of texts, as Excel shows their cells. Knows openpyxl; knows no columns."""

from __future__ import annotations

import datetime
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import MissingExtraError, StellarError
from ..files import explain, require_file
from .table import Line, Table, of_lines

_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"  # of .xls, and of the container that an encrypted .xlsx is put into
_ESCAPE = re.compile("_x([0-9A-Fa-f]{4})_")  # how XML names characters that it cannot hold (ECMA-376, ST_Xstring)
_PRIVATE = re.compile("[\ue000-\uf8ff]")  # glyphs of one font only: everywhere else they are boxes


def read(path: Path, extra: str) -> list[Table]:
    """The tables of a workbook, one for each sheet that has text. Raises StellarError, MissingExtraError.

    `extra` is the part of the installation that the caller belongs to: what is said to be missing without openpyxl.
    """
    _check(path)
    try:
        import openpyxl
    except ImportError as error:
        raise MissingExtraError(extra, "openpyxl", "reading .xlsx files") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of styles and extensions that openpyxl will not keep
            # Cached results instead of formulas; read_only, because a sheet may be formatted down to its last row.
            book = openpyxl.load_workbook(path, read_only=True, data_only=True)
            try:
                tables = [of_lines(sheet.title, _lines(sheet)) for sheet in book.worksheets]
            finally:
                book.close()
    except MemoryError:
        raise
    except Exception as error:  # openpyxl lets through whatever zipfile, zlib, XML and its own types raise
        raise StellarError(f"the workbook is damaged: {path}", "open it in Excel and save it again") from error
    found = [table for table in tables if table is not None]
    if not found:
        raise StellarError(f"the workbook is empty: {path}", "check that it is the right file")
    return found


def _check(path: Path) -> None:
    """Refuse what is no .xlsx by its first bytes, so that the reason can be named."""
    require_file(path, "workbook")
    try:
        with path.open("rb") as file:
            begins = file.read(8)
            encrypted = begins == _OLE and "EncryptedPackage".encode("utf-16-le") in file.read(1 << 24)
    except OSError as error:
        raise explain(error, path, "read") from error
    if encrypted:
        raise StellarError(f"the workbook is protected with a password: {path}", "remove the password in Excel")
    if begins == _OLE:
        raise StellarError(f"this is a workbook in the old .xls format: {path}", "save it as .xlsx")
    if not begins:
        raise StellarError(f"the file is empty: {path}", "check that it was copied whole")
    if not begins.startswith(b"PK"):
        raise StellarError(f"this is no .xlsx workbook: {path}", "save it as .xlsx, or give it its right ending")


def _lines(sheet: Any) -> Iterator[Line]:
    sheet.reset_dimensions()  # some programs write a wrong size, and cells beyond it would be missed
    for number, row in enumerate(sheet.iter_rows(), 1):
        yield Line(number, [_text(cell.value, cell.number_format, cell.data_type) for cell in row])


def _text(value: object, number_format: str, data_type: str) -> str:
    """A cell's text. A date without a day in its format, such as mmm-yy, has none here either."""
    if value is None or data_type == "e":  # an error such as #REF!
        return ""
    if isinstance(value, str):
        unescaped = _ESCAPE.sub(lambda found: chr(int(found[1], 16)), value)
        return _PRIVATE.sub("", unescaped).replace("\r\n", "\n").replace("\r", "\n").strip()
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float) and "%" in number_format:
        return f"{value * 100:.12g}%"
    if isinstance(value, float):
        return f"{value:.15g}"
    if isinstance(value, datetime.datetime):
        if value.time() != datetime.time():
            return value.isoformat(" ", "minutes")
        return value.strftime("%Y-%m-%d" if "d" in number_format.lower() else "%Y-%m")
    if isinstance(value, datetime.time):
        return value.isoformat("seconds" if value.second else "minutes")
    return str(value)
