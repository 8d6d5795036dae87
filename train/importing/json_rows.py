"""JSON lists and JSON lines → values with the lines they begin on. Knows no keys.

A broken line is one row's problem; what follows a break in a list cannot be read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from stellar_local.errors import StellarError
from stellar_local.files import explain, read_text, require_file

_BLANKS = re.compile(r"[ \t\r\n]*")
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Value:
    """One JSON value and the line it begins on (from 1), or the problem that stands there instead."""

    line: int
    value: object = None
    problem: str = ""


def read(path: Path, advance: Callable[[float], None]) -> Iterator[Value]:
    """The rows of a file; JSON lines are read one by one, however many. `advance` is told the bytes that were read.

    Raises StellarError for a file that cannot be read, and for a list that is no JSON.
    """
    require_file(path, "file")
    if _is_list(path):
        text = read_text(path, "the file")
        yield from _items(text, path)
        advance(len(text.encode()))
        return
    try:
        with path.open("rb") as file:
            for number, row in enumerate(file, 1):
                advance(len(row))
                if number == 1:
                    row = row.removeprefix(_BOM)
                if row.strip():
                    yield _value(number, row)
    except OSError as error:
        raise explain(error, path, "read") from error


def _is_list(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            begins = file.read(1 << 12).removeprefix(_BOM).lstrip()
    except OSError as error:
        raise explain(error, path, "read") from error
    if not begins and not path.stat().st_size:
        raise StellarError(f"the file is empty: {path}", "check that it was copied whole")
    if begins[:1] not in (b"[", b"{"):
        raise StellarError(f"this is neither a JSON list nor JSON lines: {path}", "check that it is the right file")
    return begins.startswith(b"[")


def _value(number: int, row: bytes) -> Value:
    try:
        return Value(number, json.loads(row.decode("utf-8")))
    except UnicodeDecodeError:
        return Value(number, problem="not UTF-8")
    except (ValueError, RecursionError):
        return Value(number, problem="not JSON")


def _items(text: str, path: Path) -> Iterator[Value]:
    decoder, line, counted = json.JSONDecoder(), 1, 0
    at = _skip(text, _skip(text, 0) + 1)
    while text[at : at + 1] != "]":
        line, counted = line + text.count("\n", counted, at), at
        try:
            value, at = decoder.raw_decode(text, at)
            at = _skip(text, at)
            if text[at : at + 1] not in (",", "]"):
                raise json.JSONDecodeError("expecting ',' or ']'", text, at)
        except (ValueError, RecursionError) as error:
            where = getattr(error, "lineno", line)
            raise StellarError(
                f"not JSON: {path}, line {where}", "repair the list, or put each row on a line"
            ) from error
        yield Value(line, value)
        if text[at] == ",":
            at = _skip(text, at + 1)
    if _skip(text, at + 1) < len(text):
        raise StellarError(f"not JSON: {path} goes on after its list", "put all rows into one list")


def _skip(text: str, at: int) -> int:
    found = _BLANKS.match(text, at)
    return found.end() if found else at
