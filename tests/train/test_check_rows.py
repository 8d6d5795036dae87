"""What rows are compared by: language, form, likeness, evaluation sets; and what looks suspicious in one."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from stellar_local.errors import StellarError, UsageError
from train import corpus
from train.checking import findings
from train.checking.evaluation import files_of, texts_of
from train.checking.language import language_of
from train.checking.leaks import Leaks
from train.checking.normal import likeness, normalise
from train.checking.suspicions import suspicions
from train.checking.twins import THRESHOLD, Twin, Twins
from train.corpus import Triple


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("What is a parsec?", "en"),
        ("太阳是什么？", "zh"),
        ("我是星语者（StellarSpeak），由星语调校局开发。", "zh"),
        ("Who are you?\nI am StellarSpeak (星语者), an astronomy assistant developed by 星语调校局.", "en"),
        ("Translate: 我每天早上喝一杯牛奶。I drink a glass of milk.", "mixed"),
        ("これは日本語のひらがなとカタカナです", "other"),
        ("Что такое парсек?", "other"),
        ("3.14 + 2", "other"),
        ("", "other"),
        ("(月球)", "zh"),
    ],
)
def test_language(text: str, language: str) -> None:
    assert language_of(text) == language


def test_languages_of_the_shipped_corpus() -> None:
    """The files say in their names what they are in; translations are neither."""
    for name in ("en", "zh"):
        for category in ("astronomy", "identity"):
            rows = corpus.read(corpus.data_folder() / f"{category}.{name}.jsonl")
            found = [language_of(f"{row.instruction}\n{row.input}\n{row.output}") for row in rows]
            assert found.count(name) >= 0.95 * len(rows), (category, name)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Who are you?", "who are  you", True),
        ("你是谁？", "你是谁 ?", True),
        ("ＡＢＣ，１２", "abc 12", True),
        ("3*2", "3/2", False),
        ("C#", "C", False),
        ("？", "！", False),
        ("月球", "月 球", True),
    ],
)
def test_normalise(one: str, other: str, same: bool) -> None:
    assert (normalise(one) == normalise(other)) is same


def add_all(rows: list[Triple]) -> list[Twin | None]:
    twins = Twins()
    return [
        twins.add(key, row, normalise(f"{row.instruction}\n{row.input}"), normalise(row.output))
        for key, row in enumerate(rows)
    ]


def test_twins() -> None:
    answer = (
        "A parsec is the distance at which one astronomical unit spans an angle of one arcsecond, 3.26 light-years."
    )
    first = Triple("What is a parsec?", "", answer)
    found = add_all(
        [
            first,
            first,
            Triple("what is a parsec", "", answer + "!"),
            Triple("What is a parsec?", "", "A unit of length."),
            Triple("What is a quasar?", "", "A bright nucleus."),
            Triple("Please, what is a parsec?", "", answer.replace("spans", "has")),
        ]
    )
    assert found[0] is found[4] is found[5] is None  # the last one's question is another: below the threshold
    assert found[1] == Twin(findings.DUPLICATE, 0, "")
    assert (found[2].kind, found[2].earlier) == (findings.NEAR, 0)  # type: ignore[union-attr]
    assert found[3] == Twin(findings.CONFLICT, 0, "")


def test_other_numbers_are_other_problems() -> None:
    rows = [
        Triple(f"How many seconds are there in {n} hours of observation time?", "", f"{n * 3600}") for n in range(9)
    ]
    assert add_all(rows) == [None] * 9


def test_near_duplicates_are_those_that_a_true_count_finds() -> None:
    """Against all pairs compared by brute force, in both languages; the hashing may miss one in a hundred."""
    rng = random.Random(5)
    shipped = [row for category in corpus.CATEGORIES for row in corpus.shipped(category)]
    rows: list[Triple] = []
    for _ in range(120):
        parts = rng.sample(shipped, 3)
        base = Triple(parts[0].instruction, "", " ".join(part.output for part in parts))
        letters = list(base.output)
        for _ in range(rng.choice((0, 1, 2, 3, 6))):
            place = rng.randrange(len(letters))
            if not letters[place].isdigit():
                letters[place] = "x"
        rows += [base, Triple(base.instruction + " 请回答", "", "".join(letters))]
    texts = [(normalise(row.instruction), normalise(row.output)) for row in rows]
    alike = {
        n
        for n, (question, answer) in enumerate(texts)
        if any(
            likeness(question, asked) >= THRESHOLD and likeness(answer, answered) >= THRESHOLD
            for asked, answered in texts[:n]
        )
    }
    found = {n for n, twin in enumerate(add_all(rows)) if twin is not None and twin.kind == findings.NEAR}
    assert len(alike) >= 20
    assert found <= alike
    assert len(found) >= 0.95 * len(alike)


LONG = "Which of the following objects has the strongest gravitational pull on the oceans of the Earth today?"


@pytest.mark.parametrize(
    ("question", "leaks"),
    [
        (LONG, True),
        ("Answer with one letter. " + LONG.upper() + " A. Sun B. Moon", True),
        ("What is a parsec", True),  # short: only the whole of it counts
        ("What is a parsec in metres?", False),
        ("Which of the following objects has the strongest magnetic field?", False),
        ("请回答：黑洞的事件视界半径由什么决定", True),
        ("黑洞的事件视界是什么？", False),
    ],
)
def test_leaks(question: str, leaks: bool) -> None:
    evaluation = Leaks([("a", LONG), ("b", "What is a parsec?"), ("c", "黑洞的事件视界半径由什么决定？"), ("d", " ")])
    assert len(evaluation) == 3
    assert (evaluation.find(normalise(question)) is not None) is leaks


def test_an_instruction_that_many_texts_share_is_no_leak() -> None:
    form = "Choose the one right answer among the four options below and give its letter alone please: "
    for count, leaks in ((10, True), (11, False)):
        evaluation = Leaks((f"line {n}", form + "abcdefghijkl"[n] * 3) for n in range(count))
        assert (evaluation.find(normalise(form + "What is the Moon?")) is not None) is leaks


def test_evaluation_files(tmp_path: Path) -> None:
    import openpyxl

    (tmp_path / "a.json").write_text(json.dumps([{"id": "x1", "q": ["一", {"t": "二"}]}]), encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('{"instruction": "p", "input": "q"}\n\n"r"\n', encoding="utf-8")
    (tmp_path / "c.txt").write_text("eins\nzwei", encoding="utf-8")
    (tmp_path / "d.csv").write_bytes("题目,答案\n太阳,恒星\n".encode("gb18030"))
    book = openpyxl.Workbook()
    book.active.append(["问题", 3])
    book.save(tmp_path / "sub.xlsx")
    (tmp_path / "other.md").write_text("no")
    texts = {file.name: list(texts_of(file)) for file in files_of(tmp_path)}
    assert texts == {
        "a.json": [("item 1", "一"), ("item 1", "二")],
        "b.jsonl": [("line 1", "p\nq"), ("line 1", "p"), ("line 1", "q"), ("line 3", "r")],
        "c.txt": [("line 1", "eins"), ("line 2", "zwei")],
        "d.csv": [("line 1", "题目"), ("line 1", "答案"), ("line 2", "太阳"), ("line 2", "恒星")],
        "sub.xlsx": [("Sheet, row 1", "问题")],
    }


def test_evaluation_errors(tmp_path: Path) -> None:
    for name, data in (
        ("a.jsonl", b"{\n"),
        ("a.xlsx", b"PK\x03\x04zip"),
        ("a.csv", b"\x81"),
        ("b.json", b"[" * 100000),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(StellarError) as caught:
            list(texts_of(tmp_path / name))
        assert name in caught.value.message and caught.value.hint
    with pytest.raises(UsageError, match="unknown format"):
        files_of(Path(__file__))
    with pytest.raises(StellarError, match="not found"):
        files_of(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("row", "kinds"),
    [
        (("What is a parsec?", "", "A parsec is a unit."), {}),
        (
            ("What is the parallax of a star?", "", "What is the parallax of a star? It is an angle."),
            {findings.ECHO: ""},
        ),
        (("你好", "", "你好"), {findings.ECHO: ""}),
        (("你好", "", "你好，有什么可以帮你？"), {}),
        (("a", "", "b\x07c"), {findings.CONTROL: "U+0007"}),
        (("a", "", "tab\tand\r\nbreaks stay"), {}),
        (("a", "<|eot_id|>", "b"), {findings.SPECIAL: "<|eot_id|>"}),
        (("a", "", "b</s>"), {findings.SPECIAL: "</s>"}),
        (("a", "", "x < s > y and <strong>"), {}),
        (("你是谁？", "", "我是[NAME]，由[机构]开发。"), {findings.PLACEHOLDER: "[NAME]"}),
        (("你是ChatGPT吗？", "", "我是ChatGPT。"), {findings.FOREIGN_NAME: "ChatGPT"}),
        (("Who made you?", "", "I was made by the team of BayLing."), {findings.FOREIGN_NAME: "BayLing"}),
        (("What is Gemini?", "", "Gemini is a constellation."), {}),
        (("你是百聆吗？", "", "不是，我是星语者。"), {}),
    ],
)
def test_suspicions(row: tuple[str, str, str], kinds: dict[str, str]) -> None:
    assert dict(suspicions(Triple(*row))) == kinds


def test_the_shipped_corpus_is_above_suspicion() -> None:
    for category in corpus.CATEGORIES:
        for row in corpus.shipped(category):
            assert not list(suspicions(row)), row
