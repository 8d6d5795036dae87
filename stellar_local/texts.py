"""What the interface says, in English and Chinese: texts.json beside this module holds all of it.

Knows languages and the file; knows nothing of where a text is shown.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

LANGUAGES = ("en", "zh")
_FILE = Path(__file__).with_name("texts.json")


@cache
def catalogue() -> dict[str, dict[str, str]]:
    """Every text by its key, "section.name", and then by language."""
    sections = json.loads(_FILE.read_text(encoding="utf-8"))
    return {f"{section}.{name}": rows[name] for section, rows in sections.items() for name in rows}


def language_of(environ: Mapping[str, str] | None = None) -> str:
    """The language that the locale asks for: "zh" for Chinese in any form, else "en".

    POSIX: LC_ALL wins over LC_MESSAGES, that over LANG; gettext's LANGUAGE, a list, is read where they name a language.
    """
    environ = os.environ if environ is None else environ
    locale = next((environ[name] for name in ("LC_ALL", "LC_MESSAGES", "LANG") if environ.get(name)), "")
    if locale.partition(".")[0] not in ("", "C", "POSIX"):
        locale = next(filter(None, environ.get("LANGUAGE", "").split(":")), locale)
    return "zh" if re.match(r"zh|chinese", locale, re.IGNORECASE) else "en"


class Texts:
    """The texts of one language: call it with a key and the values that the text names.

    Values are put in once, as they are: braces in them stay braces.
    """

    def __init__(self, language: str) -> None:
        self.language = language

    def __call__(self, key: str, **values: object) -> str:
        text = catalogue()[key][self.language]
        return re.sub(r"\{(\w+)\}", lambda found: str(values[found[1]]), text) if values else text

    def has(self, key: str) -> bool:
        """Whether there is a text of this key."""
        return key in catalogue()
