"""Astro-QA put to a model: items, records, figures, and the command on a tiny model, killed and run again."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from click.testing import CliRunner
from conftest import Stellar

from stellar_local.config import SamplingOptions
from stellar_local.engine import Answer
from stellar_local.engine.request import Timing, Usage
from stellar_local.errors import MissingExtraError, UsageError
from stellar_local.evaluate.asking import Ask, Rate, Rated
from stellar_local.evaluate.astro_qa import official, questions
from stellar_local.evaluate.astro_qa.command import astro_qa
from stellar_local.evaluate.astro_qa.figures import figures
from stellar_local.evaluate.astro_qa.questions import Question, load
from stellar_local.evaluate.astro_qa.task import AstroQA
from stellar_local.evaluate.results import Metric
from stellar_local.evaluate.statistics import mean_interval, wilson

SHEETS: dict[str, list[list[Any]]] = {
    "ZH/single_ZH.xlsx": [
        ["ID", "Subfield", "Question", "A", "B", "C", "D", "Answer", "Parse"],
        [1, "天体测量学", "天狼星位于哪个星座？", "猎户座", "大犬座", "小犬座", "天鹅座", "B", "略"],
        [2, "天体物理学", "最热的行星是？", "水星", "金星", "地球", "火星", "B", "略"],
        [3, "天体物理学", "月球绕什么转？", "太阳", "火星", "金星", "地球", "D", "略"],
    ],
    "ZH/multi_ZH.xlsx": [
        ["ID", "Subfiled", "Question", "A", "B", "C", "D", "Answer", "Parse"],
        [1, "天体物理学", "哪些是行星？", "水星", "月球", "火星", "天狼星", "AC", "略"],
        [2, "天体物理学", "哪些是恒星？", "太阳", "天狼星", "火星", "月球", "AB", "略"],
    ],
    "ZH/subjective_ZH.xlsx": [
        ["ID", "Type", "Question", "Prompt", "World Count", "Answer"],
        [1, "名词解释", "黄道", None, 10, "太阳在天球上的视路径"],
        [2, "简答", "为什么有四季？", None, 12, "因为地球的自转轴是倾斜的"],
    ],
    "EN/judgment_EN.xlsx": [
        ["ID", "Question", "Answer", "Parse"],
        [1, "The Moon orbits the Earth.", True, "Omitted"],
        [2, "The Sun is a planet.", 0, "Omitted"],
        [3, "Mars has two moons.", True, "Omitted"],
    ],
    "EN/matching_EN.xlsx": [
        ["ID", "Title ID", "Group 1", "Group 2", "Answer"],
        [1, 1, "1687", "Galileo", "[('1687', 'Newton'), ('1610', 'Galileo')]"],
        [2, None, "1610", "Newton", None],
    ],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("astro")
    for name, rows in SHEETS.items():
        made = openpyxl.Workbook()
        for row in rows:
            made.active.append(row)
        (folder / name).parent.mkdir(exist_ok=True)
        made.save(folder / name)
    return folder


def task(data: Path, samples: int = 1, **more: Any) -> AstroQA:
    return AstroQA(load(data), SamplingOptions(temperature=0.7 if samples > 1 else 0), samples, **more)


def said(text: str, finish: Any = "stop") -> Answer:
    return Answer(text, finish, Usage(1, 1, 0), Timing(0, 0, 0), 1)


def records(
    made: AstroQA, answers: dict[str, Sequence[str]], rated: dict[str, Sequence[float]]
) -> list[dict[str, Any]]:
    """The records of answers by the questions' keys, one a sample, and of ratings."""
    found = []
    for item in made.items():
        about: Question = item.about
        outcome: Any
        if isinstance(item, Rate):
            outcome = [Rated(value, 1) for value in rated[about.key]]
        else:
            outcome = said(answers[about.key][int(item.key.rpartition("#")[2]) - 1])
        found.append({"key": item.key, **made.record(item, outcome)})
    assert json.loads(json.dumps(found)) == found  # as the log gives them back
    return found


