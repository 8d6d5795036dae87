"""A source's rows: filters one by one, places, limits; and the warning where one pattern was taken for duplicates."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest
from building_rows import row, write_rows

from train.building.pipeline import build
from train.building.recipe import Recipe, Source
from train.building.rows import Removals, limited, read_source

ROWS = [
    ("什么是恒星？", "恒星是发光的天体。"),
    ("What is a star?", "A luminous ball of plasma."),
    ("Translate into English: 恒星和行星", "star and planet 恒星"),
    ("Why?", "", "ok"),
]


@pytest.mark.parametrize(
    ("filters", "lines"),
    [
        ({}, [1, 2, 3, 4]),
        ({"languages": ("zh",)}, [1]),
        ({"languages": ("en", "mixed")}, [2, 3, 4]),
        ({"min_chars": 3}, [1, 2, 3]),
        ({"max_chars": 9}, [1, 4]),
        ({"max_chars": 8}, [4]),
        ({"contains": (re.compile("星"),)}, [1, 3]),
        ({"contains": (re.compile("星"), re.compile("(?i)ENGLISH"))}, [3]),
        ({"excludes": (re.compile("plasma"), re.compile("ok"))}, [1, 3]),
    ],
)
def test_filters(filters: dict[str, Any], lines: list[int], tmp_path: Path) -> None:
    path = write_rows(tmp_path / "x.jsonl", ROWS)
    removals = Removals()
    rows, read = read_source(Source("x", (path,), "general", **filters), removals)
    assert [one.line for one in rows] == lines
    assert read == 4
    assert sum(removals.of("x").values()) == 4 - len(lines)
    assert set(removals.of("x")) <= {"language", "min_chars", "max_chars", "contains", "excludes"}


def test_a_place_is_named(tmp_path: Path) -> None:
    rows, _ = read_source(Source("x", (write_rows(tmp_path / "y.jsonl", ROWS),), "general"), Removals())
    assert rows[2].place == "x (y.jsonl, line 3)"
    assert [one.language for one in rows] == ["zh", "en", "mixed", "en"]


def test_a_limit_draws_as_it_always_did() -> None:
    """From a generator of the seed and the source's name: the same choice in every process and version."""
    rows = [row(f"q{number}", source=Source("mine", (), "general", limit=5)) for number in range(20)]
    removals = Removals()
    chosen = limited(rows, 42, removals)
    assert [one.question for one in chosen] == random.Random("42 mine").sample(
        [f"q{number}" for number in range(20)], 5
    )
    assert removals.totals() == {"limit": 15}


def test_rows_of_one_pattern_are_warned_of(tmp_path: Path) -> None:
    text = (
        "Judge with care whether the following statement about our Solar System is right or wrong. Look for words such "
        "as always and never, do not guess, leave out every explanation and give back one single word: "
    )
    names = ["Mars is red", "Mars is big", "Venus is hot", "Titan is cold", "Io is yellow", "Ceres is round"]
    path = write_rows(tmp_path / "x.jsonl", [(text + name, "right") for name in names])
    built = build(Recipe((Source("x", (path,), "general"),), near=0.85))
    assert built.warnings and "5 rows of the source x went as near duplicates" in built.warnings[0]
    kept = build(Recipe((Source("x", (path,), "general", keep_similar=True),), near=0.85))
    assert (len(kept.train), kept.warnings) == (6, [])
