"""Astro-QA's sheets become triples: small workbooks made here, and the published sample where it is at hand."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from conftest import SHARED

from stellar_local.tables import workbook
from train.corpus import Triple, read
from train.importing import phrasings, sheets
from train.importing.choices import Choices
from train.importing.job import run
from train.importing.report import NothingImported, Part

SAMPLE = SHARED / "data" / "astro-qa-sample"
CHOICE_ZH = ["ID", "Subfield", "Question", "A", "B", "C", "D", "Answer", "Parse"]
CHOICE_EN = ["ID", "Question", "A", "B", "C", "D", "Answer", "Parse"]
SIRIUS = [
    1,
    "天体测量学",
    "天狼星位于哪个星座？（  ）",
    "猎户座",
    "大犬座",
    "小犬座",
    "天鹅座",
    "B",
    "天狼星是大犬座α星。",
]
PLANETS = [2, "天体物理学", "下列哪些是行星？", "水星", "月球", "火星", "冥王星", "AC", "略。"]


def book(path: Path, *rows: Sequence[Any]) -> Path:
    made = openpyxl.Workbook()
    for row in rows:
        made.active.append(list(row))
    made.save(path)
    return path


def imported(path: Path, **choices: Any) -> tuple[list[Triple], Part]:
    out = path.parent / "out.jsonl"
    (part,) = run([path], out, Choices(**choices)).parts
    return read(out), part


def test_single_choice_in_every_phrasing(tmp_path: Path) -> None:
    path = book(tmp_path / "any name.xlsx", CHOICE_ZH, SIRIUS)
    seen: set[Triple] = set()
    for seed in range(40):
        rows, part = imported(path, phrasings=3, seed=seed)
        assert len(set(rows)) == 3
        assert (part.rows, part.used, part.triples, part.language) == (1, 1, 3, "zh")
        seen.update(rows)
    assert len(seen) == len(phrasings.table()["zh"]["single choice"])
    for row in seen:
        asked = f"{row.instruction}\n{row.input}"
        assert SIRIUS[2] in asked
        assert "A. 猎户座\nB. 大犬座\nC. 小犬座\nD. 天鹅座" in asked  # letters are kept
        assert "B" in row.output
        assert not re.search("[ACDE]", row.output)
        assert "{" not in asked + row.output
    assert any(row.output == "答案是：B\n解释说明：天狼星是大犬座α星。" for row in seen)  # as the scorer wants it
    assert any(row.output == "B" for row in seen)


def test_without_an_explanation_none_is_asked_for(tmp_path: Path) -> None:
    rows: list[Triple] = []
    for seed in range(40):
        made, part = imported(
            book(tmp_path / "a.xlsx", CHOICE_ZH, [*SIRIUS[:8], "略"]), phrasings=phrasings.MOST, seed=seed
        )
        assert part.notes == {"no explanation given": 1}
        rows += made
    for row in set(rows):
        assert "略" not in row.output
        assert "解释说明" not in row.instruction + row.output
        assert "为什么" not in row.instruction


def test_multiple_choices(tmp_path: Path) -> None:
    rows, part = imported(book(tmp_path / "a.xlsx", CHOICE_ZH, SIRIUS, PLANETS), phrasings=5)
    assert part.kinds == {"multiple choice": 2}  # half of the answers have several letters: so is the sheet
    answers = {row.output for row in rows if PLANETS[2] in row.instruction + row.input}
    assert answers & {"AC", "答案是：A、C", "对的有：\nA. 水星\nC. 火星", "A. 水星\nC. 火星"}
    assert all(not re.search("[BD]", answer) for answer in answers)
    _, part = imported(book(tmp_path / "b.xlsx", CHOICE_ZH, SIRIUS, SIRIUS, SIRIUS, PLANETS))
    assert part.kinds == {"single choice": 3, "multiple choice": 1}


def test_judgments_in_both_languages(tmp_path: Path) -> None:
    english = [
        ["ID", "Question", "Answer", "Parse"],
        [1, "The Moon has no atmosphere to speak of.", True, "Omitted"],
        [2, "Aurorae can be seen on the Moon.", False, "There is no atmosphere."],
        [3, "Mars has two moons.", 1, None],
        [4, "Venus has a moon.", 0, None],
        [5, "It depends.", "perhaps", None],
    ]
    rows, part = imported(book(tmp_path / "en.xlsx", *english), phrasings=5)
    assert part.left_out == [(6, "the answer is neither true nor false", 1)]
    for statement, truth in (("Moon has no", True), ("Aurorae", False), ("Mars", True), ("Venus", False)):
        outputs = [row.output for row in rows if statement in row.instruction + row.input]
        assert len(outputs) == 5
        assert all(bool(re.search(r"\b([Ff]alse|incorrect)\b", output)) is not truth for output in outputs)
    assert not any("Omitted" in row.output for row in rows)
    assert any("There is no atmosphere." in row.output for row in rows)
    chinese = [
        ["ID", "Question", "Answer", "Parse"],
        [1, "金星没有卫星。", "对", "略"],
        [2, "月球有大气层。", "错", "略"],
    ]
    rows, _ = imported(book(tmp_path / "zh.xlsx", *chinese), phrasings=5)
    assert all(("错" in row.output) is ("月球" in row.instruction + row.input) for row in rows)


def test_terms_and_short_answers(tmp_path: Path) -> None:
    header = ["ID", "Type", "Question", "Prompt", "World Count", "Answer"]
    answer = "赤经是赤道坐标系的一个坐标。"
    path = book(
        tmp_path / "a.xlsx",
        header,
        [1, "名词解释", "赤经", "以下是天文学科目的术语：赤经，请解释其含义。", len(answer), answer],
        [2, "简答", "为什么会有四季？", None, 500, "因为地轴是倾斜的。"],
    )
    seen: set[Triple] = set()
    for seed in range(30):
        rows, part = imported(path, phrasings=5, seed=seed)
        seen.update(rows)
    assert part.kinds == {"terminology": 1, "short answer": 1}
    assert {row.output for row in seen} == {answer, "因为地轴是倾斜的。"}  # word for word
    asked = {row.instruction for row in seen}
    assert "以下是天文学科目的术语：赤经，请解释其含义。" in asked
    assert f"请用大约{len(answer)}个字解释天文学名词：赤经" in asked
    assert not any("500" in text for text in asked)  # the answer is nowhere near that long


def test_matching_needs_the_answers_that_the_published_sheets_lack(tmp_path: Path) -> None:
    published = [
        ["ID", "Title ID", "Group 1", "Group 2", "Group 3"],
        [1, 1, "1755年", "哈勃", "发现了星系退行"],
        [2, None, "1929年", "康德", "提出了星云假说"],
        [3, 2, "北斗七星属于", "天鹰座", None],
        [4, None, "牛郎星位于", "大熊座", None],
    ]
    with pytest.raises(NothingImported, match="row 2: no answer"):
        imported(book(tmp_path / "published.xlsx", *published))
    pairs = "[('1929年', '哈勃', '发现了星系退行'), ('1755年', '康德', '提出了星云假说')]"
    given = ["Answer", pairs, None, "大熊座", "天鹰座"]
    answered = [[*row, answer] for row, answer in zip(published, given, strict=True)]
    rows, part = imported(book(tmp_path / "answered.xlsx", *answered), phrasings=5)
    assert (part.rows, part.used, part.triples) == (4, 4, 10)
    first = {row.output for row in rows if "康德" in row.instruction + row.input}
    assert "1755年 —— 康德 —— 提出了星云假说\n1929年 —— 哈勃 —— 发现了星系退行" in first
    tuples = "匹配组1：('1755年', '康德', '提出了星云假说')\n匹配组2：('1929年', '哈勃', '发现了星系退行')"
    assert tuples in first
    second = {row.output for row in rows if "北斗" in row.instruction + row.input}
    assert "北斗七星属于 —— 大熊座\n牛郎星位于 —— 天鹰座" in second
    for wrong in (
        "[('1929年', '哈勃', '发现了星系退行')]",
        "1-B",
        "[1]",
        "__import__('os')",
        "((((",
        "[('a','b','c')]",
    ):
        answered[1][-1] = wrong
        _, part = imported(book(tmp_path / "wrong.xlsx", *answered))
        assert part.left_out[0][0] == 2
        assert part.left_out[0][2] == 2


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ([1, "Q?", "a", "b", "c", "d", None, "p"], "no answer"),
        ([1, "Q?", "a", "b", "c", "d", "E", "p"], "the answer names an option that is not there"),
        ([1, "Q?", "a", None, "c", "d", "B", "p"], "the answer names an option that is not there"),
        ([1, "Q?", "a", "b", "c", "d", "none", "p"], "the answer is no letter of an option"),
        ([1, "Q?", "Mars", "b", "mars", "d", "A", "p"], "another option reads the same as the answer"),
        ([1, None, "a", "b", "c", "d", "A", "p"], "no question"),
        ([1, "无法回答", "a", "b", "c", "d", "A", "p"], "the question is not in the sheet's language"),
        ([1, "Q?", 45354, 45431, 45519, 45595, "A", "p"], "the options are dates that Excel turned into numbers"),
        ([1, "Q?", None, None, None, "d", "D", "p"], "fewer than two options"),
    ],
)
def test_broken_rows_are_named(row: list[Any], reason: str, tmp_path: Path) -> None:
    good = [2, "Which is a planet?", 0.96, "Mars", datetime.datetime(2004, 12, 1), datetime.time(8), "B", "Mars."]
    rows, part = imported(book(tmp_path / "a.xlsx", CHOICE_EN, good, [], row))
    assert part.left_out == [(4, reason, 1)]  # the sheet's own number, its empty row counted
    assert (part.rows, part.used, len(rows)) == (2, 1, 1)
    assert "A. 0.96\nB. Mars\nC. 2004-12-01\nD. 08:00" in rows[0].instruction + rows[0].input


def test_the_choice_depends_on_seed_and_question_alone(tmp_path: Path) -> None:
    alone, _ = imported(book(tmp_path / "a.xlsx", CHOICE_ZH, SIRIUS), phrasings=2)
    among, _ = imported(
        book(tmp_path / "b.xlsx", CHOICE_ZH, *[[*SIRIUS[:2], f"第{n}题？", *SIRIUS[3:]] for n in range(9)], SIRIUS),
        phrasings=2,
    )
    assert among[-2:] == alone
    assert imported(tmp_path / "b.xlsx", phrasings=2)[0] == among
    assert imported(tmp_path / "b.xlsx", phrasings=2, seed=7)[0] != among
    assert len({row.instruction[:4] for row in among}) > 3


def test_enough_phrasings_for_rows_that_lack_everything() -> None:
    optional = {"why", "prompt", "count"}
    for kinds in phrasings.table().values():
        assert kinds.keys() == phrasings.table()["zh"].keys()
        for kind, listed in kinds.items():
            bare = [
                one
                for one in listed
                if not optional
                & set(
                    re.findall(
                        r"\{(\w+)\}", one["instruction"] + one.get("input", "") + one.get("plain", one["output"])
                    )
                )
            ]
            assert len(bare) >= phrasings.MOST, kind
            assert len({json.dumps(one) for one in listed}) == len(listed)


def test_values_are_inserted_and_never_read(tmp_path: Path) -> None:
    odd = [1, "What is {letters} in {why}?", "{question}", "{}", "c", "d", "B", "{output} %s \\1"]
    for seed in range(20):
        (row,), _ = imported(book(tmp_path / "a.xlsx", CHOICE_EN, odd), seed=seed)
        assert "What is {letters} in {why}?" in row.instruction + row.input


# --- the published sample ---

sample = pytest.mark.skipif(not SAMPLE.is_dir(), reason="Astro-QA's sample is not at hand")
LEFT_OUT = {  # rows of the sample that cannot teach anything, found by reading them
    "single-select multi choice(4)_EN.xlsx": {28},
    "single-select multi choice(5)_EN.xlsx": {26, 45, 52, 78},
    "single-select multi choice(4)_ZH.xlsx": {78},
}


@sample
def test_every_row_of_the_sample_is_accounted_for(tmp_path: Path) -> None:
    report = run([SAMPLE], tmp_path / "out.json", Choices(phrasings=2))
    assert len(report.parts) == 12
    for part in report.parts:
        raw = [row for row in openpyxl.load_workbook(part.path).active.iter_rows(values_only=True) if any(row)]
        assert part.rows == len(raw) - 1
        assert part.used + sum(spans for _, _, spans in part.left_out) == part.rows
        assert part.language == part.path.parent.name.lower()
        if "matching" in part.path.name:
            assert len(part.left_out) == 15
            assert {reason for _, reason, _ in part.left_out} == {"no answer"}
        else:
            assert {number for number, _, _ in part.left_out} == LEFT_OUT.get(part.path.name, set())
            assert part.triples == 2 * part.used
    rows = read(tmp_path / "out.json")
    assert len(rows) == report.triples
    assert not any(re.search(r"\d略。|[Oo]mitted|解释说明：略", row.output) for row in rows)


@sample
@pytest.mark.parametrize("path", sorted(SAMPLE.rglob("*-select*.xlsx")), ids=lambda path: path.stem)
def test_answers_of_the_sample_are_the_sheets_own(path: Path, tmp_path: Path) -> None:
    """Against the sheet itself, read here: the letters that an answer names are those in its Answer cell."""
    header, *raw = openpyxl.load_workbook(path).active.iter_rows(values_only=True)
    column = {name: place for place, name in enumerate(header)}
    out = tmp_path / "out.jsonl"
    run([path], out, Choices(phrasings=5))
    checked = 0
    for row in read(out):
        asked = f"{row.instruction}\n{row.input}"
        # \ue006 and the like are dropped: glyphs of one font
        found = [
            r
            for r in raw
            if re.sub("[\ue000-\uf8ff]", "", r[column["Question"]]).strip() in asked
            and str(r[column["D"]] or "").strip() in asked
        ]
        assert found, asked
        right = {r[column["Answer"]] for r in found}
        head = row.output.split("\n解释说明")[0].split("\nExplanation")[0]
        forms = {a for r in right for a in (r, "、".join(r), ", ".join(r))}
        lines = "".join(re.findall(r"(?m)^([A-E])\. ", row.output))
        assert lines in right or any(re.search(rf"(?<![A-Za-z]){form}(?![A-Za-z])", head) for form in forms), row
        checked += 1
    assert checked >= 5 * 70


def test_a_sheet_is_known_by_its_columns(tmp_path: Path) -> None:
    tables = {
        "Astro-QA choice": CHOICE_EN,
        "Astro-QA judgment": ["Question", "Answer", "Parse"],
        "Astro-QA subjective": ["Type", "Question", "Answer"],
        "Astro-QA matching": ["Title ID", "Group 1", "Group 2"],
    }
    for kind, header in tables.items():
        row = ["1" if name != "Answer" else "对" for name in header]
        (table,) = workbook.read(book(tmp_path / "judgment_ZH.xlsx", header, row), "train")
        assert sheets.read(table, Choices()).kind == kind
    for header, answers, kind in (
        (["Question", "Answer"], ["True", "False"], "Astro-QA judgment"),
        (["Question", "Answer"], ["x", "1"], "table"),  # answers of algebra, say
        (["Question", "Answer"], ["对", "火星"], "table"),
        (["Question", "Answer", "Parse"], ["1", "√", "?"], "Astro-QA judgment"),
        (["Question", "Answer", "Parse"], ["Mars", "Venus", "1"], "table"),
    ):
        (table,) = workbook.read(
            book(tmp_path / "a.xlsx", header, *(["Q", answer, "略"] for answer in answers)), "train"
        )
        assert sheets.read(table, Choices()).kind.startswith(kind)


def test_rows_say_what_they_ask_in_whatever_phrasing(tmp_path: Path) -> None:
    path = book(tmp_path / "a.xlsx", CHOICE_ZH, SIRIUS)
    (asks,) = {row.asks for seed in range(5) for row in imported(path, phrasings=5, seed=seed)[0]}
    assert asks == "天狼星位于哪个星座？（  ）\nA. 猎户座\nB. 大犬座\nC. 小犬座\nD. 天鹅座"
    judged = book(tmp_path / "b.xlsx", ["Question", "Answer", "Parse"], ["月球绕地球转。", "对", "略"])
    assert {row.asks for row in imported(judged, phrasings=5)[0]} == {"月球绕地球转。"}


def test_a_length_that_is_no_plain_number_is_not_asked_for(tmp_path: Path) -> None:
    header = ["ID", "Type", "Question", "Prompt", "Word Count", "Answer"]
    counts = ("②", "²", "9" * 5000, "about 9")
    rows = [[number, "名词解释", f"第{number}个名词", None, count, "答案"] for number, count in enumerate(counts)]
    got, part = imported(book(tmp_path / "a.xlsx", header, *rows))
    assert len(got) == len(counts)
    assert not part.left_out
