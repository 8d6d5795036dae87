"""Steps and whole small runs against plain loops of Transformers, PEFT and torch; too little memory, no finite loss."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from train_runs import (
    WEIGHTS,
    exact,
    loss_of_adapter,
    plain_model,
    plain_run,
    record,
    same,
    same_logs,
    samples_of,
    settings,
    table,
    write_rows,
)

from stellar_local.errors import ModelError, StellarError
from train.packing import packed_length
from train.run import train
from train.trainer import PackedTrainer


def agrees(out: Path, losses: list[float], weights: dict[str, torch.Tensor], near: float = 1e-5) -> None:
    assert record(out)["losses"] == pytest.approx(losses, abs=near)
    found = load_file(out / WEIGHTS)
    assert found.keys() == weights.keys()
    for name, weight in found.items():
        torch.testing.assert_close(weight, weights[name], rtol=0, atol=near)


@pytest.mark.parametrize("cut", [{"micro_batch_size": 1}, {"micro_batch_size": 8}, {"packing": 64}, {"packing": 5000}])
def test_however_a_step_is_cut_it_is_a_plain_step(cut: Any, spm_base: Path, tmp_path: Path) -> None:
    """Eight rows of unequal lengths: one at a time, all at once, packed, padded by Transformers: one and the same."""
    config = exact(spm_base, write_rows(tmp_path / "rows.json", 8), tmp_path / "out", max_steps=1, **cut)
    assert len({len(sample.ids) for sample in samples_of(config)}) > 4
    train(config)
    agrees(config.out, *plain_run(config, lambda step: 2e-3))


@pytest.mark.parametrize(
    "values",
    [
        {"weight_decay": 0.5},
        {"loraplus_ratio": 16.0, "weight_decay": 0.1, "learning_rate": 1e-4},
        {"use_rslora": True, "lora_r": 16},
        {"use_dora": True},
        {"train_on_inputs": True},
        {"lora_target_modules": ("all-linear",)},
        {"checkpointing": "on"},
        {"max_grad_norm": 0.05},
        {"max_grad_norm": 0.0},
        {"over_long": "split", "cutoff_len": 190},
        {"over_long": "truncate", "cutoff_len": 190, "add_eos_token": False},
        {"group_by_length": True},
    ],
    ids=lambda values: " ".join(values),
)
def test_options_do_what_a_plain_loop_does(values: Any, spm_base: Path, train_rows: Path, tmp_path: Path) -> None:
    config = exact(spm_base, train_rows, tmp_path / "out", scheduler="constant", packing=400, **values)
    train(config)
    losses, weights = plain_run(config, lambda step: config.learning_rate)
    agrees(config.out, losses, weights, near=2e-5)
    assert losses[-1] < losses[0]


def test_the_same_on_a_base_with_another_tokenizer_and_tied_ends(train_rows: Path, tmp_path: Path) -> None:
    from tiny import write_base

    base = write_base(tmp_path / "base", "bpe", tie_word_embeddings=True)
    config = exact(base, train_rows, tmp_path / "out", scheduler="constant")
    train(config)
    agrees(config.out, *plain_run(config, lambda step: 2e-3))


@pytest.mark.parametrize(
    ("values", "rates"),
    [
        ({}, [(10 - n) / 10 for n in range(10)]),
        ({"warmup_steps": 4}, [0, 0.25, 0.5, 0.75, *((10 - n) / 6 for n in range(4, 10))]),
        ({"warmup_ratio": 0.4}, [0, 0.25, 0.5, 0.75, *((10 - n) / 6 for n in range(4, 10))]),
        ({"scheduler": "cosine"}, [(1 + math.cos(math.pi * n / 10)) / 2 for n in range(10)]),
        ({"scheduler": "constant"}, [1.0] * 10),
        ({"scheduler": "constant", "warmup_steps": 2}, [0, 0.5, *[1.0] * 8]),
        ({"warmup_steps": 1}, [(10 - n) / 10 for n in range(10)]),  # one step at rate 0 would be a step lost
    ],
    ids=lambda values: str(values) if isinstance(values, dict) else "",
)
def test_schedules(values: Any, rates: list[float], spm_base: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.json", 2)
    config = exact(spm_base, data, tmp_path / "out", max_steps=10, save_steps=100, learning_rate=1e-4, **values)
    train(config)
    assert [float(row["learning_rate"]) for row in table(config.out)] == pytest.approx([1e-4 * x for x in rates])


def test_the_loraplus_ratio_reaches_every_b(
    spm_base: Path, train_rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, seen = PackedTrainer.create_optimizer, []

    def watched(self: Any, model: Any = None) -> Any:
        optimizer = create(self, model)
        names = {id(weight): name for name, weight in self.model.named_parameters()}
        seen.append([(group["lr"], group["weight_decay"], names[id(w)]) for group in optimizer.param_groups
                     for w in group["params"]])  # fmt: skip
        return optimizer

    monkeypatch.setattr(PackedTrainer, "create_optimizer", watched)
    train(exact(spm_base, train_rows, tmp_path / "out", loraplus_ratio=8.0, learning_rate=1e-4, weight_decay=0.3))
    assert len(seen[0]) == 2 * 8
    for rate, decay, name in seen[0]:
        assert rate == pytest.approx(8e-4 if "lora_B" in name else 1e-4)
        assert decay == 0.3


def test_the_scale_that_peft_will_use_is_the_one_of_training(spm_base: Path, train_rows: Path, tmp_path: Path) -> None:
    """rsLoRA: alpha over the root of the rank, saved, so that the file alone has the loss that training measured."""
    from peft import PeftConfig, PeftModel
    from transformers import AutoModelForCausalLM

    values = {"use_rslora": True, "lora_r": 16, "lora_alpha": 32, "val_data": write_rows(tmp_path / "v.json", 5, 3)}
    config = exact(spm_base, train_rows, tmp_path / "out", eval_steps=3, **values)
    train(config)
    saved = PeftConfig.from_pretrained(str(config.out))
    assert (saved.use_rslora, saved.r, saved.lora_alpha) == (True, 16, 32)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(spm_base), config.out)
    scales = {module.scaling["default"] for module in model.modules() if hasattr(module, "lora_A")}
    assert scales == {32 / 16**0.5}
    found = loss_of_adapter(spm_base, config.out, samples_of(config, values["val_data"]))
    assert found == pytest.approx(record(config.out)["validation_losses"][-1][1], abs=1e-5)


def test_noise_and_dropout_are_for_training_alone(
    spm_base: Path, train_rows: Path, held_out: Path, tmp_path: Path
) -> None:
    """NEFTune: the training loss is another, the held-out loss is that of the saved adapter without any noise."""
    plain, noisy = (
        settings(spm_base, train_rows, tmp_path / name, max_steps=4, val_data=held_out, eval_steps=4, **values)
        for name, values in (("plain", {"lora_dropout": 0.0}), ("noisy", {"lora_dropout": 0.3, "neftune_alpha": 40.0}))
    )
    train(plain)
    train(noisy)
    assert abs(record(noisy.out)["losses"][0] - record(plain.out)["losses"][0]) > 1e-3
    for config in (plain, noisy):
        found = loss_of_adapter(spm_base, config.out, samples_of(config, held_out))
        assert [[4, pytest.approx(found, abs=2e-6)]] == record(config.out)["validation_losses"]


def test_bfloat16_on_the_cpu(spm_base: Path, train_rows: Path, held_out: Path, tmp_path: Path) -> None:
    values = {"val_data": held_out, "eval_steps": 3, "packing": 400}
    wide, narrow = (
        exact(spm_base, train_rows, tmp_path / dtype, dtype=dtype, **values) for dtype in ("float32", "bfloat16")
    )
    train(wide)
    train(narrow)
    assert record(narrow.out)["losses"] == pytest.approx(record(wide.out)["losses"], rel=5e-3)
    assert {weight.dtype for weight in load_file(narrow.out / WEIGHTS).values()} == {torch.float32}
    found, wanted = (record(out)["validation_losses"][0][1] for out in (narrow.out, wide.out))
    assert found == pytest.approx(wanted, rel=5e-3)
    assert record(narrow.out)["dtype"] == "bfloat16"


class Memory:
    """Makes PackedTrainer run out of memory above so many tokens; notes the micro-batches that were tried."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tokens: int, evaluation_only: bool = False) -> None:
        self.tried: list[int] = []
        loss = PackedTrainer._loss

        def limited(trainer: Any, model: Any, rows: Any) -> Any:
            self.tried.append(packed_length(rows))
            found = loss(trainer, model, rows)
            if packed_length(rows) > tokens and not (evaluation_only and torch.is_grad_enabled()):
                found.requires_grad and found.backward()  # the worst moment: gradients are there already
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return found

        monkeypatch.setattr(PackedTrainer, "_loss", limited)


