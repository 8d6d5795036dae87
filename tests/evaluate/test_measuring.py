"""Measuring: items are asked once, logged as they come, gone on with after whatever ended the run."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from stellar_local.config import RuntimeOptions, SamplingOptions
from stellar_local.errors import ExitCode, ModelError, RequestError, StellarError, UsageError
from stellar_local.evaluate.asking import Ask, Item, Rate, Score, requests_of
from stellar_local.evaluate.measuring import Measurement, measure
from stellar_local.evaluate.results import (
    Metric,
    log_path,
    read_log,
    read_summaries,
    read_summary,
    summary_path,
    write_summary,
)
from stellar_local.evaluate.subject import Subject, describe
from stellar_local.prompts import Turn, template_folder

SHORT = SamplingOptions(temperature=0, max_tokens=4)
QUESTIONS = ("What is a star?", "你是谁？", "What is the Moon?", "月球绕着什么转？")


@dataclass
class Words:
    """A task for tests: answers to some questions, of which those in `failing` fail."""

    questions: Sequence[str] = QUESTIONS
    failing: set[str] = field(default_factory=set)
    settings: Mapping[str, Any] = field(default_factory=lambda: {"max_tokens": 4})
    data: Sequence[Path] = ()
    name: str = "words"
    recorded: list[str] = field(default_factory=list)

    def items(self) -> Sequence[Item]:
        return [Ask(question, (Turn(question),), sampling=SHORT) for question in self.questions]

    def record(self, item: Ask, outcome: Any) -> dict[str, Any]:
        self.recorded.append(item.key)
        if item.key in self.failing:
            raise RequestError("odd", "this one fails")
        return {"answer": outcome.text, "right": True}

    def summarise(self, records: Sequence[Mapping[str, Any]]) -> tuple[list[Metric], list[str]]:
        right = sum("error" not in one for one in records)
        return [Metric("answered", right / len(records), n=len(records))], ["a note"]


@pytest.fixture
def how(spm_model: Path, tmp_path: Path) -> Measurement:
    return Measurement([spm_model], tmp_path / "out", {"gpu_layers": 0})


def test_what_was_measured_is_not_measured_again(how: Measurement, capsys: pytest.CaptureFixture[str]) -> None:
    first = measure(Words(QUESTIONS[:2]), how)
    assert first.code == ExitCode.DONE
    task = Words()
    second = measure(task, how)
    assert sorted(task.recorded) == sorted(QUESTIONS[2:])
    (summary,) = second.summaries
    assert [(metric.name, metric.value, metric.n) for metric in summary.metrics] == [("answered", 1.0, 4)]
    assert summary.speed["completion_tokens"] > 0
    said = capsys.readouterr()
    assert "2 of 4 items were measured before" in said.err
    assert "100.0%" in said.out
    task = Words()
    third = measure(task, how)
    assert not task.recorded
    assert third.summaries[0].speed == summary.speed  # that of the run that measured


def test_what_failed_is_told_and_tried_again(how: Measurement, capsys: pytest.CaptureFixture[str]) -> None:
    failed = measure(Words(failing={QUESTIONS[1]}), how)
    assert failed.code == ExitCode.FAILED
    assert failed.summaries[0].metrics[0].value == 0.75
    assert f"{QUESTIONS[1]}: this one fails" in capsys.readouterr().err
    task = Words()
    assert measure(task, how).code == ExitCode.DONE
    assert task.recorded == [QUESTIONS[1]]
    _, records = read_log(log_path(how.out, "words", "tiny-F32"))
    assert len(records) == 4
    assert not any("error" in one for one in records)


def test_too_long_a_prompt_is_one_item_s_error(how: Measurement) -> None:
    done = measure(Words([QUESTIONS[0], "word " * 4000]), how)
    assert done.code == ExitCode.FAILED
    _, records = read_log(log_path(how.out, "words", "tiny-F32"))
    errors = [one["error"]["type"] for one in records if "error" in one]
    assert errors == ["context_length_exceeded"]


def test_other_settings_or_models_never_mix(how: Measurement, bpe_model: Path) -> None:
    measure(Words(), how)
    with pytest.raises(UsageError, match="max_tokens was 4, is 5"):
        measure(Words(settings={"max_tokens": 5}), how)
    with pytest.raises(UsageError, match="bytes was|parameters was|sha256 was"):
        measure(Words(), replace(how, models=[bpe_model], labels=["tiny-F32"]))
    assert measure(Words(), replace(how, command="stellar eval words, called otherwise")).code == ExitCode.DONE


def test_every_level_of_a_folder(how: Measurement, spm_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = measure(Words(), replace(how, models=[spm_folder], all_levels=True, json=True))
    assert [summary.label for summary in done.summaries] == ["tiny-F32", "tiny-Q8_0"]
    assert [summary.header["model"]["level"] for summary in done.summaries] == ["F32", "Q8_0"]
    shown = json.loads(capsys.readouterr().out)
    assert [one["model"] for one in shown] == ["tiny-F32", "tiny-Q8_0"]
    assert [one.label for one in read_summaries(how.out)] == ["tiny-F32", "tiny-Q8_0"]
    one = measure(Words(), replace(how, models=[spm_folder], out=how.out / "one", flags={"level": "q8_0"}))
    assert [summary.label for summary in one.summaries] == ["tiny-Q8_0"]


def test_labels(how: Measurement, spm_model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "other" / spm_model.name
    copy.parent.mkdir()
    copy.symlink_to(spm_model)
    with pytest.raises(UsageError, match="named twice"):
        measure(Words(), replace(how, models=[spm_model, copy]))
    copy.unlink()
    copy.write_bytes(spm_model.read_bytes())
    done = measure(Words(QUESTIONS[:1]), replace(how, models=[spm_model, copy]))
    assert [one.label for one in done.summaries] == ["spm-tiny-F32", "other-tiny-F32"]
    with pytest.raises(UsageError, match="1 labels for 2 models"):
        measure(Words(), replace(how, models=[spm_model, copy], labels=["a"]))
    with pytest.raises(UsageError, match="labels that are the same"):
        measure(Words(), replace(how, models=[spm_model, copy], labels=["a", "a"]))


def test_one_bad_model_of_two_is_told(how: Measurement, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ModelError, match="not found"):
        measure(Words(), replace(how, models=[tmp_path / "none.gguf"]))
    busy = log_path(how.out, "words", "tiny-F32")
    busy.parent.mkdir(parents=True)
    busy.write_text("no log\n")
    with pytest.raises(Exception, match="is no log of an evaluation"):
        measure(Words(), how)


def test_one_damaged_log_of_two_is_told(how: Measurement, spm_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    busy = log_path(how.out, "words", "tiny-F32")
    busy.parent.mkdir(parents=True)
    busy.write_text("no log\n")
    done = measure(Words(QUESTIONS[:1]), replace(how, models=[spm_folder], all_levels=True))
    assert done.code == ExitCode.FAILED
    assert [summary.label for summary in done.summaries] == ["tiny-Q8_0"]
    assert "tiny-F32: " in capsys.readouterr().err


def test_ctrl_c_ends_after_what_is_in_hand(
    how: Measurement, spm_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No other model is begun; and the same command goes on."""

    class Interrupted(Words):
        def record(self, item: Ask, outcome: Any) -> dict[str, Any]:
            if not self.recorded:
                os.kill(os.getpid(), signal.SIGINT)
            return super().record(item, outcome)

    questions = [f"What is star {number}?" for number in range(200)]
    models = replace(how, models=[spm_folder], all_levels=True, parallel=2)
    task = Interrupted(questions)
    done = measure(task, models)
    assert done.code == ExitCode.INTERRUPTED
    assert [summary.label for summary in done.summaries] == ["tiny-F32"]
    assert 1 <= len(task.recorded) <= 8  # of those in hand, none of those that only waited
    said = capsys.readouterr().err
    assert f"{200 - len(task.recorded)} items are not measured yet" in said
    assert "run the same command again" in said
    again = Words(questions)
    assert measure(again, replace(models, models=[spm_folder / "tiny-F32.gguf"])).code == ExitCode.DONE
    assert sorted([*task.recorded, *again.recorded]) == sorted(questions)


