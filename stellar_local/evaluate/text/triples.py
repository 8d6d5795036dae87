"""Instruction triples with a reference answer each, from JSON or JSON lines. Knows the form; knows no scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...tables.language import stated_language
from ..json_rows import Broken, read_rows, text_of

_HINT = (
    'rows look like {"instruction": "...", "input": "...", "output": "the reference answer"}; "input" may be empty, '
    'and "language" and "kind" or "category" may say of which figures a row is'
)
_KINDS = ("kind", "category")


@dataclass(frozen=True)
class Reference:
    """A question and the answer to compare with. `language` chooses BLEU's tokenizer, `kind` may be ""."""

    instruction: str
    input: str
    output: str
    language: str
    kind: str


def read_references(paths: Sequence[Path]) -> tuple[list[Reference], list[Broken]]:
    """The rows of all files, and the broken ones. Raises StellarError where a file has none that can be used."""
    rows: list[Reference] = []
    broken: list[Broken] = []
    for path in paths:
        found, wrong = read_rows(path, "data file", _HINT, _reference)
        rows, broken = [*rows, *found], [*broken, *wrong]
    return rows, broken


def _reference(row: dict[str, Any]) -> Reference:
    """Raises BrokenRowError."""
    output = text_of(row, "output")
    language = text_of(row, "language", required=False).strip()
    given = [text_of(row, key, required=False) for key in _KINDS]
    return Reference(
        instruction=text_of(row, "instruction"),
        input=text_of(row, "input", required=False),
        output=output,
        language=stated_language(language, output),
        kind=next(filter(None, given), ""),
    )
