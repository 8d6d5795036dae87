"""Question sheets are known by their columns; their cells and rows as questions need them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import SHARED

from stellar_local.errors import MissingExtraError
from stellar_local.tables import astro_qa, questions, workbook
from stellar_local.tables.table import Line, Table, of_lines
from stellar_local.tables.unusable import Unusable

SAMPLE = SHARED / "data" / "astro-qa-sample"


def table(*rows: Sequence[str]) -> Table:
    made = of_lines("", [Line(number, list(row)) for number, row in enumerate(rows, 1)])
    assert made is not None
    return made


def test_columns_by_any_of_their_names() -> None:
    made = table(
        ["题号", "Subfiled", "题目", "Ａ", "B", "答案"], ["1", "天体力学", "哪颗是行星？", "火星", "天狼星", "A"]
    )
    sheet = astro_qa.recognised(made)
    assert sheet is not None
    (line,) = made.lines
    assert (sheet.kind, sheet.language) == (astro_qa.CHOICE, "zh")
    assert (sheet.get(line, "subfield"), sheet.asked(line), sheet.options(line)) == (
        "天体力学",
        "哪颗是行星？",
        ["火星", "天狼星"],
    )
    assert sheet.get(line, "parse") == ""
    assert astro_qa.recognised(table(["title", "text"], ["a", "b"])) is None


def test_multiple_choices_by_the_greater_part_of_answers() -> None:
    header = ["Question", "A", "B", "Answer"]
    for answers, multiple in ((["AB", "A"], True), (["AB", "A", "B"], False), (["", ""], False)):
        sheet = astro_qa.recognised(table(header, *(["Q", "x", "y", answer] for answer in answers)))
        assert sheet is not None and sheet.is_multiple() is multiple


def test_rows_of_matching_questions() -> None:
    made = table(["Title ID", "Group 1", "Group 2"], ["1", "a", "y"], ["", "b", "x"], ["2", "c", "z"])
    sheet = astro_qa.recognised(made)
    assert sheet is not None
    together = sheet.matching_questions()
    assert [[line.number for line in lines] for lines in together] == [[2, 3], [4]]
    found = questions.matching([sheet.items(line) for line in together[0]], ["[('a', 'x'), ('b', 'y')]", ""])
    assert (found.groups, found.pairs) == ([["a", "b"], ["y", "x"]], [("a", "x"), ("b", "y")])
    with pytest.raises(Unusable, match="no answer"):
        questions.matching([sheet.items(line) for line in together[0]], ["", ""])


def test_the_missing_extra_is_the_callers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    path = tmp_path / "a.xlsx"
    path.write_bytes(b"PK\x03\x04")
    with pytest.raises(MissingExtraError) as caught:
        workbook.read(path, "eval")
    assert caught.value.hint == "pip install 'stellar-local[eval]'"


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="Astro-QA's sample is not at hand")
def test_every_published_sheet_is_known() -> None:
    kinds: dict[str, set[str]] = {"zh": set(), "en": set()}
    for path in sorted(SAMPLE.rglob("*.xlsx")):
        (made,) = workbook.read(path, "eval")
        sheet = astro_qa.recognised(made)
        assert sheet is not None
        assert sheet.language == path.parent.name.lower()
        assert sheet.is_multiple() is ("multi-select" in path.name)
        kinds[sheet.language].add(sheet.kind)
    assert kinds["zh"] == kinds["en"] == {"choice", "judgment", "matching", "subjective"}
