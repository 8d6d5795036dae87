"""A conversation as it is stored: the JSON object, every field of it checked, and how a session may be named.

Knows the format, not where files lie. Knows no models: what tokens, settings and adapters mean is checked by those who
use them.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from ..files import is_writable

if TYPE_CHECKING:
    from ..engine.request import FinishReason

VERSION = 1
FINISHES = ("stop", "length", "cancelled")
MOST_NAME_BYTES = 80  # of a name in UTF-8: file systems hold 255, and suffixes are added
_RESERVED_CHARACTERS = set('/\\:*?"<>|')
# Windows takes these for devices, whatever follows the first dot; a folder of sessions may be shared with it.
_DEVICES = {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"} | {
    port + digit for port in ("COM", "LPT") for digit in "0123456789¹²³"
}
_UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # controls, half characters, and what changes the look of the rest
_LAST_TOKEN = (1 << 31) - 1  # llama_token is an int32_t


def now() -> str:
    """The time as sessions store it: ISO 8601 in UTC, to the millisecond."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def seconds(time: str) -> float:
    """A stored time in seconds since 1970."""
    return datetime.fromisoformat(time).timestamp()


def local_time(time: str) -> str:
    """A stored time for people: in the local time zone, to the minute."""
    try:
        return datetime.fromisoformat(time).astimezone().strftime("%Y-%m-%d %H:%M")
    except (OverflowError, ValueError):  # a year that the system's calendar does not reach
        return time


def whole(text: str) -> str:
    """A text that UTF-8 can hold: half characters, which a terminal may deliver, become U+FFFD."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


class InvalidSession(Exception):
    """A record is no session: `key` is the text that says why, `values` what it names."""

    def __init__(self, key: str, **values: object) -> None:
        super().__init__(key, values)
        self.key, self.values = key, values


class NewerSession(Exception):
    """A record was made by a later version of this program."""


@dataclass
class SavedTurn:
    """A question with its answer; `tokens` are the answer's as generated, [] where that is not known."""

    question: str
    answer: str
    tokens: list[int] = field(default_factory=list)
    finish: FinishReason = "stop"
    time: str = field(default_factory=now)


@dataclass
class Session:
    """A conversation with everything that is needed to go on with it.

    `model` is the file's path, `vocabulary` tells whether the turns' tokens mean the same to another model, `lora` are
    FILE:SCALE texts, `settings` options by name as JSON values. `updated` is set by Store.save.
    """

    name: str
    created: str = field(default_factory=now)
    updated: str = field(default_factory=now)
    model: str = ""
    vocabulary: str = ""
    template: str | None = None
    system: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    lora: list[str] = field(default_factory=list)
    schema: str | None = None
    grammar: str | None = None
    dropped: int = 0  # the oldest turns that the last prompt left out
    turns: list[SavedTurn] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """The session as a JSON object, not copied."""
        return {"version": VERSION, **vars(self), "turns": [vars(turn) for turn in self.turns]}

    @classmethod
    def of(cls, record: object, name: str) -> Session:
        """The session that `record` gave, which it may call otherwise. Raises InvalidSession and NewerSession."""
        version = record.get("version") if isinstance(record, dict) else None
        if type(version) is int and version > VERSION:
            raise NewerSession
        if not isinstance(record, dict) or version != VERSION or type(version) is not int:
            raise InvalidSession("sessions.wrong_field", field="version")
        values = _checked({key: record[key] for key in record if key != "version"}, _SESSION_FIELDS, _NEEDED, "")
        turns = [
            SavedTurn(**_checked(turn, _TURN_FIELDS, {"question", "answer"}, f"turns[{number}]."))
            for number, turn in enumerate(values["turns"])
        ]
        return cls(**{**values, "name": name, "turns": turns})


def _is_text(value: object) -> bool:
    return isinstance(value, str) and is_writable(value)


def _is_text_or_none(value: object) -> bool:
    return value is None or _is_text(value)


def _is_time(value: object) -> bool:
    try:
        return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False


def _are_tokens(value: object) -> bool:
    return isinstance(value, list) and all(type(token) is int and 0 <= token <= _LAST_TOKEN for token in value)


_SESSION_FIELDS: dict[str, Callable[[Any], bool]] = {
    "name": _is_text,
    "created": _is_time,
    "updated": _is_time,
    "model": _is_text,
    "vocabulary": _is_text,
    "template": _is_text_or_none,
    "system": _is_text_or_none,
    "settings": lambda value: isinstance(value, dict) and is_writable(json.dumps(value, ensure_ascii=False)),
    "lora": lambda value: isinstance(value, list) and all(map(_is_text, value)),
    "schema": _is_text_or_none,
    "grammar": _is_text_or_none,
    "dropped": lambda value: type(value) is int and value >= 0,
    "turns": lambda value: isinstance(value, list),
}
_NEEDED = {"created", "updated", "turns"}
_TURN_FIELDS: dict[str, Callable[[Any], bool]] = {
    "question": _is_text,
    "answer": _is_text,
    "tokens": _are_tokens,
    "finish": lambda value: value in FINISHES,
    "time": _is_time,
}


def _checked(
    record: object, fields: Mapping[str, Callable[[Any], bool]], needed: set[str], where: str
) -> dict[str, Any]:
    """`record` if it is an object of these fields; one that we do not know comes from a later version."""
    if not isinstance(record, dict):
        raise InvalidSession("sessions.wrong_field", field=where.rstrip(".") or "{}")
    if unknown := record.keys() - fields.keys():
        raise NewerSession(min(unknown))
    wrong = [key for key in fields if (not fields[key](record[key]) if key in record else key in needed)]
    if wrong:
        raise InvalidSession("sessions.wrong_field", field=where + wrong[0])
    return record


def normal_name(name: str) -> str:
    """A name in the form that sessions use: composed as Unicode's NFC has it, without blanks at the ends."""
    return unicodedata.normalize("NFC", name).strip()


def name_fault(name: str) -> str | None:
    """The key of the text that says why no session may have this name; None for a good one."""
    if not name:
        return "sessions.name_empty"
    if len(name.encode("utf-8", "replace")) > MOST_NAME_BYTES:
        return "sessions.name_long"
    if name[0] == "." or name[-1] == ".":
        return "sessions.name_dot"
    if any(one in _RESERVED_CHARACTERS or unicodedata.category(one) in _UNSEEN for one in name):
        return "sessions.name_character"
    if name.partition(".")[0].rstrip().upper() in _DEVICES:
        return "sessions.name_device"
    return None