def test_items(data: Path) -> None:
    made = task(data, 2)
    items = made.items()
    assert len({item.key for item in items}) == len(items) == 6 + 2 * 11
    keys = [item.key for item in items if "single" in item.key]
    assert keys[:3] == ["ZH/single_ZH.xlsx:2#options", "ZH/single_ZH.xlsx:2#1", "ZH/single_ZH.xlsx:2#2"]
    kinds = {(item.about.language, item.about.kind) for item in items[:20]}
    assert len(kinds) == 6  # every beginning has all kinds
    asks = [item for item in items if isinstance(item, Ask)]
    assert len({ask.sampling.seed for ask in asks}) == len(asks)
    assert [ask.sampling.seed for ask in asks] == [
        ask.sampling.seed for ask in task(data, 2).items() if isinstance(ask, Ask)
    ]
    assert {ask.sampling.max_tokens for ask in asks} == {256, 512, 1024}
    assert [path.name for path in made.data] == [Path(name).name for name in sorted(SHEETS)]
    assert task(data, modes=("likelihood",)).settings == task(data).settings  # so a run can go on with another mode
    assert made.settings["rules"] == 2  # so no log mixes readings by different rules
    assert {type(item) for item in task(data, modes=("likelihood",)).items()} == {Rate}
    assert {type(item) for item in task(data, modes=("generation",)).items()} == {Ask}


RIGHT = {
    "ZH/single_ZH.xlsx:2": ["答案是：B"],
    "ZH/single_ZH.xlsx:3": ["答案是：A"],
    "ZH/single_ZH.xlsx:4": ["不知道"],
    "ZH/multi_ZH.xlsx:2": ["答案是：A、C"],
    "ZH/multi_ZH.xlsx:3": ["答案是：AAA"],
    "ZH/subjective_ZH.xlsx:2": ["太阳在天球上的视路径"],
    "ZH/subjective_ZH.xlsx:3": [" "],
    "EN/judgment_EN.xlsx:2": ["The statement is true."],
    "EN/judgment_EN.xlsx:3": ["The statement is true."],
    "EN/judgment_EN.xlsx:4": ["True"],
    "EN/matching_EN.xlsx:2": ["Match 1: ('1687', 'Newton')"],
}
RATED = {
    "ZH/single_ZH.xlsx:2": [-3.0, -1.0, -2.0, -4.0],
    "ZH/single_ZH.xlsx:3": [-3.0, -1.0, -2.0, -4.0],
    "ZH/single_ZH.xlsx:4": [-3.0, -1.0, -2.0, -4.0],
    "EN/judgment_EN.xlsx:2": [-1.0, -2.0],
    "EN/judgment_EN.xlsx:3": [-2.0, -1.0],
    "EN/judgment_EN.xlsx:4": [-2.0, -1.0],
}


def values(metrics: Sequence[Metric]) -> dict[tuple[str, str, str], Metric]:
    found = {(one.language, one.group, one.name): one for one in metrics}
    assert len(found) == len(metrics)
    return found


