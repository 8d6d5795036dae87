"""Which column, or key, holds the instruction, the input and the output. Knows the names people give them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from stellar_local.errors import UsageError
from stellar_local.tables.table import key

from .choices import Names

# By `table.key`: lower case, letters and digits only.
_ALIASES = {
    "instruction": ("instruction", "question", "prompt", "query", "问题", "指令", "提问", "题目", "问", "提示"),
    "input": ("input", "context", "输入", "上下文", "背景", "材料"),
    "output": ("output", "answer", "response", "completion", "reply", "回答", "答案", "输出", "回复", "答复", "答"),
}


@dataclass(frozen=True)
class Columns:
    """The places of the three columns; `input` is None where there is none."""

    instruction: int
    input: int | None
    output: int


@lru_cache(maxsize=1024)  # JSON rows ask with the same keys over and over
def find(header: tuple[str, ...], names: Names) -> Columns:
    """The columns of a header. Alpaca's own names win; else a role that two columns may have is not guessed.

    Raises UsageError that names the columns there are and the option that decides.
    """
    places = {role: _place(role, header, names) for role in _ALIASES}
    for role in ("instruction", "output"):
        if places[role] is None:
            raise UsageError(f"no column for the {role} in: {_listed(header)}", f"name it with --{role}-column")
    taken = [place for place in places.values() if place is not None]
    if len(set(taken)) < len(taken):
        raise UsageError("two of --instruction-column, --input-column and --output-column name the same column")
    assert places["instruction"] is not None and places["output"] is not None
    return Columns(places["instruction"], places["input"], places["output"])


@lru_cache(maxsize=1024)
def lacking(header: tuple[str, ...], names: Names) -> tuple[str, ...]:
    """The roles whose column is named and is not there."""
    return tuple(role for role in _ALIASES if (name := getattr(names, role)) and not _named(header, name))


def absent(role: str, header: Sequence[str], names: Names) -> UsageError:
    """The error for a column that is named and is nowhere."""
    return UsageError(f"--{role}-column {getattr(names, role)} is none of: {_listed(header)}", "check the name")


def _named(header: Sequence[str], name: str) -> list[int]:
    """Where columns of this name are: as it is written, else but for case and signs."""
    found = [place for place, column in enumerate(header) if column == name]
    return found or [place for place, column in enumerate(header) if key(column) == key(name)]


def _place(role: str, header: Sequence[str], names: Names) -> int | None:
    if name := getattr(names, role):
        named = _named(header, name)
        if not named:
            raise absent(role, header, names)
        return named[0]
    keys = [key(column) for column in header]
    if role in keys:
        return keys.index(role)
    found = [place for place, column in enumerate(keys) if column in _ALIASES[role]]
    if len(found) > 1:
        several = ", ".join(header[place] for place in found)
        raise UsageError(f"more than one column may hold the {role}: {several}", f"choose one with --{role}-column")
    return found[0] if found else None


def _listed(header: Sequence[str]) -> str:
    return ", ".join(header)[:200]
