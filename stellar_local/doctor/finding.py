"""What a check says: its state, the evidence in one line, the command that mends it. Knows no system and no model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from ..texts import Texts


class State(Enum):
    """How a check ended; only a failure makes the installation unhealthy."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Said:
    """A sentence in any language: its key in texts.json and the values in it, which are the same in all of them.

    Several are said after one another: `then` follows.
    """

    key: str
    values: Mapping[str, object] = field(default_factory=dict)
    then: Said | None = None

    def text(self, texts: Texts) -> str:
        """The sentence in one language, as one line."""
        values = {name: item.text(texts) if isinstance(item, Said) else item for name, item in self.values.items()}
        own = " ".join(texts(self.key, **values).split())
        between = "；" if texts.language == "zh" else "; "
        return own if self.then is None else f"{own}{between}{self.then.text(texts)}"

    def and_then(self, other: Said) -> Said:
        """This, and after it another."""
        return Said(self.key, self.values, other if self.then is None else self.then.and_then(other))


@dataclass(frozen=True)
class Finding:
    """What one check found. `id` is stable; `fix` is a command, "" where nothing is to be mended; `details` are the
    figures in it, for programs.
    """

    id: str
    state: State
    said: Said
    fix: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


def said(key: str, **values: object) -> Said:
    """A sentence by its key."""
    return Said(key, values)


def ok(id: str, said: Said, **details: Any) -> Finding:
    """All is well."""
    return Finding(id, State.OK, said, details=details)


def warning(id: str, said: Said, fix: str, **details: Any) -> Finding:
    """It works, but not as well as it could."""
    return Finding(id, State.WARNING, said, fix, details)


def failure(id: str, said: Said, fix: str, **details: Any) -> Finding:
    """It does not work, or not as it was meant to."""
    return Finding(id, State.FAILURE, said, fix, details)


def skipped(id: str, said: Said, fix: str = "") -> Finding:
    """Nobody could look, or was asked to."""
    return Finding(id, State.SKIPPED, said, fix)
