"""How each kind of question is put and answered, in Chinese and English: phrasings.json, chosen and filled.

Knows no sheet. A phrasing is used only where a row has a value for each of its places, so that none promises an
explanation, or a length, that the row does not have.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from ..corpus import Triple

MOST = 5  # phrasings that even a row without explanation, prompt and length has, of each kind in each language

_PLACE = re.compile(r"\{([a-z]+)\}")


@lru_cache(maxsize=1)
def table() -> dict[str, dict[str, list[dict[str, str]]]]:
    """All phrasings, by language and kind: `instruction`, `input`, `output`, and `plain` for rows without {why}."""
    text = (Path(__file__).parent / "phrasings.json").read_text(encoding="utf-8")
    loaded: dict[str, dict[str, list[dict[str, str]]]] = json.loads(text)
    return loaded


def put(language: str, kind: str, values: Mapping[str, str], number: int, seed: int) -> tuple[Triple, ...]:
    """`number` triples of one question, each in another phrasing, chosen by `seed` and the question itself.

    So the choice does not change when rows are added or removed elsewhere. `values` are inserted once, never read. The
    triples say what they ask, the question with its options: so that a split does not part them.
    """
    filled = [triple for phrasing in table()[language][kind] if (triple := _filled(phrasing, values))]
    chosen = random.Random(f"{seed} {kind} {values['question']}").sample(range(len(filled)), number)
    return tuple(filled[place] for place in chosen)


def _filled(phrasing: Mapping[str, str], values: Mapping[str, str]) -> Triple | None:
    output = _fill(phrasing["output"], values)
    if output is None and "plain" in phrasing:
        output = _fill(phrasing["plain"], values)
    instruction, given = _fill(phrasing["instruction"], values), _fill(phrasing.get("input", ""), values)
    if instruction is None or given is None or output is None:
        return None
    return Triple(instruction, given, output, "\n".join(filter(None, (values["question"], values.get("options")))))


def _fill(text: str, values: Mapping[str, str]) -> str | None:
    """A phrasing with its places filled; None where a value is missing or empty."""
    if not all(values.get(name) for name in _PLACE.findall(text)):
        return None
    return _PLACE.sub(lambda found: values[found[1]], text)