def test_figures_by_hand(data: Path) -> None:
    made = task(data, with_official=True)
    metrics, notes = made.summarise(records(made, RIGHT, RATED))
    found = values(metrics)

    def value(language: str, group: str, name: str) -> float:
        number = found[language, group, name].value
        assert number is not None
        return number

    generated = found["zh", "single-4", "accuracy, generated"]
    assert (generated.value, generated.n) == (pytest.approx(1 / 3), 3)
    assert (generated.low, generated.high) == pytest.approx(wilson(1, 3))
    assert value("zh", "single-4", "accuracy, likelihood") == pytest.approx(2 / 3)
    assert value("zh", "single-4", "most frequent answer") == pytest.approx(2 / 3)
    assert value("zh", "single-4", "no answer found") == pytest.approx(1 / 3)
    assert value("zh", "multi", "exactly right") == 0.5
    assert value("zh", "multi", "points of 2") == pytest.approx((2 + 0.5) / 2 / 2)
    assert value("zh", "terminology", "chrF") == pytest.approx(100)
    assert value("zh", "terminology", "BLEU") == pytest.approx(100)
    assert value("zh", "short-answer", "chrF") == 0
    assert value("zh", "short-answer", "empty answers") == 1
    assert value("en", "judgment", "accuracy, generated") == pytest.approx(2 / 3)
    assert value("en", "judgment", "accuracy, likelihood") == pytest.approx(2 / 3)
    assert value("en", "objective types", "accuracy, generated") == pytest.approx(2 / 3)
    assert value("en", "matching", "pairs right") == 0.5
    assert value("en", "matching", "all pairs right") == 0
    assert value("en", "matching", "pairs right by chance") == 0.5
    assert value("zh", "天体物理学", "accuracy, generated") == 0
    assert found["zh", "天体测量学", "accuracy, likelihood"].detail
    assert value("zh", "official", "single-4 Top-1") == pytest.approx(1 / 3)
    assert value("zh", "official", "multi points") == 2 + 1.5  # AAA of AB: the script's fault
    assert value("en", "official", "matching Top-1") == pytest.approx(1 / 355)
    assert value("en", "official", "DGscore, all weights 1") == pytest.approx(0.5 * 2 + 3)
    told = "\n".join(notes)
    for part in (
        "zh single-4: no answer was found in 1 of 3: 1 × it names no option",
        "zh single-4: the most frequent answer is B",
        "zh terminology BLEU: nrefs:1|",
        "tok:zh",
        "official, zh: DGscore lacks single-5, judgment, matching",
        "official, zh: rouge raises on 1 answers",
        "unpublished",
    ):
        assert part in told
    for one in metrics:
        assert one.low is None or one.value is None or one.low <= one.value + 1e-9


def test_several_samples(data: Path) -> None:
    made = task(data, 3, with_official=True)
    answers = {key: own * 3 for key, own in RIGHT.items()}
    answers["ZH/single_ZH.xlsx:3"] = ["答案是：A", "答案是：B", "答案是：C"]
    found = values(made.summarise(records(made, answers, RATED))[0])
    mean = found["zh", "single-4", "accuracy, generated"]
    assert (mean.value, mean.n) == (pytest.approx((1 + 1 / 3 + 0) / 3), 3)
    assert found["zh", "single-4", "right in any of 3 samples"].value == pytest.approx(2 / 3)
    assert found["zh", "official", "single-4 Top-1"].value == pytest.approx((1 + 1 / 3) / 3)
    assert found["zh", "official", "single-4 Top-3"].value == pytest.approx(2 / 3)
    assert found["zh", "multi", "points of 2"].n == 2
    assert found["zh", "terminology", "chrF"].value == pytest.approx(100)


def test_published_points_of_letters_not_words(data: Path) -> None:
    made = task(data, with_official=True)
    said = {**RIGHT, "ZH/multi_ZH.xlsx:2": ["A. 水星\nC. 火星"], "ZH/multi_ZH.xlsx:3": ["答案是：AAB"]}
    found = values(made.summarise(records(made, said, RATED))[0])
    assert found["zh", "official", "multi points"].value == 2 + 1.5  # a letter of a name is no answer


