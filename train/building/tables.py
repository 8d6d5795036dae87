"""The tables of a TOML file, read key by key: types are checked, and a key that nobody asked for is an error.

Knows TOML and near spellings; knows no recipe.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from stellar_local.errors import UsageError
from stellar_local.files import read_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Kind = TypeVar("Kind", bool, int, float, str)
_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def near_spelling(word: str, known: Sequence[str]) -> str:
    """A hint for an unknown word: the known one that it looks like, else all of them."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.65)
    return f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"


def is_a(value: object, kind: type) -> bool:
    """Whether a TOML value is of a kind: true is no number, and a whole number will do for a number."""
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


class Table:
    """One table; `where` names it in messages. Whatever `take` has not asked for when `done` is called is unknown."""

    def __init__(self, values: dict[str, Any], where: str) -> None:
        self.values, self.where = values, where
        self._known: list[str] = []

    @classmethod
    def read(cls, path: Path) -> Table:
        """The top table of a file. Raises StellarError where it cannot be read, UsageError where it is not TOML."""
        try:
            return cls(tomllib.loads(read_text(path, "recipe")), str(path))
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise UsageError(f"{path} is not TOML: {error}", "texts stand in quotes, tables in [brackets]") from error

    def has(self, key: str) -> bool:
        """Whether the key is given."""
        return key in self.values

    def take(self, key: str, kind: type[Kind], default: Kind) -> Kind:
        """The value of a key. Raises UsageError for one of another type."""
        self._known.append(key)
        if key not in self.values:
            return default
        value = self.values[key]
        if not is_a(value, kind):
            raise self.wrong(key, f"must be {_NAMES[kind]}, not {_shown(value)}")
        return kind(value)

    def take_texts(self, key: str) -> tuple[str, ...]:
        """A text or a list of them. Raises UsageError for anything else."""
        self._known.append(key)
        value = self.values.get(key, [])
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise self.wrong(key, f"must be a text or a list of texts, not {_shown(value)}")
        return tuple(texts)

    def take_table(self, key: str) -> Table:
        """A table within this one, empty if it is not given. Raises UsageError for anything else."""
        self._known.append(key)
        value = self.values.get(key, {})
        if not isinstance(value, dict):
            raise self.wrong(key, f"must be a table, [{key}], not {_shown(value)}")
        return Table(value, f"{self.where}, [{key}]")

    def take_tables(self, key: str) -> list[Table]:
        """An array of tables. Raises UsageError for anything else."""
        self._known.append(key)
        value = self.values.get(key, [])
        if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
            raise self.wrong(key, f"must be tables, [[{key}]]")
        return [Table(one, f"{self.where}, [[{key}]] {number}") for number, one in enumerate(value, 1)]

    def wrong(self, key: str, what: str, hint: str = "") -> UsageError:
        """The error that says what is wrong with a key."""
        return UsageError(f"{self.where}: {key} {what}", hint)

    def done(self) -> None:
        """Raises UsageError if there are keys that nobody asked for."""
        for key in self.values:
            if key not in self._known:
                raise UsageError(f"{self.where}: unknown key {key}", near_spelling(key, self._known))


def _shown(value: object) -> str:
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 40 else text[:39] + "…"
