"""Questions and answers from files of many forms, and broken ones of both."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import SHARED

from stellar_local.errors import StellarError
from stellar_local.evaluate.pairwise.given import read_answers
from stellar_local.evaluate.pairwise.pairs import Pair, paired
from stellar_local.evaluate.pairwise.questions import Question, read_questions

BAYLING = SHARED / "data" / "bayling-80"


def write(path: Path, *lines: Any) -> Path:
    path.write_bytes(
        b"".join(
            (line if isinstance(line, bytes) else json.dumps(line, ensure_ascii=False).encode()) + b"\n"
            for line in lines
        )
    )
    return path


def test_every_form_of_a_question(tmp_path: Path) -> None:
    path = write(
        tmp_path / "q.jsonl",
        {"question_id": 81, "category": "writing", "turns": ["Write.", "Rewrite."], "reference": ["r1", "r2"]},
        {"question_id": "a b", "text": "你好，黑洞是什么？"},
        {"prompt": "Hi", "language": "Chinese"},
        {"instruction": "Translate", "input": "hello", "category": 7},
        {"question": ["One?"], "lang": "zh-CN", "turns": None},
    )
    questions, broken = read_questions([path])
    assert broken == 0
    found = {question.id: question for question in questions}
    assert found["81"] == Question("q:81", "81", ("Write.", "Rewrite."), "writing", "en", ("r1", "r2"), 0)
    assert found["a b"].language == "zh"
    assert found["3"].language == "zh"  # without an id: its place
    assert found["4"].turns == ("Translate\nhello",)
    assert found["4"].category == "7"
    assert found["5"].language == "zh"


def test_broken_rows_are_named_and_the_rest_is_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(
        tmp_path / "q.jsonl",
        b"{broken",
        {"question_id": 1, "text": "fine"},
        {"question_id": 2},
        {"question_id": 1, "text": "the same id"},
        {"question_id": 3, "text": ["one", ""]},
        {"question_id": 4, "turns": ["one", 2]},
        {"question_id": True, "text": "x"},
        {"question_id": 5, "text": "x", "reference": ["a", "b"]},
        b'{"question_id": 6, "text": "\xff"}',
        b'{"question_id": 7, "text": "\\ud800"}',
        [1],
        {"question_id": 8, "text": "also fine"},
    )
    questions, broken = read_questions([path])
    assert [question.id for question in questions] == ["1", "8"]
    assert broken == 10
    said = capsys.readouterr().err
    assert "line 1: not JSON" in said
    assert "line 3: it has no question" in said
    assert "line 4: the id 1 is there twice" in said


@pytest.mark.parametrize("content", [b"", b"\n \n", b"[]", b'{"id": 1}\n', b"[{]"])
def test_a_file_without_any_question_is_an_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_bytes(content)
    with pytest.raises(StellarError):
        read_questions([path])


def test_several_files_and_a_limit(tmp_path: Path) -> None:
    """Every beginning has some of each language and category."""
    names = "generic", "math"
    rows = [{"question_id": n, "text": f"What {n}?", "category": names[n // 10]} for n in range(20)]
    english = write(tmp_path / "en.jsonl", *rows)
    chinese = write(tmp_path / "zh.jsonl", *[{**row, "text": f"问题{row['question_id']}？"} for row in rows])
    questions, _ = read_questions([english, chinese], 8)
    assert Counter((one.language, one.category) for one in questions) == {
        (language, name): 2 for language in ("en", "zh") for name in names
    }
    assert len({one.key for one in questions}) == 8
    more, _ = read_questions([english, chinese], 12)
    assert more[:8] == questions


def test_keys_are_unique_whatever_files_are_called(tmp_path: Path) -> None:
    one, other = tmp_path / "a" / "x", tmp_path / "b" / "x"
    for folder in (one, other):
        folder.mkdir(parents=True)
    row = {"question_id": 1, "text": "?"}
    paths = [write(one / "q.jsonl", row), write(other / "q.jsonl", row), write(one / "q.json", row)]
    questions, broken = read_questions(paths)
    assert {question.key for question in questions} == {"1:q.jsonl:1", "2:q.jsonl:1", "q.json:1"}
    assert broken == 0
    assert [question.key for question in read_questions(paths[:1])[0]] == ["q:1"]


def test_an_id_that_makes_anothers_key_is_broken(tmp_path: Path) -> None:
    first = write(tmp_path / "q", {"id": "x:1", "text": "?"})
    second = write(tmp_path / "q:x", {"id": "1", "text": "?"}, {"id": "2", "text": "?"})
    questions, broken = read_questions([first, second])
    assert {question.key for question in questions} == {"q:x:1", "q:x:2"}
    assert broken == 1


@pytest.mark.skipif(not BAYLING.exists(), reason="BayLing-80 is not here")
def test_bayling_80_as_published() -> None:
    questions, broken = read_questions(sorted(BAYLING.glob("*.jsonl")))
    assert broken == 0
    assert Counter((one.language, len(one.turns)) for one in questions) == {
        (language, turns): 80 for language in ("en", "zh") for turns in (1, 2)
    }
    assert {one.category for one in questions} >= {"generic", "knowledge", "coding", "math"}


QUESTIONS = [
    Question(f"q:{id}", str(id), ("?",) * turns, position=at) for at, (id, turns) in enumerate([(1, 1), (2, 2)])
]


def replies(tmp_path: Path, *lines: Any) -> list[Any]:
    found = read_answers(write(tmp_path / "a.jsonl", *lines), QUESTIONS)
    return [one.message if isinstance(one, StellarError) else one for one in found.values()]


def test_every_form_of_answers(tmp_path: Path) -> None:
    fastchat = {"answer_id": "x", "model_id": "m", "tstamp": 1.0}
    assert replies(
        tmp_path,
        {**fastchat, "question_id": 1, "choices": [{"index": 0, "turns": ["一"]}]},
        {**fastchat, "question_id": 2, "choices": [{"index": 0, "turns": ["一", "二"]}]},
    ) == [("一",), ("一", "二")]
    assert replies(tmp_path, {"question_id": 1, "text": "x"}, {"id": 2, "turns": ["a", "b"]}) == [("x",), ("a", "b")]
    ours = {"stellar_eval": 1, "task": "answers"}
    assert replies(tmp_path, ours, {"key": "q:1", "answers": ["x"]}, {"key": "q:2", "answers": ["a"]}) == [
        ("x",),
        "a.jsonl has 1 answers for 2 turns",
    ]
    assert replies(tmp_path, {"id": "1", "index": 0, "text": ""}, {"id": 2, "error": {"message": "too long"}}) == [
        ("",),
        "too long",
    ]
    assert replies(tmp_path, {"question_id": 1, "answer": "x"}) == [("x",), "a.jsonl has no answer to it"]


def test_a_batch_that_numbered_its_lines_answers_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replies(tmp_path, {"id": 0, "index": 0, "text": "first"}, {"id": 1, "index": 1, "text": "second"}) == [
        ("first",),
        "a.jsonl has 1 answers for 2 turns",
    ]
    assert "in their order" in capsys.readouterr().err


@pytest.mark.parametrize("lines", [[], [{"text": "no id"}], [{"id": 99, "text": "of nothing"}], [{"id": 1, "x": 1}]])
def test_a_file_that_answers_nothing_is_an_error(lines: list[Any], tmp_path: Path) -> None:
    with pytest.raises(StellarError):
        replies(tmp_path, *lines)


def test_pairs_and_what_is_missing() -> None:
    error = StellarError("no")
    pairs, missing = paired(QUESTIONS, {"q:1": ("a",), "q:2": error}, {"q:1": ("a ",), "q:2": ("x", "y")})
    assert pairs == [Pair(QUESTIONS[0], ("a",), ("a ",))]
    assert pairs[0].same
    assert missing == {"q:2": error}
    assert pairs[0].digest != Pair(QUESTIONS[0], ("a",), ("a",)).digest
    assert Pair(QUESTIONS[0], ("ab",), ("c",)).digest != Pair(QUESTIONS[0], ("a",), ("bc",)).digest
