"""The split stays where it is: by a question's own hash, whatever else is in the corpus; and nothing of it leaks."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from building_rows import row, write_rows
from hypothesis import given
from hypothesis import strategies as st

from stellar_local.errors import UsageError
from train.building.pipeline import Built, build
from train.building.recipe import Recipe, Source
from train.building.split import divide, position


def numbered(count: int, of: str) -> list[tuple[str, str]]:
    return [(f"{of} 第{number}问：what is number {number * number}?", f"answer {number}") for number in range(count)]


def source(path: Path, **values: object) -> Source:
    return Source(path.stem, (path,), path.stem, path.name, **values)  # type: ignore[arg-type]


def held_out(built: Built) -> set[str]:
    return {one.question for one in built.validation}


def test_position_is_what_the_recipe_says() -> None:
    digest = hashlib.sha256(b"salt\x00" + "你是谁".encode()).hexdigest()
    assert position("你是谁", "salt") == (int(digest[:16], 16) // 2048) / 2**53


@given(st.text(), st.text(max_size=5))
def test_positions_are_between_0_and_1(question: str, salt: str) -> None:
    assert 0 <= position(question, salt) < 1


def test_more_sources_move_nothing(tmp_path: Path) -> None:
    first = source(write_rows(tmp_path / "first.jsonl", numbered(400, "first")))
    second = source(write_rows(tmp_path / "second.jsonl", numbered(300, "second")))
    alone = build(Recipe((first,), share=0.1))
    both = build(Recipe((second, first), share=0.1, seed=3))
    assert 20 < len(alone.validation) < 60
    assert held_out(alone) < held_out(both)
    assert {one.question for one in alone.train} < {one.question for one in both.train}
    assert held_out(build(Recipe((first,), share=0.1, split="other"))) != held_out(alone)
    assert held_out(build(Recipe((first,), share=0.05))) < held_out(alone)


def test_more_phrasings_move_nothing(tmp_path: Path) -> None:
    """The side is that of what is asked, whichever other rows there are and however they word it."""

    def phrasing(wording: str) -> Path:
        rows = [{"instruction": wording.format(q), "output": a, "asks": q} for q, a in numbered(200, "first")]
        path = tmp_path / f"{len(wording)}.jsonl"
        path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
        return path

    one, two = source(phrasing("{}")), source(phrasing("Tell me. {} Thanks."))
    alone, both = build(Recipe((one,), share=0.1)), build(Recipe((two, one), share=0.1))
    plain = build(Recipe((source(write_rows(tmp_path / "plain.jsonl", numbered(200, "first"))),), share=0.1))
    assert held_out(alone) == held_out(both) == held_out(plain) and len(held_out(alone)) == len(both.validation) > 10
    assert not held_out(both) & {row.question for row in both.train}
    assert build(Recipe((one, two), rows=9)).removals.totals()["its question is in validation already"] == 9


def test_a_limit_moves_nothing_across(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "first.jsonl", numbered(400, "first"))
    whole, part = (build(Recipe((source(path, limit=limit),), share=0.1)) for limit in (None, 100))
    assert len(part.train) + len(part.validation) == 100
    assert held_out(part) < held_out(whole)


def test_repeats_never_reach_validation(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "first.jsonl", numbered(200, "first"))
    built = build(Recipe((source(path, weight=3.0),), share=0.1))
    assert len(built.train) == 3 * (200 - len(built.validation))
    assert len(held_out(built)) == len(built.validation) > 0
    assert not held_out(built) & {one.question for one in built.train}


def test_a_number_of_rows(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "first.jsonl", numbered(100, "first"))
    built = build(Recipe((source(path),), rows=7))
    assert len(built.validation) == 7
    assert held_out(build(Recipe((source(path),), share=built.cut))) == held_out(built)
    with pytest.raises(UsageError, match="rows = 100 takes all 100 questions"):
        build(Recipe((source(path),), rows=100))


def test_paraphrases_of_validation_are_not_trained_on(tmp_path: Path) -> None:
    """Rows that keep what is similar, too: a near question is a leak whatever it is answered."""
    long = "Tell me everything that you know about the rings of the planet Saturn, how old they are and how they formed"
    rows = [
        ("什么是黑洞？", "1"),
        ("Why is Mars red?", "1"),
        (long, "1"),
        (long.upper(), "2"),
        (long.replace("know", "knew"), "3"),
    ]
    one, two = row(long).question, row(long.replace("know", "knew")).question
    salt = next(salt for salt in "abcdefgh" if position(one, salt) < 0.4 and position(two, salt) > 0.6)
    path = write_rows(tmp_path / "first.jsonl", rows)
    built = build(Recipe((source(path, keep_similar=True),), split=salt, share=0.5, near=0.85))
    assert long in {one.triple.instruction for one in built.validation}
    assert not [one for one in built.train if "saturn" in one.question]
    assert built.removals.totals()["near a question of validation"] == 1
    exact = build(replace(built.recipe, near=None))
    assert not [one for one in exact.train if "saturn" in one.question]
    assert exact.removals.totals()["shares a run of words with validation"] == 1


def test_a_source_that_is_not_validated(tmp_path: Path) -> None:
    first = write_rows(tmp_path / "first.jsonl", numbered(100, "first"))
    built = build(Recipe((source(first, validation=False),), share=0.5))
    assert (len(built.train), built.validation) == (100, [])
    assert "validation is empty" in built.warnings[0]


def test_nothing_is_left_for_training() -> None:
    low = min((row(text) for text in "abcdef"), key=lambda one: position(one.question, "stellar"))
    with pytest.raises(UsageError, match="validation takes every row"):
        divide([low], Recipe((), share=0.99))
