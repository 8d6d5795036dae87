"""Rows for the tests of building: made from short texts, with a source of their own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from train.building.recipe import Source
from train.building.rows import Row
from train.corpus import Triple
from train.likeness.forms import Form

ANY = Source("any", (), "general")


def row(question: str, answer: str = "a", given: str = "", line: int = 1, source: Source = ANY, **values: Any) -> Row:
    """A row as `read_source` would make it."""
    triple = Triple(question, given, answer)
    return Row(replace(source, **values) if values else source, "any.jsonl", line, triple, Form.of(triple), "en")


def write_rows(path: Path, rows: Sequence[tuple[str, ...]]) -> Path:
    """(instruction, output) or (instruction, input, output) each, as JSON lines."""
    lines = [{"instruction": one[0], "input": one[1] if len(one) == 3 else "", "output": one[-1]} for one in rows]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path
