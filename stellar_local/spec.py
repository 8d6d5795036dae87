"""How an option is written down: its type, range, words and help, and the check of a value against them.

Knows no option; those are config's.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any

from .errors import UsageError


@dataclass(frozen=True)
class Spec:
    """How one option is written and checked. `kind` is int, float or str, or dict for a bias per token id; `words` are
    allowed instead of a number; `key` is the GGUF metadata in which a model states its own default. Of `many` values
    each has its own flag, or all stand in one text with the `separator` between them.
    """

    help: str
    kind: type
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
    words: Mapping[str, Any] = field(default_factory=dict)
    many: bool = False
    separator: str = ""
    most_items: int = 1 << 20
    metavar: str = ""
    key: str = ""

    def check(self, value: Any, name: str) -> Any:
        """Return `value` as this option's type. Raises UsageError naming the option and what it takes."""
        if self.kind is dict:
            return self._biases(value, name)
        if self.many:
            if self.separator and isinstance(value, str):
                if value.lower() in self.words:
                    return self.words[value.lower()]
                value = value.split(self.separator)
            items = [value] if isinstance(value, str) else value
            if not isinstance(items, (list, tuple)):
                raise UsageError(f"{name} must be a list")
            if len(items) > self.most_items:
                raise UsageError(f"{name} may have {self.most_items} entries, not {len(items)}")
            return tuple(self._one(item, name) for item in items)
        return self._one(value, name)

    def _biases(self, value: Any, name: str) -> tuple[tuple[int, float], ...]:
        """{"id": bias} or "id=bias", one or a list, as pairs."""
        if not isinstance(value, Mapping):
            items = [value] if isinstance(value, str) else value
            if not isinstance(items, (list, tuple)) or not all(isinstance(item, str) and "=" in item for item in items):
                raise UsageError(f"{name} must map token ids to biases", 'write 42=-5, or {"42": -5} in JSON')
            value = dict(item.split("=", 1) for item in items)
        token, bias = Spec("", int, 0, (1 << 31) - 1), Spec("", float, self.least, self.most)
        pairs = {token.check(key, f"{name}: a token id"): bias.check(value[key], f"{name}: {key}") for key in value}
        return tuple(pairs.items())

    def _one(self, value: Any, name: str) -> Any:
        if isinstance(value, str) and value.lower() in self.words:
            return self.words[value.lower()]
        if isinstance(value, bool) or (self.kind is str and not isinstance(value, str)):
            raise UsageError(f"{name} must be {self._wanted()}, not {value!r}")
        try:
            if self.kind is int and isinstance(value, float) and not value.is_integer():
                raise ValueError
            result = self.kind(value)
        except (TypeError, ValueError, OverflowError):
            raise UsageError(f"{name} must be {self._wanted()}, not {value!r}") from None
        if self.kind is not str and not (self._floor <= result <= self._ceiling):  # NaN fails this as well
            raise UsageError(f"{name} must be {self._wanted()}, not {value!r}")
        if self.choices and result not in self.choices:
            raise UsageError(f"{name} must be {self._wanted()}, not {value!r}")
        return result

    @property
    def _floor(self) -> float:
        return -sys.float_info.max if self.least is None else self.least

    @property
    def _ceiling(self) -> float:
        return sys.float_info.max if self.most is None else self.most

    def _wanted(self) -> str:
        if self.choices:
            return "one of " + ", ".join(self.choices)
        noun = {int: "a whole number", float: "a number", str: "a text"}[self.kind]
        if self.least is not None and self.most is not None:
            noun += f" from {self.least:,.10g} to {self.most:,.10g}"
        elif self.least is not None:
            noun += f" of at least {self.least:,.10g}"
        return " or ".join([*self.words, noun])


def option(default: Any, help: str, kind: type, **spec: Any) -> Any:
    """A dataclass field that is an option."""
    return field(default=default, metadata={"spec": Spec(help, kind, **spec)})


def specs(kind: type[Any]) -> dict[str, tuple[Field[Any], Spec]]:
    """The options of an options class by their names (snake_case)."""
    return {item.name: (item, item.metadata["spec"]) for item in fields(kind)}
