"""Whole runs on tiny bases: what the folder holds, resuming, stopping, refusing, and every error's sentence."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file, save_file

from stellar_local.errors import ModelError, StellarError, UsageError
from stellar_local.prompts import load_template
from train import corpus, trainer
from train.config import TrainConfig
from train.model import verify_adapter
from train.run import train

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "train.json"
    corpus.write(random.Random(42).sample(corpus.shipped("identity"), 20), path)
    return path


def settings(base: Path, data: Path, out: Path, **values: Any) -> TrainConfig:
    """Five steps a pass, two passes, a checkpoint every second step, dropout on: all state matters."""
    common: dict[str, Any] = {"epochs": 2.0, "batch_size": 4, "micro_batch_size": 2, "save_steps": 2, "lora_r": 4}
    common["threads"] = 1  # a second one only waits in models as small as these
    return TrainConfig(
        base=base, data=data, out=out, **{**common, "lora_dropout": 0.1, "learning_rate": 2e-3, **values}
    )


def same(a: Path, b: Path) -> None:
    one, other = load_file(a / WEIGHTS), load_file(b / WEIGHTS)
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-5, atol=1e-7)


@pytest.fixture(scope="module")
def finished(spm_base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(settings(spm_base, data, tmp_path_factory.mktemp("runs") / "whole"))


def test_what_the_folder_holds(finished: Path, spm_base: Path, data: Path) -> None:
    assert sorted(path.name for path in finished.iterdir()) == [
        "adapter_config.json",
        WEIGHTS,
        "template.json",
        "training.json",
    ]
    assert (finished / "template.json").read_text(encoding="utf-8") == load_template("bayling").source
    assert json.loads((finished / "adapter_config.json").read_text())["base_model_name_or_path"] == str(spm_base)
    record = json.loads((finished / "training.json").read_text(encoding="utf-8"))
    assert record["steps"] == len(record["losses"]) == 10
    assert record["losses"][-1] < record["losses"][0]
    assert record["rows"]["kept"] == record["rows"]["train"] == 20
    assert record["config"]["lora_target_modules"] == ["q_proj", "k_proj", "v_proj", "o_proj"]
    assert set(record["versions"]) == {"torch", "transformers", "peft", "accelerate", "safetensors"}
    assert len(record["data_sha256"]) == 64
    assert record["pairs"] == 2 * 4
    verify_adapter(finished, 2 * 4)


@pytest.mark.parametrize("kind", ["spm_base", "bpe_base"])
def test_the_adapter_loads_in_peft_and_changes_logits(
    kind: str, data: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = request.getfixturevalue(kind)
    out = train(settings(base, data, tmp_path / "out", max_steps=2, lora_target_modules=("all-linear",)))
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        before = model(ids).logits
        after = PeftModel.from_pretrained(model, out).eval()(ids).logits
    assert (after - before).abs().max() > 1e-3
    assert len(load_file(out / WEIGHTS)) == 2 * 2 * 7


def test_finished_is_finished(finished: Path, spm_base: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stamp = (finished / WEIGHTS).stat().st_mtime_ns
    train(settings(spm_base, data, finished))
    assert "nothing to do" in capsys.readouterr().err
    train(settings(spm_base, data, finished, threads=2, save_steps=9))  # neither changes the adapter
    assert (finished / WEIGHTS).stat().st_mtime_ns == stamp


def test_another_configuration_is_refused(finished: Path, spm_base: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="its lora_r is 4, not 8") as caught:
        train(settings(spm_base, data, finished, lora_r=8))
    assert "--overwrite" in caught.value.hint
    changed = tmp_path / "other.json"
    corpus.write(corpus.read(data)[1:], changed)
    with pytest.raises(UsageError, match="its data differs"):
        train(settings(spm_base, changed, finished))
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    (out / "mine.txt").write_text("keep")
    train(settings(spm_base, data, out, lora_r=8, max_steps=1), overwrite=True)
    assert json.loads((out / "training.json").read_text())["config"]["lora_r"] == 8
    assert (out / "mine.txt").read_text() == "keep"
    (out / "training.json").unlink()
    with pytest.raises(UsageError, match="already holds an adapter"):
        train(settings(spm_base, data, out))


def test_a_run_that_failed_at_once_blocks_nothing(spm_base: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no module named c_attn"):
        train(settings(spm_base, data, tmp_path / "out", lora_target_modules=("c_attn",)))
    train(settings(spm_base, data, tmp_path / "out", max_steps=1))


def test_one_step_learns(spm_base: Path, data: Path, tmp_path: Path) -> None:
    """A warm-up of a single step would be a step at rate 0: the adapter would come out empty."""
    train(settings(spm_base, data, tmp_path / "out", max_steps=1, warmup_ratio=0.9))


@pytest.mark.parametrize("dies_at", [2, 6], ids=["first pass", "second pass"])
def test_a_resumed_run_equals_an_uninterrupted_one(
    dies_at: int, finished: Path, spm_base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    commit = trainer.RunFolder.commit

    def die(self: Any, step: int) -> None:
        commit(self, step)
        if step == dies_at:
            unfinished = self.checkpoints / f"checkpoint-{step + 1}"  # as a kill while writing leaves it
            shutil.copytree(self.checkpoints / f"checkpoint-{step}", unfinished)
            (unfinished / "complete").unlink()
            (unfinished / "optimizer.pt").write_bytes(b"half")
            raise SystemExit(9)

    out = tmp_path / "out"
    monkeypatch.setattr(trainer.RunFolder, "commit", die)
    with pytest.raises(SystemExit):
        train(settings(spm_base, data, out))
    assert not (out / WEIGHTS).exists()
    monkeypatch.setattr(trainer.RunFolder, "commit", commit)
    train(settings(spm_base, data, out))
    assert f"going on from step {dies_at}" in capsys.readouterr().err
    same(out, finished)
    assert len(json.loads((out / "training.json").read_text())["losses"]) == 10
    assert not (out / "checkpoints").exists()


def start(config: TrainConfig) -> subprocess.Popen[str]:
    """The command in a process of its own, `python -c` style, so that it can be killed."""
    values = {option: str(getattr(config, option)) for option in ("base", "data", "out", "epochs", "batch_size")}
    values |= {option: str(getattr(config, option)) for option in ("micro_batch_size", "save_steps", "lora_r")}
    values |= {"lora_dropout": "0.1", "learning_rate": "2e-3", "threads": "1"}
    arguments = [text for name, value in values.items() for text in (f"--{name}", value)]
    code = "import sys; from train.cli import train; train(sys.argv[1:], standalone_mode=False)"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_checkpoint(out: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 90
    while not list(out.glob("checkpoints/checkpoint-*/complete")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)


def test_a_killed_process_goes_on(spm_base: Path, data: Path, tmp_path: Path) -> None:
    config = settings(spm_base, data, tmp_path / "out", epochs=8.0)
    process = start(config)
    wait_for_checkpoint(config.out, process)
    process.kill()
    process.communicate()
    assert not (config.out / WEIGHTS).exists()
    train(config)
    same(config.out, train(settings(spm_base, data, tmp_path / "whole", epochs=8.0)))


def test_ctrl_c_stops_within_a_step(
    spm_base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    finished: Path,
) -> None:  # fmt: skip
    on_log = trainer._Watch.on_log

    def press(self: Any, args: Any, state: Any, *rest: Any, **more: Any) -> None:
        on_log(self, args, state, *rest, **more)
        if state.global_step == 2:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(trainer._Watch, "on_log", press)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(settings(spm_base, data, tmp_path / "out"))
    assert signal.getsignal(signal.SIGINT) is before
    said = capsys.readouterr()
    assert "stopped after step 3; the same command goes on from there" in said.err
    assert said.out == ""
    monkeypatch.setattr(trainer._Watch, "on_log", on_log)
    train(settings(spm_base, data, tmp_path / "out"))
    same(tmp_path / "out", finished)


def test_gradient_accumulation_is_exact(spm_base: Path, data: Path, tmp_path: Path) -> None:
    """Eight rows at once equal eight times one row, for answers of unequal length."""
    runs = [
        train(settings(spm_base, data, tmp_path / str(size), batch_size=8, micro_batch_size=size, lora_dropout=0.0))
        for size in (8, 1)
    ]
    losses = [json.loads((run / "training.json").read_text())["losses"] for run in runs]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    one, other = (load_file(run / WEIGHTS) for run in runs)
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-2, atol=2e-5)


def test_validation_loss(spm_base: Path, data: Path, tmp_path: Path) -> None:
    out = train(settings(spm_base, data, tmp_path / "out", val_set_size=0.2))
    record = json.loads((out / "training.json").read_text())
    assert len(record["validation_losses"]) == 2
    assert record["rows"]["validation"] == 4
    assert record["validation_losses"][1] < record["validation_losses"][0]


def test_left_out_rows_are_reported(
    spm_base: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = train(settings(spm_base, data, tmp_path / "out", cutoff_len=190, max_steps=1))
    rows = json.loads((out / "training.json").read_text())["rows"]
    assert 0 < rows["too_long"] < rows["rows"] == rows["kept"] + rows["too_long"]
    assert f"{rows['too_long']} left out: longer than 190 tokens" in capsys.readouterr().err


def test_divergence_is_an_error(spm_base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "summed_loss", lambda outputs, labels, **_: outputs.logits.sum() * float("nan"))
    with pytest.raises(StellarError, match="training diverged: the loss of step 1 is nan") as caught:
        train(settings(spm_base, data, tmp_path / "out"))
    assert "--learning-rate" in caught.value.hint
    monkeypatch.undo()
    train(settings(spm_base, data, tmp_path / "out", learning_rate=1e-4, max_steps=1))  # no --overwrite needed


def damaged(base: Path, folder: Path, what: str) -> Path:
    """A copy of the base with one thing wrong."""
    shutil.copytree(base, folder)
    weights = folder / "model.safetensors"
    config = json.loads((folder / "config.json").read_text())
    if what == "no config":
        (folder / "config.json").unlink()
    elif what == "broken config":
        (folder / "config.json").write_text("{")
    elif what == "gpt2":
        (folder / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))
    elif what == "no weights":
        weights.unlink()
    elif what == "cut weights":
        weights.write_bytes(weights.read_bytes()[:5000])
    elif what == "a missing weight":
        tensors = load_file(weights)
        tensors.pop("model.layers.1.mlp.up_proj.weight")
        save_file(tensors, weights, metadata={"format": "pt"})
    elif what == "a missing shard":
        weights.unlink()
        index = {"weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    elif what == "no tokenizer":
        (folder / "tokenizer.model").unlink()
    elif what == "foreign tokenizer":
        (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 100}))
    return folder


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no config", "lacks config.json"),
        ("broken config", "config.json is damaged"),
        ("gpt2", "not a LLaMA: its config.json says 'gpt2'"),
        ("no weights", "has no weights"),
        ("cut weights", "cannot be loaded"),
        ("a missing weight", "lack 1 weights: model.layers.1.mlp.up_proj.weight"),
        ("a missing shard", "lacks 1 of its weight files: model-00001-of-00002"),
        ("no tokenizer", "no tokenizer in"),
        ("foreign tokenizer", "the tokenizer gives id"),
    ],
)
def test_damaged_bases(what: str, message: str, spm_base: Path, data: Path, tmp_path: Path) -> None:
    base = damaged(spm_base, tmp_path / "base", what)
    with pytest.raises(ModelError) as caught:
        train(settings(base, data, tmp_path / "out"))
    assert message in caught.value.message
    assert caught.value.hint
    assert not (tmp_path / "out" / WEIGHTS).exists()


def test_other_errors(spm_base: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="base model not found"):
        train(settings(tmp_path / "absent", data, tmp_path / "out"))
    with pytest.raises(StellarError, match="training data not found"):
        train(settings(spm_base, tmp_path / "absent.json", tmp_path / "out"))
    with pytest.raises(UsageError, match="no module named c_attn") as caught:
        train(settings(spm_base, data, tmp_path / "out", lora_target_modules=("q_proj", "c_attn")))
    assert "down_proj" in caught.value.hint
    (tmp_path / "file").write_text("")
    with pytest.raises(StellarError, match="not a directory"):
        train(settings(spm_base, data, tmp_path / "file"))
    gguf = tmp_path / "gguf"
    gguf.mkdir()
    (gguf / "m.gguf").write_bytes(b"")
    with pytest.raises(ModelError) as missing:
        train(settings(gguf, data, tmp_path / "out"))
    assert "stellar import-gguf" in missing.value.hint


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda w: w.clear(), "0 pairs of matrices instead of 8"),
        (lambda w: w.pop(next(iter(w))), "7 pairs of matrices instead of 8"),
        (lambda w: next(iter(w.values())).fill_(float("nan")), "not finite"),
        (lambda w: [t.zero_() for n, t in w.items() if "lora_B" in n], "changes nothing"),
    ],
)
def test_a_bad_adapter_file_is_noticed(spoil: Any, message: str, finished: Path, tmp_path: Path) -> None:
    weights = load_file(finished / WEIGHTS)
    spoil(weights)
    save_file(weights, tmp_path / WEIGHTS)
    with pytest.raises(ModelError, match=message):
        verify_adapter(tmp_path, 8)
