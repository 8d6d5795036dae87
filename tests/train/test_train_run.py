"""Whole runs on tiny bases: what the folder holds, resuming, refusing, and every error's sentence."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from train_runs import (
    WEIGHTS,
    arguments,
    dies_at_its_first_checkpoint,
    record,
    same,
    same_logs,
    samples_of,
    settings,
    table,
)

from stellar_local.errors import ModelError, StellarError, UsageError
from stellar_local.prompts import load_template
from train import corpus
from train.adapter import verify_adapter
from train.config import TrainConfig
from train.folder import RunFolder
from train.run import train


@pytest.fixture(scope="module")
def finished(spm_base: Path, train_rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(settings(spm_base, train_rows, tmp_path_factory.mktemp("runs") / "whole"))


def test_what_the_folder_holds(finished: Path, spm_base: Path, train_rows: Path) -> None:
    assert sorted(path.name for path in finished.iterdir()) == [
        "adapter_config.json",
        WEIGHTS,
        "log.csv",
        "loss.png",
        "template.json",
        "tensorboard",
        "training.json",
    ]
    assert (finished / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert [row["step"] for row in table(finished)] == [str(step) for step in range(1, 11)]
    (events,) = (finished / "tensorboard").iterdir()
    assert events.name.startswith("events.out.tfevents.")
    assert (finished / "template.json").read_text(encoding="utf-8") == load_template("bayling").source
    assert json.loads((finished / "adapter_config.json").read_text())["base_model_name_or_path"] == str(spm_base)
    done = record(finished)
    assert done["steps"] == len(done["losses"]) == done["adapter_step"] == 10
    assert (done["validation_losses"], done["stopped_early"]) == ([], False)
    assert done["losses"][-1] < done["losses"][0]
    assert done["rows"]["kept"] == done["rows"]["train"] == 20
    assert done["config"]["lora_target_modules"] == ["q_proj", "k_proj", "v_proj", "o_proj"]
    assert set(done["versions"]) == {"torch", "transformers", "peft", "accelerate", "safetensors"}
    assert done["data_sha256"] == hashlib.sha256(train_rows.read_bytes()).hexdigest()
    assert (done["pairs"], done["device"], done["dtype"]) == (2 * 4, "cpu", "float32")
    assert done["peak_bytes"].keys() == {"loading", "all"} and min(done["peak_bytes"].values()) > 0
    assert TrainConfig(**done["config"]).deciding() == settings(spm_base, train_rows, finished).deciding()
    verify_adapter(finished, 2 * 4)


@pytest.mark.parametrize("kind", ["spm_base", "bpe_base"])
def test_the_adapter_loads_in_peft_and_changes_logits(
    kind: str, train_rows: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = request.getfixturevalue(kind)
    out = train(settings(base, train_rows, tmp_path / "out", max_steps=2, lora_target_modules=("all-linear",)))
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        before = model(ids).logits
        after = PeftModel.from_pretrained(model, out).eval()(ids).logits
    assert (after - before).abs().max() > 1e-3
    assert len(load_file(out / WEIGHTS)) == 2 * 2 * 7


def test_finished_is_finished(
    finished: Path, spm_base: Path, train_rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stamp = (finished / WEIGHTS).stat().st_mtime_ns
    train(settings(spm_base, train_rows, finished))
    assert "nothing to do" in capsys.readouterr().err
    train(settings(spm_base, train_rows, finished, threads=2, save_steps=9))  # neither changes the adapter
    assert (finished / WEIGHTS).stat().st_mtime_ns == stamp


def test_another_configuration_is_refused(finished: Path, spm_base: Path, train_rows: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="its lora_r is 4, not 8") as caught:
        train(settings(spm_base, train_rows, finished, lora_r=8))
    assert "--overwrite" in caught.value.hint
    changed = tmp_path / "other.json"
    corpus.write(corpus.read(train_rows)[1:], changed)
    with pytest.raises(UsageError, match="its data differs"):
        train(settings(spm_base, changed, finished))
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    (out / "mine.txt").write_text("keep")
    train(settings(spm_base, train_rows, out, lora_r=8, max_steps=1), overwrite=True)
    assert json.loads((out / "training.json").read_text())["config"]["lora_r"] == 8
    assert (out / "mine.txt").read_text() == "keep"
    (out / "training.json").unlink()
    with pytest.raises(UsageError, match="already holds an adapter"):
        train(settings(spm_base, train_rows, out))


def test_a_run_that_failed_at_once_blocks_nothing(spm_base: Path, train_rows: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no module named c_attn"):
        train(settings(spm_base, train_rows, tmp_path / "out", lora_target_modules=("c_attn",)))
    train(settings(spm_base, train_rows, tmp_path / "out", max_steps=1))


def test_one_step_learns(spm_base: Path, train_rows: Path, tmp_path: Path) -> None:
    """A warm-up of a single step would be a step at rate 0: the adapter would come out empty."""
    train(settings(spm_base, train_rows, tmp_path / "out", max_steps=1, warmup_ratio=0.9))


EVERYTHING = {
    "neftune_alpha": 5.0,
    "group_by_length": True,
    "loraplus_ratio": 4.0,
    "use_rslora": True,
    "val_set_size": 3,
}


@pytest.mark.parametrize("values", [{}, EVERYTHING, {"use_dora": True, "checkpointing": "on"}], ids=["", "all", "dora"])
@pytest.mark.parametrize("dies_at", [2, 6], ids=["first pass", "second pass"])
def test_a_resumed_run_equals_an_uninterrupted_one(
    dies_at: int, values: dict[str, Any], spm_base: Path, train_rows: Path, tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    whole = tmp_path_factory.getbasetemp() / "-".join(["uninterrupted", *values])
    if not whole.exists():
        train(settings(spm_base, train_rows, whole, **values))
    commit = RunFolder.commit

    def die(self: Any, step: int, course: Any) -> None:
        commit(self, step, course)
        if step == dies_at:  # the next checkpoint was only half written
            unfinished = self.checkpoints / f"checkpoint-{step + 2}"
            shutil.copytree(self.checkpoints / f"checkpoint-{step}", unfinished)
            (unfinished / "complete").unlink()
            (unfinished / "optimizer.pt").write_bytes(b"half")
            raise SystemExit(9)

    out = tmp_path / "out"
    monkeypatch.setattr(RunFolder, "commit", die)
    with pytest.raises(SystemExit):
        train(settings(spm_base, train_rows, out, **values))
    assert not (out / WEIGHTS).exists()
    monkeypatch.setattr(RunFolder, "commit", commit)
    train(settings(spm_base, train_rows, out, **values))
    assert f"going on from step {dies_at}" in capsys.readouterr().err
    same(out, whole)
    same_logs(out, whole, near=1e-6)
    for name in ("losses", "validation_losses", "adapter_step", "steps"):
        assert record(out)[name] == record(whole)[name]
    assert not (out / "checkpoints").exists()


def test_a_run_may_go_on_with_other_settings_of_memory(
    finished: Path, spm_base: Path, train_rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They decide how it is computed, not what comes out."""
    values: dict[str, Any] = {"lora_dropout": 0.0}
    whole = train(settings(spm_base, train_rows, tmp_path / "whole", **values))
    dies_at_its_first_checkpoint(settings(spm_base, train_rows, tmp_path / "out", **values), monkeypatch)
    other = {"micro_batch_size": 1, "packing": 200, "checkpointing": "on", "save_steps": 7, "memory": "2GiB"}
    same(train(settings(spm_base, train_rows, tmp_path / "out", **values, **other)), whole, near=1e-5)


