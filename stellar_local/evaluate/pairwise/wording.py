"""What a judge reads, in English and Chinese: the instructions to a judging model, and the texts of the page.

wording.json beside this module holds all of it. Knows words; knows neither models nor terminals.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

_FILE = Path(__file__).with_name("wording.json")


@cache
def catalogue() -> dict[str, dict[str, dict[str, str]]]:
    """Every text by its section ("judge", "page"), its name and its language."""
    sections: dict[str, dict[str, dict[str, str]]] = json.loads(_FILE.read_text(encoding="utf-8"))
    return sections


def _text(section: str, name: str, language: str, values: dict[str, object]) -> str:
    """A text with its values put in, each once and as it is: braces in them stay braces."""
    text = catalogue()[section][name][language]
    return re.sub(r"\{(\w+)\}", lambda found: str(values[found[1]]), text) if values else text


def page_text(language: str, name: str, **values: object) -> str:
    """A text of the page for people."""
    return _text("page", name, language, values)


def judging_prompt(
    language: str,
    scoring: str,
    mark: str,
    turns: tuple[str, ...],
    first: tuple[str, ...],
    second: tuple[str, ...],
    references: tuple[str, ...] = (),
) -> str:
    """What a judging model is asked: `first` are assistant A's answers to the `turns`, `second` B's.

    `scoring` is "verdict" or "scores"; `mark` a code that no text below holds. Any language but "zh" reads English.
    """
    language = "zh" if language == "zh" else "en"
    several = len(turns) > 1

    def text(key: str, **values: object) -> str:
        return _text("judge", key, language, values)

    def block(title: str, content: str, turn: int) -> str:
        title = (text("turn", turn=turn + 1) if several else "") + title
        shown = content if content.strip() else text("nothing")
        return f"[{mark} {text('begin')}: {title}]\n{shown}\n[{mark} {text('end')}: {title}]\n"

    blocks = [text("basis", what=text("conversation" if several else "question"), mark=mark)]
    if references:
        blocks.append(text("with_reference"))
    for turn, asked in enumerate(turns):
        blocks.append(block(text("asked"), asked, turn))
        if references and references[turn].strip():
            blocks.append(block(text("reference"), references[turn], turn))
    for name, answers in (("A", first), ("B", second)):  # one conversation whole, then the other
        blocks += [block(text("answer", name=name), answer, turn) for turn, answer in enumerate(answers)]
    return "\n".join([*blocks, text(f"end_{scoring}")])