@pytest.fixture(scope="module")
def roomy(spm_base: Path, train_rows: Path, held_out: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with enough memory."""
    return train(short_of(spm_base, train_rows, held_out, tmp_path_factory.mktemp("runs") / "roomy"))


def short_of(base: Path, data: Path, held_out: Path, out: Path, **values: Any) -> Any:
    given = {"lora_dropout": 0.0, "batch_size": 10, "micro_batch_size": 0, "val_data": held_out, "save_steps": 1}
    return settings(base, data, out, **{**given, **values})


@pytest.mark.parametrize("more", [{}, {"micro_batch_size": 4}], ids=str)
@pytest.mark.parametrize("evaluation_only", [False, True])
def test_what_does_not_fit_is_cut_smaller(
    evaluation_only: bool, more: Any, spm_base: Path, train_rows: Path, held_out: Path, tmp_path: Path, roomy: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    memory = Memory(monkeypatch, 320, evaluation_only)
    config = short_of(spm_base, train_rows, held_out, tmp_path / "out", **more)
    train(config)
    same(config.out, roomy, near=1e-5)
    same_logs(config.out, roomy)
    said = capsys.readouterr().err
    assert "warning: out of memory at" in said
    assert "in a micro-batch: going on with" in said
    assert sum(tokens > 320 for tokens in memory.tried) <= (4 if not evaluation_only else 4 + 4)
    assert said.count("out of memory") < 4


def test_a_lowered_limit_survives_a_kill(
    spm_base: Path, train_rows: Path, held_out: Path, tmp_path: Path, roomy: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from train.folder import RunFolder

    commit = RunFolder.commit

    def die(self: Any, step: int, course: Any) -> None:
        commit(self, step, course)
        if step == 2:
            raise SystemExit(9)

    Memory(monkeypatch, 320)
    monkeypatch.setattr(RunFolder, "commit", die)
    config = short_of(spm_base, train_rows, held_out, tmp_path / "out")
    with pytest.raises(SystemExit):
        train(config)
    assert "out of memory" in capsys.readouterr().err
    monkeypatch.setattr(RunFolder, "commit", commit)
    train(config)
    said = capsys.readouterr().err
    assert "going on from step 2" in said
    assert "out of memory" not in said
    same(config.out, roomy, near=1e-5)
    same_logs(config.out, roomy)


@pytest.mark.parametrize("evaluation_only", [False, True])
def test_a_single_sample_that_does_not_fit_is_one_sentence(
    evaluation_only: bool, spm_base: Path, train_rows: Path, held_out: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    Memory(monkeypatch, 100, evaluation_only)
    with pytest.raises(ModelError, match=r"^not enough memory for one sample of \d+ tokens$") as caught:
        train(short_of(spm_base, train_rows, held_out, tmp_path / "out"))
    assert "--cutoff-len" in caught.value.hint


def test_other_failures_of_memory_are_one_sentence_too(
    spm_base: Path, train_rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error in (MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes")):

        def fail(*given: Any, error: BaseException = error) -> None:
            raise error

        monkeypatch.setattr(PackedTrainer, "_loss", fail)
        with pytest.raises(ModelError, match="not enough memory for this run"):
            train(settings(spm_base, train_rows, tmp_path / "out"))


class Steep(torch.autograd.Function):
    """A finite value of which the gradient is not."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> torch.Tensor:
        return slopes[0] * math.inf


@pytest.mark.parametrize("clipped", [1.0, 0.0])
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_divergence_stops_with_advice_and_keeps_the_checkpoints(
    what: str, clipped: float, spm_base: Path, train_rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(spm_base, train_rows, tmp_path / "out", max_grad_norm=clipped, save_steps=1)
    loss = PackedTrainer._loss

    def broken(self: Any, model: Any, rows: Any) -> Any:
        found = loss(self, model, rows)
        if self.state.global_step != 5:
            return found
        return found * math.inf if what == "loss" else Steep.apply(found)

    monkeypatch.setattr(PackedTrainer, "_loss", broken)
    with pytest.raises(StellarError, match=rf"^training diverged: the {what} of step 6 is (inf|nan)$") as caught:
        train(config)
    assert "--learning-rate" in caught.value.hint and "--dtype float32" in caught.value.hint
    assert [path.name for path in config.out.glob("checkpoints/checkpoint-*")] == ["checkpoint-5"]
    weights = load_file(config.out / "checkpoints" / "checkpoint-5" / WEIGHTS)
    assert all(bool(weight.isfinite().all()) for weight in weights.values())
    assert not (config.out / WEIGHTS).exists()
    assert (config.out / "loss.png").is_file()
    monkeypatch.undo()
    if not clipped:
        return
    train(config)
    same(config.out, train(settings(spm_base, train_rows, tmp_path / "whole", max_grad_norm=clipped)))


def test_a_validation_loss_that_is_not_finite_stops_too(
    spm_base: Path, train_rows: Path, held_out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(spm_base, train_rows, tmp_path / "out", val_data=held_out, eval_steps=3, save_steps=1)
    loss = PackedTrainer._loss

    def broken(self: Any, model: Any, rows: Any) -> Any:
        return loss(self, model, rows) * (1.0 if torch.is_grad_enabled() else math.nan)

    monkeypatch.setattr(PackedTrainer, "_loss", broken)
    with pytest.raises(StellarError, match=r"^training diverged: the validation loss after step 3 is nan$") as caught:
        train(config)
    assert "--learning-rate" in caught.value.hint
    assert not (config.out / "checkpoints" / "best").exists()
    assert [path.name for path in config.out.glob("checkpoints/checkpoint-*")] == ["checkpoint-2"]


def test_the_start_is_that_of_peft(spm_base: Path, train_rows: Path, tmp_path: Path) -> None:
    """With a rate near 0 the adapter's A is what PEFT draws with this seed, and with another seed another."""
    found = []
    for seed in (1, 2):
        config = exact(spm_base, train_rows, tmp_path / str(seed), seed=seed, learning_rate=1e-7, max_steps=1)
        train(config)
        found.append(load_file(config.out / WEIGHTS))
        for name, weight in plain_model(config).named_parameters():
            if "lora_A" in name:
                saved = found[-1][name.replace(".default", "")]
                torch.testing.assert_close(saved, weight.detach(), rtol=0, atol=1e-6)
    name = next(name for name in found[0] if "lora_A" in name)
    assert not torch.allclose(found[0][name], found[1][name])
