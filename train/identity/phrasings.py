"""The phrasings file: questions and answers in both languages, with places for names, and the names put into them.

Knows which names fit and how each language writes them; knows nothing of rows. A name is inserted once and never
read again, so braces and quotes in it are only text.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from stellar_local.console import one_line
from stellar_local.errors import UsageError
from stellar_local.evaluate.identity.judge import plain

LANGUAGES = ("en", "zh")
_PLACE = re.compile(r"\{([a-z_]+)\}")
_STEM = re.compile(r"[A-Za-z]{3,}(?:-[A-Za-z]{3,})*")
_LONGEST = 80


@dataclass(frozen=True)
class Names:
    """Who the model is: name, developer and base in English and, where it differs, in Chinese; "" is not given.

    `base_developers` are all the names of who developed the base; the first stands in questions. `mention_base` says
    whether an answer to "what are you based on" may name the base. Creating one checks it and fills in the Chinese
    forms that are missing. Raises UsageError.
    """

    name: str
    developer: str
    base: str
    name_zh: str = ""
    developer_zh: str = ""
    base_zh: str = ""
    base_developers: tuple[str, ...] = ()
    topic: str = ""
    topic_zh: str = ""
    mention_base: bool = False

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, str):
                object.__setattr__(self, item.name, _checked(value, item.name))
        makers = _distinct(*(_checked(name, "base_developer") for name in self.base_developers))
        object.__setattr__(self, "base_developers", makers)
        for required in ("name", "developer", "base"):
            if not getattr(self, required):
                raise UsageError(f"--{required} is empty", "give the name that the answers are to use")
        known = next((other for other in others() if plain(other.en) in self._base_forms()), None)
        defaults = {
            "name_zh": self.name,
            "developer_zh": self.developer,
            "topic_zh": self.topic,
            "base_zh": (known.zh if known else "") or self.base,
        }
        for field, value in defaults.items():
            if not getattr(self, field):
                object.__setattr__(self, field, value)
        for own in (self.name, self.name_zh):
            if plain(own) in {plain(name) for name in (*self.bases, *self.base_developers)}:
                raise UsageError(f"the name {own} is the base's too", "--name is what the trained model is called")

    @property
    def own(self) -> tuple[str, ...]:
        """Every form of the model's name."""
        return _distinct(self.name, self.name_zh)

    @property
    def developers(self) -> tuple[str, ...]:
        """Every form of the developer's name."""
        return _distinct(self.developer, self.developer_zh)

    @property
    def bases(self) -> tuple[str, ...]:
        """Every form of the base's name."""
        return _distinct(self.base, self.base_zh)

    @property
    def base_stems(self) -> tuple[str, ...]:
        """The base's names without version and size: SmolLM2-135M is SmolLM too."""
        stems = (_STEM.match(name) for name in self.bases)
        return _distinct(*(stem[0] for stem in stems if stem))

    def _base_forms(self) -> set[str]:
        """The base's names as they are compared."""
        return {plain(text) for text in (*self.bases, *self.base_stems)}

    def values(self, language: str) -> dict[str, str]:
        """What stands in the places of a phrasing of this language."""
        if language == "zh":
            full = self.name_zh + (f"（{self.name}）" if self.name != self.name_zh else "")
            return {
                "name": self.name_zh,
                "alias": self.name,
                "full": full,
                "developer": self.developer_zh,
                "base": self.base_zh,
                "assistant": f"{self.topic_zh}智能助手",
                "on_topic": self.topic_zh,
            }
        full = self.name + (f" ({self.name_zh})" if self.name != self.name_zh else "")
        topic = self.topic or "AI"
        article = "an" if topic[0].lower() in "aeiou" else "a"
        return {
            "name": self.name,
            "alias": self.name_zh,
            "full": full,
            "developer": self.developer,
            "base": self.base,
            "assistant": f"{article} {topic} assistant",
            "on_topic": f" about {self.topic}" if self.topic else "",
        }


@dataclass(frozen=True)
class Other:
    """Another assistant: its name, its maker, whether the name is also a word (a constellation, say), and whether
    only held-out questions speak of it.
    """

    en: str
    zh: str = ""
    maker: str = ""
    maker_zh: str = ""
    word: bool = False
    held_out: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Every form of its name."""
        return _distinct(self.en, self.zh)

    @property
    def makers(self) -> tuple[str, ...]:
        """Every form of its maker's name."""
        return _distinct(self.maker, self.maker_zh)


def read() -> dict[str, Any]:
    """The phrasings file as it is."""
    data: dict[str, Any] = json.loads(Path(__file__).with_name("phrasings.json").read_text(encoding="utf-8"))
    return data


def others(names: Names | None = None) -> list[Other]:
    """The other assistants, without those that `names` speaks of: a model is not asked to deny itself."""
    found = [Other(**entry) for entry in read()["others"]]
    if names is None:
        return found
    taken = {plain(text) for text in (*names.own, *names.bases, *names.base_stems)}
    makers = {plain(text) for text in (*names.developers, *names.base_developers)}
    return [
        Other(other.en, other.zh, word=other.word, held_out=other.held_out)
        if makers & {plain(maker) for maker in other.makers}
        else other
        for other in found
        if not taken & {plain(name) for name in other.names}
    ]


def fill(phrasing: str, values: dict[str, str]) -> str:
    """Put values into a phrasing's places, in one pass: what is put in is not looked at."""
    return _PLACE.sub(lambda found: values[found[1]], phrasing)


def places(phrasing: str) -> set[str]:
    """The names of a phrasing's places."""
    return set(_PLACE.findall(phrasing))


def outside_places(phrasing: str, change: Any) -> str:
    """The phrasing with `change` applied to its own text, not to its places."""
    return "".join(part if part.startswith("{") else change(part) for part in re.split(r"(\{[a-z_]+\})", phrasing))


def _distinct(*texts: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for text in texts if text))


def _checked(value: str, field: str) -> str:
    option = f"--{field.replace('_', '-')}"
    value = value.strip()
    if any(ord(char) < 32 or 0x7F <= ord(char) < 0xA0 or char in "\u2028\u2029" for char in value):
        raise UsageError(f"{option} holds a line break or a control character", "give a name on one line")
    if value != one_line(value) or any("\ud800" <= char <= "\udfff" for char in value):
        raise UsageError(f"{option} holds a character that cannot be shown", "type the name anew")
    if len(value) > _LONGEST:
        raise UsageError(f"{option} has {len(value)} characters", f"a name may have {_LONGEST}")
    if value and not plain(value):
        raise UsageError(f"{option} {value} has neither letters nor digits", "give a name that can be said")
    return value
