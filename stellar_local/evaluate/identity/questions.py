"""Questions that find out whether a model knows who it is, as `stellar data identity --held-out` writes them.

Each says what a right answer has. Those that come with the package ask StellarSpeak (星语者) of 星语调校局, made from
BayLing (百聆) of ICT; none of them, nor anything near, stands in the rows that the package trains on. Knows the file's
form; judging is for `judge`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...tables.language import stated_language
from ..json_rows import Broken, BrokenRowError, read_rows, text_of
from .judge import plain

SHIPPED = Path(__file__).with_name("questions.jsonl")
_HINT = (
    'a line looks like {"instruction": "Who are you?", "language": "en", "kind": "name", "expect": {"name": ["Star"], '
    '"developer": [], "forbid": ["Base"]}}: stellar data identity --held-out FILE writes them'
)
_LISTS = ("name", "developer", "forbid", "based_on")
_MOST_NAMES = 1000  # of a list


@dataclass(frozen=True)
class Question:
    """One question; `expect` is as the judge takes it, `kind` what is asked (name, developer, other …)."""

    instruction: str
    input: str
    language: str
    kind: str
    expect: Mapping[str, Any]

    @property
    def text(self) -> str:
        """The question as people read it."""
        return f"{self.instruction} {self.input}".strip()

    @property
    def wanted(self) -> str:
        """What a right answer has, for people."""
        parts = [" or ".join(self.expect["name"])]
        if self.expect["developer"]:
            parts.append("developed by " + " or ".join(self.expect["developer"]))
        if self.expect.get("reply"):
            parts.append(f'"{self.expect["reply"]}"')
        return "; ".join(parts)


def read_questions(path: Path) -> tuple[list[Question], list[Broken]]:
    """The questions of a file, and its broken lines. Raises StellarError where no line can be used."""
    return read_rows(path, "questions file", _HINT, _question)


def _question(row: dict[str, Any]) -> Question:
    """Raises BrokenRowError."""
    instruction, input = text_of(row, "instruction"), text_of(row, "input", required=False)
    expect = row.get("expect")
    if not isinstance(expect, dict):
        raise BrokenRowError('it lacks "expect", which says what a right answer has')
    checked: dict[str, Any] = {key: _names(expect, key) for key in _LISTS}
    if not checked["name"]:
        raise BrokenRowError('"expect" gives no "name"')
    own = {plain(name) for name in (*checked["name"], *checked["developer"])}
    if both := next((name for name in checked["forbid"] if plain(name) in own), None):
        raise BrokenRowError(f'"expect" both wants and forbids {both}')
    reply = expect.get("reply")
    if reply not in (None, "yes", "no"):
        raise BrokenRowError('"reply" must be "yes" or "no"')
    if reply:
        checked["reply"] = reply
    language = text_of(row, "language", required=False).strip()
    language = stated_language(language, instruction)
    return Question(instruction, input, language, text_of(row, "kind", required=False) or "other", checked)


def _names(expect: Mapping[str, Any], key: str) -> list[str]:
    names = expect.get(key)
    if names is None:
        return []
    if not isinstance(names, list) or len(names) > _MOST_NAMES or not all(isinstance(name, str) for name in names):
        raise BrokenRowError(f'"{key}" must be a list of names')
    if not all(map(plain, names)):
        raise BrokenRowError(f'"{key}" has a name without letters or digits')
    return names
