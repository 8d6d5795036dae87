"""Objects from a file of JSON lines, or of one JSON list, and what is wrong with those that are none.

A broken row is told by its place and left out, so that the rest can be measured. Knows files and JSON; what an object
should hold is for those who read it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..console import warn
from ..errors import StellarError
from ..files import is_writable, read_text

Row = TypeVar("Row")
_TOLD = 20  # broken rows that are told of one by one


class BrokenRowError(Exception):
    """Why a row cannot be used, in words."""


@dataclass(frozen=True)
class Broken:
    """A row that was left out: its place, such as "line 3", and why."""

    place: str
    reason: str


def read_rows(
    path: Path, what: str, hint: str, row_of: Callable[[dict[str, Any]], Row]
) -> tuple[list[Row], list[Broken]]:
    """The rows of a file, each made by `row_of`, which raises BrokenRowError; and the broken ones, each warned about.

    `what` names the file in messages, `hint` shows a row that is right. Raises StellarError where the file cannot be
    read, is a damaged list, or holds no row that can be used.
    """
    rows, broken = [], []
    for place, value in _values(path, what, hint):
        try:
            if isinstance(value, BrokenRowError):
                raise value
            if not isinstance(value, dict):
                raise BrokenRowError(f"a row must be a JSON object, not {type(value).__name__}")
            if not is_writable(json.dumps(value, ensure_ascii=False)):
                raise BrokenRowError("it is not UTF-8, or holds half a character")
            rows.append(row_of(value))
        except BrokenRowError as error:
            broken.append(Broken(place, str(error)))
    for one in broken[:_TOLD]:
        warn(f"{path}, {one.place}: {one.reason}; it is left out")
    if len(broken) > _TOLD:
        warn(f"{path}: {len(broken) - _TOLD} more rows are left out")
    if not rows:
        why = f": {broken[0].place}: {broken[0].reason}" if broken else ""
        raise StellarError(f"{what} {path} has no row that can be used{why}", hint)
    return rows, broken


def text_of(row: dict[str, Any], key: str, required: bool = True) -> str:
    """A text of a row; one that is not `required` may be empty or missing. Raises BrokenRowError."""
    value = row.get(key)
    if value is None and not required:
        return ""
    if key not in row:
        raise BrokenRowError(f'it lacks "{key}"')
    if not isinstance(value, str):
        raise BrokenRowError(f'"{key}" must be a text, not {json.dumps(value, ensure_ascii=False)[:40]}')
    if required and not value.strip():
        raise BrokenRowError(f'"{key}" is empty')
    return value


def _values(path: Path, what: str, hint: str) -> Iterator[tuple[str, Any]]:
    """Each value of the file with its place. Raises StellarError."""
    text = read_text(path, what, errors="surrogateescape")
    if text.lstrip()[:1] == "[":
        try:
            items = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise StellarError(f"{what} {path} is a damaged JSON list: {error}", hint) from error
        yield from ((f"row {number}", item) for number, item in enumerate(items, 1))
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield f"line {number}", json.loads(line)
            except (ValueError, RecursionError) as error:
                reason = str(getattr(error, "msg", error))
                yield f"line {number}", BrokenRowError(f"not JSON: {reason[:1].lower()}{reason[1:]}")
