"""The questions of `stellar eval identity`: the shipped file is what the command makes, and bad lines are told."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from stellar_local.errors import StellarError
from stellar_local.evaluate.identity.judge import failure
from stellar_local.evaluate.identity.questions import SHIPPED, read_questions
from train import corpus
from train.cli import data
from train.identity.overlap import nearest
from train.identity.phrasings import Names
from train.identity.rows import measure_of

NAMES = {"name": "StellarSpeak", "name_zh": "星语者", "developer": "星语调校局", "base": "BayLing", "base_zh": "百聆"}
MAKERS = (
    *("ICT", "中国科学院计算技术研究所", "中科院计算所", "Institute of Computing Technology"),
    *("Chinese Academy of Sciences", "中国科学院"),
)
GOOD: dict[str, Any] = {
    "instruction": "Who are you?",
    "expect": {"name": ["Star"], "developer": [], "forbid": ["Base"]},
}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def written(path: Path, *rows: Any) -> Path:
    text = "".join((row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    return path


def test_the_shipped_questions_are_what_the_command_makes(tmp_path: Path) -> None:
    given = [part for key, value in NAMES.items() for part in (f"--{key.replace('_', '-')}", value)]
    given += [part for maker in MAKERS for part in ("--base-developer", maker)]
    paths = ["--out", str(tmp_path / "rows"), "--held-out", str(tmp_path / "questions")]
    done = CliRunner().invoke(data, ["identity", *given, "--topic", "astronomy/天文学", *paths])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "questions").read_bytes() == SHIPPED.read_bytes()


def test_the_shipped_questions_are_enough_and_of_all_kinds() -> None:
    questions, broken = read_questions(SHIPPED)
    assert not broken
    counts = Counter(question.language for question in questions)
    assert counts["zh"] >= 50
    assert counts["en"] >= 50
    kinds = {"name", "developer", "about", "base", "human", "self", "mixed", "other", "called", "maker", "preface"}
    for language in ("zh", "en"):
        assert {question.kind for question in questions if question.language == language} == kinds
    assert all({"BayLing", "百聆", "中科院计算所"} <= set(question.expect["forbid"]) for question in questions)
    assert all(not failure(row["output"], row["expect"]) for row in lines(SHIPPED)), "each has an answer that is right"


def test_no_question_is_near_one_that_the_package_trains_on() -> None:
    measure = measure_of(Names(**NAMES, base_developers=MAKERS))
    trained = [row.instruction for category in corpus.CATEGORIES for row in corpus.shipped(category)]
    keys = [measure.key(instruction) for instruction in trained]
    for question in read_questions(SHIPPED)[0]:
        place = nearest(measure.key(question.instruction), keys)
        assert place is None, (question.instruction, trained[place])


def test_broken_lines_are_told_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expect = GOOD["expect"]
    bad = {
        "not JSON": "{",
        "must be a JSON object, not list": [1],
        'it lacks "instruction"': {"expect": expect},
        '"instruction" is empty': {**GOOD, "instruction": "  "},
        '"instruction" must be a text, not 3': {**GOOD, "instruction": 3},
        'it lacks "expect"': {"instruction": "你是谁？"},
        'gives no "name"': {**GOOD, "expect": {"name": []}},
        '"name" must be a list of names': {**GOOD, "expect": {"name": "Star"}},
        '"forbid" must be a list': {**GOOD, "expect": {**expect, "forbid": [1]}},
        '"developer" has a name without letters': {**GOOD, "expect": {**expect, "developer": ["!"]}},
        "both wants and forbids star": {**GOOD, "expect": {**expect, "forbid": ["star"]}},
        '"reply" must be "yes" or "no"': {**GOOD, "expect": {**expect, "reply": "maybe"}},
        "half a character": '{"instruction": "\\ud800"}',
        "not UTF-8": '{"instruction": "\udce4"}',
    }
    path = written(tmp_path / "questions.jsonl", GOOD, *bad.values(), "", {**GOOD, "instruction": "你是谁？"})
    questions, broken = read_questions(path)
    assert [(one.text, one.language, one.kind) for one in questions] == [
        ("Who are you?", "en", "other"),
        ("你是谁？", "zh", "other"),
    ]
    assert [one.place for one in broken] == [f"line {number}" for number in range(2, 2 + len(bad))]
    told = capsys.readouterr().err.splitlines()
    for (reason, _), one, line in zip(bad.items(), broken, told, strict=True):
        assert reason in one.reason
        assert one.place in line
        assert "left out" in line


def test_a_language_is_known_however_a_row_names_it(tmp_path: Path) -> None:
    names = ("Chinese", "zh-CN", "EN", "mixed", " ")
    path = written(tmp_path / "questions.jsonl", *({**GOOD, "language": name} for name in names))
    assert [one.language for one in read_questions(path)[0]] == ["zh", "zh", "en", "mixed", "en"]


@pytest.mark.parametrize("text", ["", "\n \n", "[]", "{}", "[{", '{"instruction": "?"}\n'])
def test_a_file_without_any_question_is_an_error(text: str, tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text(text)
    with pytest.raises(StellarError, match="no row that can be used|damaged JSON list") as caught:
        read_questions(path)
    assert "--held-out" in caught.value.hint


def test_a_list_is_read_too_and_a_missing_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "questions.json"
    path.write_text("\ufeff" + json.dumps([GOOD, GOOD]), encoding="utf-8")
    assert len(read_questions(path)[0]) == 2
    with pytest.raises(StellarError, match="not found"):
        read_questions(tmp_path / "none")
    with pytest.raises(StellarError, match="cannot read"):
        read_questions(tmp_path)
