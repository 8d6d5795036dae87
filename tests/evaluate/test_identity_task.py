"""`stellar eval identity`: which questions are put under which system line, what is kept of answers, and the shares."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from stellar_local.config import SamplingOptions
from stellar_local.engine import Answer
from stellar_local.errors import StellarError, UsageError
from stellar_local.evaluate.identity.command import identity
from stellar_local.evaluate.identity.knowing import Identity
from stellar_local.evaluate.identity.questions import SHIPPED, read_questions
from stellar_local.evaluate.results import Metric, read_log, read_summaries
from stellar_local.evaluate.statistics import wilson

OPTIONS = SamplingOptions(temperature=0, max_tokens=8)


def answer(text: str) -> Answer:
    return Answer(text=text, finish_reason="stop", usage=None, timing=None, seed=0)  # type: ignore[arg-type]


def task(*conditions: str) -> Identity:
    return Identity(SHIPPED, read_questions(SHIPPED)[0], conditions, OPTIONS)


def run(*arguments: object) -> Result:
    done = CliRunner().invoke(identity, [*map(str, arguments)], standalone_mode=False)
    if isinstance(done.exception, StellarError):
        raise done.exception
    return done


def found(metrics: list[Metric], group: str, name: str, language: str = "") -> Metric:
    (one,) = [one for one in metrics if (one.group, one.name, one.language) == (group, name, language)]
    return one


def test_every_question_is_put_with_and_without_the_system_line() -> None:
    items = task("with", "without").items()
    assert len({item.key for item in items}) == len(items) == 2 * len(read_questions(SHIPPED)[0])
    assert {(item.about[1], item.system) for item in items} == {("with", None), ("without", "")}
    assert all(item.sampling == OPTIONS for item in items)
    one = {item.key: item.turns for item in task("without").items()}
    assert one == {item.key: item.turns for item in items if item.key.endswith("/without")}


def test_a_limited_run_is_of_all_languages_and_kinds() -> None:
    first = [item.about[0] for item in task("with").items()[:22]]
    assert len({(question.language, question.kind) for question in first}) == 22


def test_records_and_figures_by_hand() -> None:
    """Three answers with the system line, two without; each part counted apart."""
    measured = task("with", "without")
    said = {
        ("name", "en"): "I am StellarSpeak.",
        ("developer", "en"): "I am StellarSpeak.",
        ("other", "zh"): "是的，我是星语者，也是百聆。",
    }
    records: list[dict[str, Any]] = []
    for (kind, language), text in said.items():
        item = next(one for one in measured.items() if (one.about[0].kind, one.about[0].language) == (kind, language))
        records.append({"key": item.key, **measured.record(item, answer(text))})
    for one in records[:2]:
        records.append({**one, "key": one["key"].replace("with", "without"), "system_line": "without"})
    records.append({"key": "0001/other", "error": {"type": "odd", "message": "failed"}})
    assert [one["why"] for one in records[:3]] == ["", "does not name its developer", "claims a forbidden name"]
    assert records[2]["verdict"] == {"name": True, "developer": None, "forbidden": ["百聆"], "reply": False}
    assert records[1]["expected"] == "StellarSpeak or 星语者; developed by 星语调校局"

    metrics, notes = measured.summarise(records)
    right = found(metrics, "system line", "right")
    assert (right.value, right.n, (right.low, right.high)) == (pytest.approx(1 / 3), 3, wilson(1, 3))
    assert not right.detail
    assert found(metrics, "system line", "names itself").value == 1
    assert (found(metrics, "system line", "names its developer").value, right.better) == (0, "higher")
    wrong = found(metrics, "system line", "names its base or another")
    assert (wrong.value, wrong.better) == (pytest.approx(1 / 3), "lower")
    assert (found(metrics, "system line", "wrong yes or no").value, found(metrics, "no system line", "right").n) == (
        1,
        2,
    )
    assert found(metrics, "system line", "right", "zh").value == 0
    assert not found(metrics, "system line", "right", "zh").detail
    assert found(metrics, "system line: other", "right").detail
    assert any("may name who made it" in note for note in notes)
    assert not any("may name who made it" in note for note in task("with").summarise(records)[1])


def test_no_records_give_no_figures() -> None:
    assert task("with").summarise([])[0] == []


def test_the_command_measures_lists_failures_and_goes_on(spm_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = [spm_model, "--out", out, "--max-tokens", 4, "--gpu-layers", 0]
    done = run(*options, "--limit", 3, "--system-line", "without", "--failures", 2)
    assert done.exit_code == 0
    assert "no system line · right" in done.stdout
    assert "3 of 3 answers are wrong" in done.stderr
    assert done.stderr.count("✗ without system line: does not give its name") == 2
    assert "… and 1 more" in done.stderr
    header, records = read_log(out / "identity--tiny-F32.jsonl")
    assert header["settings"]["sampling"]["max_tokens"] == 4
    assert header["settings"]["sampling"]["temperature"] == 0
    assert len(records) == 3
    more = run(*options, "--limit", 4, "--failures", 0)
    assert "wrong" not in more.stderr
    kept = read_log(out / "identity--tiny-F32.jsonl")[1]
    assert [one["key"] for one in kept[:3]] == [one["key"] for one in records], "they were not asked again"
    assert len(kept) == 3 + 4 - 2, "two of the four had been asked without a system line"
    (summary,) = read_summaries(out)
    assert found(list(summary.metrics), "system line", "right").n == 2
    with pytest.raises(UsageError, match="measured otherwise"):
        run(*options, "--temperature", 1)


def test_broken_lines_end_with_1_after_the_rest_was_asked(spm_model: Path, tmp_path: Path) -> None:
    good = {"instruction": "Who are you?", "kind": "name", "expect": {"name": ["Star\x1b[31m"], "forbid": ["Base"]}}
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps(good) + "\n{\n")
    out = tmp_path / "out"
    done = run(spm_model, "--questions", path, "--out", out, "--max-tokens", 4, "--gpu-layers", 0)
    assert isinstance(done.exception, SystemExit)
    assert done.exit_code == 1
    assert "line 2: not JSON" in done.stderr
    assert "1 broken lines" in done.stderr
    assert "\x1b" not in done.stderr
    assert len(read_log(out / "identity--tiny-F32.jsonl")[1]) == 2
