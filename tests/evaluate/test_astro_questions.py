"""Astro-QA's spreadsheets become questions; what cannot be asked is named; and how questions are put."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from conftest import SHARED

from stellar_local.errors import StellarError
from stellar_local.evaluate.astro_qa import prompts, questions
from stellar_local.evaluate.astro_qa.questions import Question, load

SAMPLE = SHARED / "data" / "astro-qa-sample"
CHOICE = ["ID", "Subfield", "Question", "A", "B", "C", "D", "Answer", "Parse"]
SIRIUS = [1, "天体测量学", "天狼星位于哪个星座？", "猎户座", "大犬座", "小犬座", "天鹅座", "B", "略"]


def book(path: Path, *rows: Sequence[Any]) -> Path:
    made = openpyxl.Workbook()
    for row in rows:
        made.active.append(list(row))
    path.parent.mkdir(exist_ok=True)
    made.save(path)
    return path


def test_what_is_wrong_is_named_and_the_rest_is_asked(tmp_path: Path) -> None:
    book(
        tmp_path / "ZH" / "a.xlsx",
        CHOICE,
        SIRIUS,
        [2, "无", "月球绕什么转？", "地球", "火星", "太阳", "金星", "A", "略"],
        [3, "", "没有答案？", "a", "b", "c", "d", None, ""],
        [4, "", "都对？", "x", "y", "z", "w", "AB", ""],
        [5, "", "哪个选项？", "x", "x", "z", "w", "A", ""],
    )
    book(tmp_path / "ZH" / "copy.xlsx", CHOICE, SIRIUS)
    book(tmp_path / "other.xlsx", ["name", "weight"], ["x", 1])
    book(tmp_path / "no_rows.xlsx", CHOICE)
    book(tmp_path / "no_answer_column.xlsx", ["ID", "Question", "A", "B"], [1, "Q?", "x", "y"])
    (tmp_path / "damaged.xlsx").write_bytes(b"PK\x03\x04 no more")
    (tmp_path / "empty.xlsx").write_bytes(b"")
    loaded = load(tmp_path)
    assert [one.key for one in loaded.questions] == ["ZH/a.xlsx:2", "ZH/a.xlsx:3"]
    assert [(one.place, one.subfield, one.right) for one in loaded.questions] == [(1, "天体测量学", "B"), (2, "", "A")]
    told = "\n".join(loaded.told())
    for line in (
        "ZH/a.xlsx: 1 row left out: no answer (row 4)",
        "ZH/a.xlsx: 1 row left out: several answers are right in a sheet of single choices (row 5)",
        "ZH/a.xlsx: 1 row left out: another option reads the same as the answer (row 6)",
        "ZH/copy.xlsx: 1 row left out: they stand in ZH/a.xlsx too (row 2)",
        "other.xlsx is left out: its columns are those of no question sheet (name, weight)",
        "no_answer_column.xlsx is left out: its columns are those of no question sheet (ID, Question, A, B)",
        "no_rows.xlsx is left out: it has columns and no rows",
        "damaged.xlsx is left out: the workbook is damaged",
        "empty.xlsx is left out: the file is empty",
    ):
        assert line in told


def test_nothing_to_ask(tmp_path: Path) -> None:
    with pytest.raises(StellarError, match="not found"):
        load(tmp_path / "nowhere")
    with pytest.raises(StellarError, match="no spreadsheet below"):
        load(tmp_path)
    book(tmp_path / "a.xlsx", ["title"], ["x"])
    with pytest.raises(StellarError, match="no question to ask in .*a.xlsx is left out: its columns"):
        load(tmp_path)
    book(tmp_path / "b.xlsx", CHOICE, SIRIUS)
    assert len(load(tmp_path).questions) == 1
    assert len(load(tmp_path / "b.xlsx").questions) == 1
    with pytest.raises(StellarError, match="no question to ask"):
        load(tmp_path, languages=["en"])
    with pytest.raises(StellarError, match="no question to ask"):
        load(tmp_path, kinds=["multi"])


def test_matching_questions_that_have_answers(tmp_path: Path) -> None:
    rows: list[list[Any]] = [
        ["ID", "Title ID", "Group 1", "Group 2", "Answer"],
        [1, 1, "北斗七星属于", "天鹰座", "[('北斗七星属于', '大熊座'), ('牛郎星位于', '天鹰座')]"],
        [2, None, "牛郎星位于", "大熊座", None],
        [3, 2, "M44位于", "室女座", None],
        [4, None, "M87位于", "巨蟹座", None],
    ]
    loaded = load(book(tmp_path / "m.xlsx", *rows))
    (question,) = loaded.questions
    assert question.pairs == [("北斗七星属于", "大熊座"), ("牛郎星位于", "天鹰座")]
    assert "2 rows left out: no answer; the published matching sheets come without answers" in loaded.told()[0]
    asked = prompts.put(question)
    assert "组别1：'北斗七星属于'、'牛郎星位于'" in asked
    assert asked.endswith("匹配组1：('组别1的一项', '组别2的一项')\n匹配组2：('组别1的一项', '组别2的一项')")


def test_how_questions_are_put() -> None:
    def question(kind: str, language: str, **more: Any) -> Question:
        return Question("k", kind, language, 1, "{asked}?", **more)

    options = {"A": "{x}", "B": "y"}
    for kind in (questions.SINGLE_4, questions.MULTI):
        for language, lead in (("zh", "答案是："), ("en", "The answer is:")):
            asked = prompts.put(question(kind, language, options=options))
            assert "{asked}?" in asked and "A. {x}\nB. y" in asked and lead in asked
    single = prompts.options_of(question(questions.SINGLE_4, "en", options=options))
    assert single == prompts.Options("The answer is:", {"A": " A", "B": " B"})
    judged = prompts.options_of(question(questions.JUDGMENT, "zh"))
    assert judged == prompts.Options("该陈述是", {"true": "正确的", "false": "错误的"})
    assert prompts.options_of(question(questions.MULTI, "zh", options=options)) is None
    assert "该陈述是正确的。" in prompts.put(question(questions.JUDGMENT, "zh"))
    assert "200个汉字左右" in prompts.put(question(questions.TERMINOLOGY, "zh", count="200"))
    assert "about 90 characters" in prompts.put(question(questions.SHORT_ANSWER, "en", count="90"))
    assert "characters" not in prompts.put(question(questions.SHORT_ANSWER, "en"))
    assert prompts.put(question(questions.TERMINOLOGY, "zh", prompt="请解释{asked}")) == "请解释{asked}"


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="Astro-QA's sample is not at hand")
def test_the_published_sample() -> None:
    loaded = load(SAMPLE)
    counts = Counter((one.language, one.kind) for one in loaded.questions)
    assert counts == {
        ("zh", "single-4"): 79,
        ("zh", "single-5"): 80,
        ("zh", "multi"): 80,
        ("zh", "judgment"): 80,
        ("zh", "terminology"): 80,
        ("en", "single-4"): 79,
        ("en", "single-5"): 76,
        ("en", "multi"): 80,
        ("en", "judgment"): 80,
        ("en", "terminology"): 80,
    }
    assert len(loaded.files) == 10
    assert len({one.key for one in loaded.questions}) == len(loaded.questions)
    for one in loaded.questions:
        assert bool(one.subfield) is (one.language == "zh") or one.gold in ("B", "D"), one  # 无 is none
        assert one.asked in prompts.put(one)
        assert one.kind not in questions.FREE or "控制在" in prompts.put(one) or "within" in prompts.put(one)
    assert sum(one.right == "true" for one in loaded.questions if one.language == "zh") == 61
    # What each sheet's right answers are called, when they are found in an answer that repeats them.
    from stellar_local.evaluate.astro_qa import letters, verdicts

    for one in loaded.questions:
        if one.kind in questions.SINGLE:
            lead = "答案是：" if one.language == "zh" else "The answer is: "
            for said in (
                one.right,
                lead + one.right,
                f"{one.right}. {one.options[one.right]}",
                lead + one.options[one.right],
            ):
                assert letters.single(said, one.options).value == one.right, (said, one)
        elif one.kind == questions.MULTI:
            listed = "\n".join(f"{letter}. {one.options[letter]}" for letter in one.right)
            for said in (one.right, "、".join(one.right), ", ".join(one.right), f"答案是：\n{listed}"):
                assert letters.multiple(said, one.options).value == one.right, (said, one)
        elif one.kind == questions.JUDGMENT:
            zh = {"true": "该陈述是正确的。", "false": "该陈述是错误的。"}[one.right]
            assert verdicts.verdict(zh).value == one.right