def test_what_else_a_log_depends_on(how: Measurement, spm_model: Path, tmp_path: Path) -> None:
    """The template's content, the KV type, the data: a change of any is another measurement."""
    template, rows = tmp_path / "t.json", tmp_path / "rows.txt"
    source = (template_folder() / "bayling.json").read_text(encoding="utf-8")
    template.write_text(source, encoding="utf-8")
    rows.write_text("a")
    given = replace(how, flags={**how.flags, "template": str(template)})
    measure(Words(data=[rows]), given)
    template.write_text(source.replace("Below", "Above"), encoding="utf-8")
    with pytest.raises(UsageError, match="template was"):
        measure(Words(data=[rows]), given)
    template.write_text(source, encoding="utf-8")
    assert measure(Words(data=[rows]), given).code == ExitCode.DONE
    with pytest.raises(UsageError, match='kv was "", is "f16"'):
        measure(Words(data=[rows]), replace(given, flags={**given.flags, "kv": "f16"}))
    rows.write_text("b")
    with pytest.raises(UsageError, match="the data have changed"):
        measure(Words(data=[rows]), given)


def test_adapters_and_changed_files_have_other_hashes(spm_model: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "a.gguf"
    adapter.write_bytes(b"one")
    options = RuntimeOptions(lora=(f"{adapter}:0.5",))
    (first,) = describe(Subject(spm_model, "x"), options, tmp_path)["lora"]
    assert first == {"file": "a.gguf", "scale": 0.5, "sha256": hashlib.sha256(b"one").hexdigest()}
    adapter.write_bytes(b"two")
    os.utime(adapter, ns=(1, 1))
    (second,) = describe(Subject(spm_model, "x"), options, tmp_path)["lora"]
    assert second["sha256"] == hashlib.sha256(b"two").hexdigest()


def test_a_smaller_limit_says_what_it_leaves_out(how: Measurement, capsys: pytest.CaptureFixture[str]) -> None:
    measure(Words(), how)
    done = measure(Words(), replace(how, limit=1))
    assert done.summaries[0].metrics[0].n == 1
    assert "3 more items are in the log, which this --limit leaves out" in capsys.readouterr().err


def test_a_record_that_somebody_has_edited_is_named(how: Measurement) -> None:
    class Strict(Words):
        def summarise(self, records: Sequence[Mapping[str, Any]]) -> tuple[list[Metric], list[str]]:
            return [Metric("right", sum(one["right"] for one in records) / len(records))], []

    measure(Strict(), how)
    path = log_path(how.out, "words", "tiny-F32")
    path.write_text(path.read_text(encoding="utf-8").replace('"right": true', '"wrong": true', 1), encoding="utf-8")
    with pytest.raises(StellarError, match="holds a record that cannot be read: KeyError"):
        measure(Strict(), how)


def test_labels_that_make_one_file_are_refused(how: Measurement, spm_folder: Path) -> None:
    for labels in (["a/b", "a_b"], ["a", " "]):
        with pytest.raises(UsageError, match="label"):
            measure(Words(), replace(how, models=[spm_folder], all_levels=True, labels=labels))


def test_deterministic_runs_are_their_own(how: Measurement) -> None:
    """One item at a time; and what ran otherwise is no beginning of it."""
    done = measure(Words(), replace(how, deterministic=True))
    assert done.summaries[0].speed["parallel"] == 1
    with pytest.raises(UsageError, match="deterministic was true, is false"):
        measure(Words(), how)


def test_two_items_of_one_key_are_refused(how: Measurement) -> None:
    with pytest.raises(StellarError, match="same key"):
        measure(Words(["?", "?"]), how)


def test_failed_items_are_not_missing_too(how: Measurement, capsys: pytest.CaptureFixture[str]) -> None:
    keys = ["q#0", "q#1", "q#2"]
    measure(Words(keys, failing={*keys}), how)
    said = capsys.readouterr().err
    assert "3 of 3 items failed" in said
    assert "not measured yet" not in said


def test_options_are_scored_from_where_they_may_differ() -> None:
    """An option may join with the prompt's end: all are scored from the earliest place where one does."""

    class Joining:
        def tokens(self, turns: object, system: object = None, begun: str = "") -> tuple[int, ...]:
            known = {"It is": (1, 2, 3), "It is a": (1, 2, 3, 4), "It isn't": (1, 2, 9, 8)}
            return known[begun]

        def adapter_set(self) -> tuple[()]:
            return ()

    made = requests_of(cast(Any, Joining()), Rate("k", (Turn("?"),), (" a", "n't"), begun="It is"))
    assert [(request.tokens, request.scored) for request in made] == [((1, 2, 3, 4), 2), ((1, 2, 9, 8), 2)]


def test_headers_and_labels_do_not_drive_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    from stellar_local.console import table

    for lines in (True, False):
        table(["a\x1b[31mred", "b"], [["c", "d"]], lines=lines)
    assert "\x1b[31m" not in capsys.readouterr().err


def test_rating_and_scoring_agree(how: Measurement) -> None:
    """An option's likelihood is the sum of its tokens' scores, with options of one token and of several."""

    class Options(Words):
        def items(self) -> Sequence[Item]:
            turns = (Turn("What is a star?"),)

            def make(runtime: Any) -> tuple[tuple[int, ...], int]:
                prompt, whole = runtime.tokens(turns, begun="It is"), runtime.tokens(turns, begun="It is a star")
                return whole, len(whole) - len(prompt)

            return [Rate("rate", turns, (" a star", " the Moon"), begun="It is"), Score("score", make)]

        def record(self, item: Any, outcome: Any) -> dict[str, Any]:
            if isinstance(item, Score):
                return {"logprob": sum(outcome.scores), "count": len(outcome.scores)}
            return {"logprobs": [one.logprob for one in outcome], "counts": [one.tokens for one in outcome]}

    assert measure(Options(), how).code == ExitCode.DONE
    _, records = read_log(log_path(how.out, "words", "tiny-F32"))
    found = {one["key"]: one for one in records}
    assert found["rate"]["counts"][0] == found["score"]["count"]
    assert found["rate"]["logprobs"][0] == pytest.approx(found["score"]["logprob"], abs=0.02)
    assert found["rate"]["logprobs"][0] != found["rate"]["logprobs"][1]


def test_metrics_survive_their_file(how: Measurement) -> None:
    class Odd(Words):
        def summarise(self, records: Sequence[Mapping[str, Any]]) -> tuple[list[Metric], list[str]]:
            return [
                Metric("no number", float("nan"), kind="nats", better="lower"),
                Metric("words", None, kind="text", text="星", language="zh", group="g", detail=True),
                Metric("share", 0.5, low=0.25, high=0.75, n=4),
            ], []

    (summary,) = measure(Odd(), how).summaries
    path = log_path(how.out, "words", "tiny-F32")
    write_summary(path, replace(summary, header={**summary.header, "command": "half \ud83c", "odd": float("inf")}))
    again = read_summary(summary_path(path))
    assert again.header["odd"] is None
    assert again.metrics[0].value is None
    assert again.metrics[1:] == summary.metrics[1:]