def test_a_run_goes_on_in_the_precision_in_which_it_began(
    spm_base: Path, train_rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is free decides it where nothing was asked for, and may be other on the day after."""
    commit = RunFolder.commit

    def die(self: Any, step: int, course: Any) -> None:
        assert course["dtype"] == "float32"
        commit(self, step, {**course, "dtype": began})
        raise SystemExit(9)

    began, out = "bfloat16", tmp_path / "out"
    monkeypatch.setattr(RunFolder, "commit", die)
    with pytest.raises(SystemExit):
        train(settings(spm_base, train_rows, out))
    monkeypatch.setattr(RunFolder, "commit", lambda *parts: None)
    course = out / "checkpoints" / "checkpoint-2" / "course.json"
    course.write_text(course.read_text().replace(began, "nf4"))
    with pytest.raises(UsageError, match="nf4 needs CUDA") as caught:
        train(settings(spm_base, train_rows, out))
    assert "this run began in nf4" in caught.value.hint
    course.write_text(course.read_text().replace("nf4", began))
    assert record(train(settings(spm_base, train_rows, out)))["dtype"] == began
    assert record(train(settings(spm_base, train_rows, out), overwrite=True))["dtype"] == "float32"


def test_what_cannot_be_is_refused_before_the_data_is_read(spm_base: Path, tmp_path: Path) -> None:
    for values, message in (
        ({"lora_target_modules": ("all-linear", "c_attn")}, "no module named c_attn"),
        ({"memory": "much"}, "not a size of memory"),
    ):
        with pytest.raises(UsageError, match=message):
            train(settings(spm_base, tmp_path / "absent.json", tmp_path / "out", **values))
    assert not (tmp_path / "out").exists()


def test_a_warm_up_longer_than_the_run_is_said(
    spm_base: Path, train_rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    modules = ("all-linear", "q_proj")  # a name beside what holds it changes nothing
    train(settings(spm_base, train_rows, tmp_path / "out", max_steps=2, warmup_steps=9, lora_target_modules=modules))
    said = capsys.readouterr().err
    assert "--warmup-steps 9: the run has 2" in said
    assert "epoch 0.40/0.4," in said


def test_a_run_does_not_write_over_what_it_begins_with(finished: Path, spm_base: Path, train_rows: Path) -> None:
    """Killed in the middle it would have left neither."""
    before = (finished / WEIGHTS).read_bytes()
    with pytest.raises(UsageError, match="are both"):
        train(settings(spm_base, train_rows, finished, resume_from_checkpoint=str(finished)), overwrite=True)
    assert (finished / WEIGHTS).read_bytes() == before


def test_left_out_rows_of_the_validation_file_are_reported(
    spm_base: Path, train_rows: Path, held_out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    longest = sorted(len(sample.ids) for sample in samples_of(settings(spm_base, held_out, tmp_path)))
    cutoff = longest[-2]
    train(settings(spm_base, train_rows, tmp_path / "out", val_data=held_out, cutoff_len=cutoff, max_steps=1))
    out_of_six = sum(length > cutoff for length in longest)
    assert out_of_six
    said = f"of the rows of --val-data: {out_of_six} left out: longer than {cutoff} tokens"
    assert said in capsys.readouterr().err


def test_left_out_rows_are_reported(
    spm_base: Path, train_rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = train(settings(spm_base, train_rows, tmp_path / "out", cutoff_len=190, max_steps=1))
    rows = record(out)["rows"]
    assert 0 < rows["too_long"] < rows["rows"] == rows["kept"] + rows["too_long"]
    assert f"{rows['too_long']} left out: longer than 190 tokens" in capsys.readouterr().err
    for policy, field, word in (("truncate", "truncated", "cut"), ("split", "divided", "split")):
        out = train(settings(spm_base, train_rows, tmp_path / policy, cutoff_len=190, max_steps=1, over_long=policy))
        found = record(out)["rows"]
        assert found[field] == rows["too_long"]
        assert found["kept"] == found["train"] >= found["rows"] == 20
        assert f"{found[field]} {word}: longer than 190 tokens" in capsys.readouterr().err


def test_other_errors(spm_base: Path, train_rows: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="base model not found"):
        train(settings(tmp_path / "absent", train_rows, tmp_path / "out"))
    with pytest.raises(StellarError, match="training data not found"):
        train(settings(spm_base, tmp_path / "absent.json", tmp_path / "out"))
    with pytest.raises(UsageError, match="no module named c_attn") as caught:
        train(settings(spm_base, train_rows, tmp_path / "out", lora_target_modules=("q_proj", "c_attn")))
    assert "down_proj" in caught.value.hint
    (tmp_path / "file").write_text("")
    with pytest.raises(StellarError, match="not a directory"):
        train(settings(spm_base, train_rows, tmp_path / "file"))
    gguf = tmp_path / "gguf"
    gguf.mkdir()
    (gguf / "m.gguf").write_bytes(b"")
    with pytest.raises(ModelError) as missing:
        train(settings(gguf, train_rows, tmp_path / "out"))
    assert "stellar import-gguf" in missing.value.hint


def test_answers_alone_go_to_stdout(
    spm_base: Path, train_rows: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A run has none, whatever the libraries print; what it says on stderr holds no warnings of theirs."""
    from stellar_local.cli import main

    config = settings(spm_base, train_rows, tmp_path / "out", max_steps=2, val_set_size=2)
    assert main(arguments(config)) == 0
    said = capfd.readouterr()
    assert said.out == ""
    assert f"adapter written to {config.out}" in said.err
    assert "Warning" not in said.err
    assert record(config.out)["config"] == config.as_json()
