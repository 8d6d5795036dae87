"""Evaluation sets: every format's texts with their places, and the rows that stand in one of them."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from building_rows import row
from conftest import SHARED

from stellar_local.errors import StellarError, UsageError
from train.building.evaluation import files_of, texts_of
from train.building.normal import normalise, units
from train.building.overlap import Evaluation, without_overlap
from train.building.rows import Removals

HOLE = "A black hole is a region of space where gravity is so strong that nothing can escape"  # 17 words
STAR = "恒星是由自身引力束缚的发光等离子体球"  # 18 characters


def texts(path: Path) -> list[tuple[str, str]]:
    return [one for name, file in files_of("e", path) for one in texts_of(name, file)]


def test_json(tmp_path: Path) -> None:
    path = tmp_path / "e.json"
    path.write_text(
        json.dumps([{"id": "q-1", "question_id": "x", "q": "什么？", "options": ["a", {"b": "c"}], "n": 3}, "d"])
    )
    assert texts(path) == [("e, item 1", "什么？"), ("e, item 1", "a"), ("e, item 1", "c"), ("e, item 2", "d")]
    path.write_text('{"q": "one"}\n\n{"instruction": "Say", "input": "two"}\n')  # lines, whatever the name says
    assert texts(path) == [
        ("e, line 1", "one"),
        ("e, line 3", "Say\ntwo"),
        ("e, line 3", "Say"),
        ("e, line 3", "two"),
    ]


def test_tables_and_lines(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes('题,"答\n案"\r\nx,y'.encode("gb18030"))
    (tmp_path / "b.tsv").write_text("\ufeffp\tq\n", encoding="utf-8")
    (tmp_path / "c.txt").write_text("one\ntwo\n", encoding="utf-8")
    (tmp_path / "ignored.md").write_text("no", encoding="utf-8")
    assert texts(tmp_path) == [
        ("e/a.csv, line 2", "题"),
        ("e/a.csv, line 2", "答\n案"),
        ("e/a.csv, line 3", "x"),
        ("e/a.csv, line 3", "y"),
        ("e/b.tsv, line 1", "p"),
        ("e/b.tsv, line 1", "q"),
        ("e/c.txt, line 1", "one"),
        ("e/c.txt, line 2", "two"),
    ]


def test_workbooks(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.title = "题"
    book.active.append(["Question", "Answer", 3])
    book.active.append(["什么是黑洞？", None, "x"])
    book.create_sheet("two").append(["y"])
    book.save(tmp_path / "e.xlsx")
    assert texts(tmp_path / "e.xlsx") == [
        ("e, 题, row 1", "Question"),
        ("e, 题, row 1", "Answer"),
        ("e, 题, row 2", "什么是黑洞？"),
        ("e, 题, row 2", "x"),
        ("e, two, row 1", "y"),
    ]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("e.xlsx", b"PK\x03\x04 no zip", "is no workbook that can be read"),
        ("e.xlsx", b"", "is no workbook that can be read"),
        ("e.jsonl", b'{"a": 1}\n{', "not JSON: .*e.jsonl, line 2"),
        ("e.json", b"\xff\xfe", "not UTF-8"),
        ("e.csv", b"\xff\xff", "neither UTF-8 nor GB18030"),
        ("e.json", b"[" * 100_000, "nested too deeply|not JSON"),
        ("e.json", b"[" * 300 + b"]" * 300, "nested too deeply"),
    ],
)
def test_what_cannot_be_read(name: str, data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(StellarError, match=message):
        texts(tmp_path / name)


def test_what_is_no_evaluation_set(tmp_path: Path) -> None:
    (tmp_path / "e.doc").write_text("x")
    with pytest.raises(UsageError, match="unknown format of an evaluation set"):
        texts(tmp_path / "e.doc")
    with pytest.raises(UsageError, match="no evaluation files in"):
        texts(tmp_path)
    with pytest.raises(UsageError, match="evaluation set not found"):
        texts(tmp_path / "none")


def overlap(evaluation: Evaluation, question: str, answer: str = "x", given: str = "") -> str:
    return evaluation.overlap(row(question, answer, given))


def test_runs_in_question_and_answer() -> None:
    evaluation = Evaluation([("en", HOLE), ("zh", STAR + "。")])
    part = " ".join(HOLE.split()[2:15])  # 13 words
    assert overlap(evaluation, f"Is it true that {part.upper()}?").startswith("en: hole is a region")
    assert overlap(evaluation, "Why?", f"Since {part}, I think.").startswith("en: hole is a region")
    assert overlap(evaluation, "Say:", given=part)
    assert overlap(evaluation, "Why?", " ".join(HOLE.split()[2:14])) == ""  # 12 words
    assert overlap(evaluation, f"请问，{STAR[2:15]}吗") == f"zh: {STAR[2:15]}"
    assert overlap(evaluation, f"请问，{STAR[2:14]}吗") == ""
    assert overlap(Evaluation([("zh", STAR)], ngram=12), f"请问，{STAR[2:14]}吗") == f"zh: {STAR[2:14]}"


def test_short_questions() -> None:
    evaluation = Evaluation([("a", "什么是秒差距？"), ("b", "Vega"), ("c", "Say\nhello"), ("d", "What is a star?")])
    assert overlap(evaluation, "什么是 秒差距") == "a: the same question"
    assert overlap(evaluation, "请用中文回答：什么是秒差距？谢谢。") == "a: the same question"
    assert overlap(evaluation, "什么是秒差距和光年？") == ""
    assert overlap(evaluation, "VEGA!") == "b: the same question"
    assert overlap(evaluation, "Is Vega bright?", "Vega") == ""  # an answer of one word is no leak
    assert overlap(evaluation, "Say", given="hello") == "c: the same question"
    assert overlap(evaluation, "What is a star cluster?") == ""


def test_what_many_evaluation_texts_share_is_form() -> None:
    form = "Read the following question with care and then write the letter of the right answer"
    ten = Evaluation([(str(number), f"{form}: {number}") for number in range(10)])
    eleven = Evaluation([(str(number), f"{form}: {number}") for number in range(11)])
    assert overlap(ten, f"{form}: other") and not overlap(eleven, f"{form}: other")
    assert overlap(eleven, f"{form}: 3")  # the whole question still counts


def test_against_a_count_by_hand() -> None:
    """Runs of words as Python tuples, over random texts of few words."""
    generator = random.Random(4)

    def sentence() -> list[str]:
        return generator.choices(["a", "b"], k=generator.randint(10, 30))

    known = [sentence() for _ in range(5)]
    runs = {tuple(one[at : at + 13]) for one in known for at in range(len(one) - 12)}
    evaluation = Evaluation([("e", " ".join(one)) for one in known])
    whole = {tuple(one) for one in known}
    hits = 0
    for _ in range(2000):
        words = sentence()
        truth = tuple(words) in whole or any(tuple(words[at : at + 13]) in runs for at in range(len(words) - 12))
        assert bool(overlap(evaluation, " ".join(words))) is truth
        hits += truth
    assert 20 < hits < 1980


def test_the_report_names_both_places() -> None:
    removals = Removals()
    rows = [row(HOLE, line=7), row("Why is Mars red?", line=8)]
    assert without_overlap(rows, Evaluation([("quiz.csv, line 3", HOLE)]), removals) == rows[1:]
    (example,) = removals.examples["in an evaluation set"]
    assert (example["source"], example["line"]) == ("any", 7)
    assert example["because"] == "quiz.csv, line 3: the same question"


def test_astro_qa() -> None:
    """Each question of the sample is found again where it stands, in another wording of the task."""
    folder = SHARED / "data" / "astro-qa-sample"
    if not folder.is_dir():
        pytest.skip("the sample of Astro-QA is not here")
    pytest.importorskip("openpyxl")
    known = texts(folder)
    evaluation = Evaluation(known)
    asked = [text for _, text in known if text.rstrip().endswith(("?", "？")) and len(units(normalise(text))) >= 5]
    assert len(asked) > 100
    missed = [text for text in asked if not overlap(evaluation, f"请回答下面的问题。\n{text}\n只写答案。")]
    assert missed == []
    assert overlap(evaluation, "太阳系里有几颗行星，它们叫什么名字？请按离太阳的远近排列。") == ""
