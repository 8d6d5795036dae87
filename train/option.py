"""What an option of a training run is: its names, type, range and words, and how a written value becomes its value.

One definition serves the command line (texts), files (TOML and JSON values) and Python (keyword arguments). Knows no
option; those are config's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field
from pathlib import Path
from typing import Any

from stellar_local.console import fitted, one_line
from stellar_local.errors import UsageError
from stellar_local.files import expanded

SECTIONS = ("Data", "Adapter", "Optimisation", "Memory", "Run")
_YES, _NO = ("true", "1", "yes", "on"), ("false", "0", "no", "off", "none", "null", "")
_NOUNS: dict[Any, str] = {int: "a whole number", float: "a number", str: "a text", Path: "a path"}
_METAVARS: dict[Any, str] = {int: "N", float: "X", bool: "[BOOL]", str: "TEXT", Path: "PATH", tuple: "A,B,…"}


@dataclass(frozen=True)
class Option:
    """One option. `kind` is int, float, bool, str, Path or tuple (names); `words` may stand for a number.

    `alias` is another tool's name for it, mostly alpaca-lora's. `decides` says whether it changes the adapter that
    comes out. `is_path` tells of a text whether it names a file, for those that stand in a file to be found beside it.
    """

    name: str
    help: str
    kind: type
    default: Any
    required: bool
    section: str
    alias: str
    decides: bool
    metavar: str
    choices: tuple[str, ...]
    words: Mapping[str, Any]
    above: float  # the value must be greater
    least: float
    below: float  # the value must be less
    most: float
    is_path: Callable[[str], bool]

    @property
    def flag(self) -> str:
        """Its one spelling in help and messages: `--lora-r`."""
        return f"--{self.name.replace('_', '-')}"

    def read(self, text: str, where: str) -> Any:
        """The value that a text of the command line stands for, as python-fire would read it. Raises UsageError.

        A matching pair of quotes, which Windows leaves, is taken off; None is the default. For a yes or no, None and
        nothing at all are no, and so is `false`, which fire takes for a text and therefore for a yes.
        """
        text = _unquoted(text)
        if self.kind is bool:
            return yes_or_no(text, where)
        if text.lower() in ("none", "null"):
            return self.check(None, where)
        if text and self.is_path(text):
            return self.check(str(expanded(text)), where)
        if self.kind in (int, float) and text.lower() not in self.words:
            try:
                return self.check(int(text) if self.kind is int else float(text), where)
            except ValueError:
                try:
                    return self.check(float(text), where)  # a whole number may be written 1e3
                except ValueError:
                    raise self._wrong(text, where) from None
        return self.check(text, where)

    def check(self, value: Any, where: str) -> Any:
        """A value of Python, TOML or JSON as this option's type. Raises UsageError that begins with `where`."""
        if value is None or (value == "" and isinstance(value, str) and self.kind in (str, Path)):
            if self.required:
                raise UsageError(f"{where} is empty", f"give {self.metavar or _METAVARS[self.kind]}")
            return self.default
        if self.kind is tuple:
            return self._names(value, where)
        if isinstance(value, str) and value.lower() in self.words:
            return self.words[value.lower()]
        if self.kind is Path and isinstance(value, str | Path):
            return Path(value)
        if self.kind in (bool, str):
            if not isinstance(value, self.kind) or (self.choices and value not in self.choices):
                raise self._wrong(value, where)
            return value
        return self._number(value, where)

    def _number(self, value: Any, where: str) -> int | float:
        if isinstance(value, bool) or not isinstance(value, int | float) or self.kind not in (int, float):
            raise self._wrong(value, where)
        inside = self.above < value < self.below and self.least <= value <= self.most  # not so for NaN
        try:
            if inside and math.isfinite(value) and self.kind(value) == value:
                return self.kind(value)
        except OverflowError:  # a whole number beyond all floats
            pass
        raise self._wrong(value, where)

    def _names(self, value: Any, where: str) -> tuple[str, ...]:
        """Names of modules, from a list or a text with commas. Raises UsageError.

        alpaca-lora reads them as a Python literal; shells and Windows strip its quotes or leave them, so brackets and
        quotes are ignored wherever they stand.
        """
        parts = re.split(r"[,\s]", value) if isinstance(value, str) else value
        if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
            raise self._wrong(value, where)
        names = tuple(dict.fromkeys(name for part in parts if (name := part.strip(" \t\"'[]()"))))
        if not names:
            raise UsageError(f"{where} names nothing: {_shown(value)}", f"for example {','.join(self.default)}")
        return names

    def _wrong(self, value: Any, where: str) -> UsageError:
        return UsageError(f"{where} is {_shown(value)}, but must be {self.wanted}")

    @property
    def wanted(self) -> str:
        """What the option takes, in words."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.kind is bool:
            return "true or false"
        if self.kind is tuple:
            return "a list of names, or names with commas between them"
        limits = [
            f"{words} {limit:,.10g}"
            for words, limit in (
                ("greater than", self.above),
                ("of at least", self.least),
                ("less than", self.below),
                ("at most", self.most),
            )
            if math.isfinite(limit)
        ]
        return " or ".join([*self.words, " ".join(filter(None, [_NOUNS[self.kind], " and ".join(limits)]))])

    @property
    def shown_default(self) -> str:
        """The default as a user would write it; "" where it is nothing."""
        if self.default is None or self.default == "":
            return ""
        for word, value in self.words.items():
            if value == self.default:
                return word
        if isinstance(self.default, tuple):
            return ",".join(self.default)
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)


def define(
    section: str,
    help: str,
    default: Any = MISSING,
    alias: str = "",
    kind: type | None = None,
    *,
    metavar: str = "",
    choices: tuple[str, ...] = (),
    words: Mapping[str, Any] | None = None,
    above: float = -math.inf,
    least: float = -math.inf,
    below: float = math.inf,
    most: float = math.inf,
    decides: bool = True,
    is_path: Callable[[str], bool] | None = None,
) -> Any:
    """A dataclass field that is an option; its kind is its default's, unless said otherwise."""
    kind = kind or type(default)
    if kind is int and most == math.inf:
        most = 10**9
    required = default is MISSING
    about = {
        "section": section,
        "help": help,
        "default": None if required else default,
        "required": required,
        "alias": alias,
        "kind": kind,
        "metavar": metavar or "|".join(choices) or _METAVARS[kind],
        "choices": choices,
        "words": words or {},
        "above": above,
        "least": least,
        "below": below,
        "most": most,
        "decides": decides,
        "is_path": is_path or (lambda text: kind is Path),
    }
    return field(default=default, metadata=about)


def described(item: Field[Any]) -> Option:
    """The option that a field made by `define` is."""
    return Option(name=item.name, **item.metadata)


def yes_or_no(text: str, where: str) -> bool:
    """True, true, 1, yes, on → True; False, false, 0, no, off, None and nothing → False. Raises UsageError."""
    word = _unquoted(text).strip().lower()
    if word not in _YES + _NO:
        raise UsageError(f"{where} is {_shown(text)}, but must be true or false")
    return word in _YES


def _unquoted(text: str) -> str:
    """`'./base'` → `./base`: what fire's reading as a Python literal does to a quoted text."""
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    return text


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return fitted(one_line(repr(value) if isinstance(value, str) else str(value)), 60)