def test_published_scores_have_the_published_rows(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(official, "ROWS", {**official.ROWS, "single-4": 2})
    made = task(data, with_official=True)
    answers = {**RIGHT, "ZH/single_ZH.xlsx:4": ["答案是：D"]}
    found = values(made.summarise(records(made, answers, RATED))[0])
    assert (found["zh", "official", "single-4 Top-1"].value, found["zh", "official", "single-4 Top-1"].n) == (0.5, 2)
    assert found["zh", "single-4", "accuracy, generated"].n == 3


def points(values: Sequence[float]) -> Metric:
    """The mean points of a multiple choice each."""
    about = {"mode": "generation", "language": "zh", "kind": "multi", "subfield": "", "gold": "ABD", "sample": 1}
    more = {"found": "AB", "written": "AB", "right": False, "why": "", "finish_reason": "stop", "place": 1}
    made = [{**about, **more, "id": str(number), "score": value} for number, value in enumerate(values)]
    return next(one for one in figures(made, False)[0] if one.name == "points of 2")


def test_intervals_of_points() -> None:
    mixed = [0.5, 1.0, 1.5, 2.0, 0.0, 1.0]
    found = points(mixed)
    assert (found.value, found.low, found.high) == pytest.approx(mean_interval([value / 2 for value in mixed]))
    equal = points([1.0] * 20)  # which all resamples agree on
    assert (equal.value, equal.low, equal.high) == pytest.approx((0.5, *wilson(10, 20)))
    alone = points([1.0])
    assert (alone.value, alone.low, alone.high) == (0.5, None, None)


def test_some_records_and_none(data: Path) -> None:
    made = task(data, with_official=True)
    assert made.summarise([])[0] == []
    every = records(made, RIGHT, RATED)
    failed = [{"key": one["key"], "error": {"type": "error", "message": "x"}} for one in every]
    assert made.summarise(failed)[0] == []
    for number in range(1, len(every)):
        for one in made.summarise(every[:number])[0]:
            assert one.value is not None and math.isfinite(one.value)


def test_a_model_that_says_nothing(data: Path) -> None:
    made = task(data, with_official=True)
    silent = {key: [""] for key in RIGHT}
    metrics, notes = made.summarise(records(made, silent, RATED))
    found = values(metrics)
    for language, kind in (("zh", "single-4"), ("zh", "multi"), ("en", "judgment"), ("en", "matching")):
        assert found[language, kind, "no answer found"].value == 1
    assert found["zh", "terminology", "empty answers"].value == 1
    assert "zh single-4: no answer was found in 3 of 3: 3 × it says nothing" in notes
    cut = made.record(
        next(item for item in made.items() if item.key.endswith("single_ZH.xlsx:2#1")), said("嗯", "length")
    )
    assert cut["why"] == "it names no option before it was cut"


def test_options_of_the_command(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: str) -> UsageError:
        with pytest.raises(UsageError) as caught:
            CliRunner().invoke(astro_qa, ["--data", str(data), "m.gguf", *arguments], catch_exceptions=False)
        return caught.value

    assert "--types has no poems" in fails("--types", "single-4,poems").message
    assert "all the same" in fails("--samples", "3", "--temperature", "0").message
    monkeypatch.setitem(__import__("sys").modules, "jieba", None)
    with pytest.raises(MissingExtraError) as missing:
        AstroQA(load(data), SamplingOptions(), with_official=True)
    assert missing.value.hint == "pip install 'stellar-local[eval]'"


def test_the_command(data: Path, spm_model: Path, stellar: Stellar, tmp_path: Path) -> None:
    arguments = ["eval", "astro-qa", "--data", data, spm_model, "--max-tokens", "6", "--out", tmp_path / "out"]
    first = stellar(*arguments, "--limit", "7")
    assert first.returncode == 0, first.stderr
    log = tmp_path / "out" / "astro-qa--tiny-F32.jsonl"
    begun = log.read_bytes()
    assert begun.count(b"\n") == 1 + 7
    log.write_bytes(begun[:-9])  # as a killed process leaves it
    done = stellar(*arguments, "--official", "--json")
    assert done.returncode == 0, done.stderr
    assert "6 of 17 items were measured before" in done.stderr
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    assert len({one["key"] for one in lines[1:]}) == len(lines) - 1 == 17
    assert lines[1]["key"].endswith("#options")
    assert sum(math.exp(value) for value in lines[1]["logprobs"].values()) <= 1
    assert {one["kind"] for one in lines[1:]} <= set(questions.KINDS)
    (shown,) = json.loads(done.stdout)
    names = {(one.get("group"), one["name"]) for one in shown["metrics"]}
    assert {("judgment", "accuracy, likelihood"), ("official", "DGscore, all weights 1")} <= names
