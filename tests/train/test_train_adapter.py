"""The saved adapter is read back and looked at; a run may begin with one, or with another run's checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from train_runs import WEIGHTS, exact, plain_model, record, same, samples_of, settings

from stellar_local.errors import ModelError, StellarError, UsageError
from train.adapter import ADAPTER_CONFIG, load_weights, verify_adapter, verify_effect
from train.folder import RunFolder
from train.run import train


@pytest.fixture(scope="module")
def finished(spm_base: Path, train_rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(settings(spm_base, train_rows, tmp_path_factory.mktemp("runs") / "whole"))


SPOILT = [
    (lambda w: w.clear(), "0 pairs of matrices instead of 8"),
    (lambda w: w.pop(next(iter(w))), "7 pairs of matrices instead of 8"),
    (lambda w: w.update({"base_model.model.lm_head.weight": torch.ones(1)}), "8 pairs of matrices instead of 8"),
    (lambda w: next(iter(w.values())).fill_(float("nan")), "not finite"),
    (lambda w: next(iter(w.values()))[0, 0].fill_(float("inf")), "not finite"),
    (lambda w: [tensor.zero_() for name, tensor in w.items() if "lora_B" in name], "changes nothing"),
]


@pytest.mark.parametrize(("spoil", "message"), SPOILT)
def test_a_bad_adapter_file_is_noticed(spoil: Any, message: str, finished: Path, tmp_path: Path) -> None:
    verify_adapter(finished, 8)
    weights = load_file(finished / WEIGHTS)
    spoil(weights)
    save_file(weights, tmp_path / WEIGHTS)
    with pytest.raises(ModelError, match=message):
        verify_adapter(tmp_path, 8)


@pytest.mark.parametrize("content", [None, b"", b"nonsense", b"cut"])
def test_a_file_that_cannot_be_read_back_is_noticed(content: bytes | None, finished: Path, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / WEIGHTS).write_bytes((finished / WEIGHTS).read_bytes()[:-9] if content == b"cut" else content)
    with pytest.raises(ModelError, match="cannot be read back"):
        verify_adapter(tmp_path, 8)


def test_effect(finished: Path, spm_base: Path, train_rows: Path, tmp_path: Path) -> None:
    """Logits of base and adapter differ; an adapter whose effect is zero, though its B is not, is refused."""
    config = settings(spm_base, train_rows, finished)
    model, ids = plain_model(config), samples_of(config)[0].ids

    def next_logits() -> torch.Tensor:
        return model(torch.tensor([ids])).logits[0, -1]

    verify_effect(model, next_logits, finished, 8)
    with torch.no_grad():
        tuned = model(torch.tensor([ids])).logits
        with model.disable_adapter():
            assert (tuned - model(torch.tensor([ids])).logits).abs().max() > 1e-2
    weights = load_file(finished / WEIGHTS)
    for name, tensor in weights.items():
        if "lora_A" in name:
            tensor.zero_()
    save_file(weights, tmp_path / WEIGHTS)
    with pytest.raises(ModelError, match="does not change the model's answers") as caught:
        verify_effect(model, next_logits, tmp_path, 8)
    assert caught.value.hint


def test_an_empty_saved_file_ends_the_run(
    spm_base: Path, train_rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A saving bug as Transformers and PEFT have had: nothing is put into place, and the state stays."""
    from peft import PeftModel

    save = PeftModel.save_pretrained

    def empty(self: Any, folder: str, **more: Any) -> None:
        save(self, folder, **more)
        if Path(folder).name == "adapter":
            save_file({}, Path(folder) / WEIGHTS)

    monkeypatch.setattr(PeftModel, "save_pretrained", empty)
    out = tmp_path / "out"
    with pytest.raises(ModelError, match="0 pairs"):
        train(settings(spm_base, train_rows, out))
    assert not (out / WEIGHTS).exists()
    assert not (out / "training.json").exists()
    assert list(out.glob("checkpoints/checkpoint-8/complete"))
    monkeypatch.undo()
    same(train(settings(spm_base, train_rows, out)), train(settings(spm_base, train_rows, tmp_path / "whole")))


def test_dora_is_verified_with_its_magnitudes(spm_base: Path, train_rows: Path, tmp_path: Path) -> None:
    out = train(settings(spm_base, train_rows, tmp_path / "out", use_dora=True, max_steps=2))
    weights = load_file(out / WEIGHTS)
    assert sum("lora_magnitude_vector" in name for name in weights) == 8
    weights.pop(next(name for name in weights if "lora_magnitude_vector" in name))
    save_file(weights, tmp_path / WEIGHTS)
    with pytest.raises(ModelError, match="8 pairs"):
        verify_adapter(tmp_path, 8)


def a_checkpoint(base: Path, data: Path, folder: Path, step: int, **values: Any) -> Path:
    """A whole checkpoint of a run of its own, outside that run's folder."""
    config = settings(base, data, folder / "first", save_steps=step, **values)
    with pytest.MonkeyPatch.context() as patch:
        commit = RunFolder.commit

        def die(self: Any, step: int, course: Any) -> None:
            commit(self, step, course)
            raise SystemExit(9)

        patch.setattr(RunFolder, "commit", die)
        with pytest.raises(SystemExit):
            train(config)
    return shutil.copytree(config.out / "checkpoints" / f"checkpoint-{step}", folder / f"checkpoint-{step}")


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_begin_with_an_adapter(kind: str, finished: Path, spm_base: Path, train_rows: Path, tmp_path: Path) -> None:
    """Its loss is where the other run ended, and a plain loop from the same weights comes out the same."""
    folder = tmp_path / "given"
    folder.mkdir()
    if kind == "safetensors":
        shutil.copy(finished / WEIGHTS, folder)
    else:  # as alpaca-lora writes it, and only that
        torch.save(load_file(finished / WEIGHTS), folder / "adapter_model.bin")
    values = {"resume_from_checkpoint": str(folder), "learning_rate": 1e-9, "max_steps": 1}
    config = exact(spm_base, train_rows, tmp_path / "out", **values)
    train(config)
    same(config.out, finished, near=1e-7)
    fresh = exact(spm_base, train_rows, tmp_path / "fresh", max_steps=1)
    train(fresh)
    assert record(config.out)["losses"][0] < record(fresh.out)["losses"][0] - 0.1
    assert record(config.out)["steps"] == 1
    train(config)  # finished is finished, also so


def test_the_weights_that_a_run_begins_with_decide(
    finished: Path, spm_base: Path, train_rows: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "given"))
    config = exact(spm_base, train_rows, tmp_path / "out", resume_from_checkpoint=str(folder), max_steps=1)
    train(config)
    weights = load_file(folder / WEIGHTS)
    save_file({name: tensor * 1.01 for name, tensor in weights.items()}, folder / WEIGHTS)
    with pytest.raises(UsageError, match="its resume_from_checkpoint differs"):
        train(config)


def test_go_on_from_another_runs_checkpoint(finished: Path, spm_base: Path, train_rows: Path, tmp_path: Path) -> None:
    checkpoint = a_checkpoint(spm_base, train_rows, tmp_path, 4)
    config = settings(spm_base, train_rows, tmp_path / "out", resume_from_checkpoint=str(checkpoint))
    train(config)
    same(config.out, finished)
    assert record(config.out)["losses"] == record(finished)["losses"]
    longer = settings(spm_base, train_rows, tmp_path / "more", resume_from_checkpoint=str(checkpoint), max_steps=4)
    with pytest.raises(UsageError, match="was written after step 4, and this run has 4"):
        train(longer)


def test_ones_own_checkpoint_is_no_other_run(finished: Path, spm_base: Path, train_rows: Path, tmp_path: Path) -> None:
    checkpoint = a_checkpoint(spm_base, train_rows, tmp_path, 4)
    own = tmp_path / "first" / "checkpoints" / checkpoint.name
    config = settings(spm_base, train_rows, tmp_path / "first", save_steps=4, resume_from_checkpoint=str(own))
    train(config)
    same(config.out, finished)
    train(settings(spm_base, train_rows, tmp_path / "first"))  # finished: without the option it is the same run


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lora_r": 8}, "another rank or other modules"),
        ({"lora_target_modules": ("q_proj",)}, "other modules"),
        ({"lora_target_modules": ("all-linear",)}, "other modules"),
        ({"use_dora": True}, "other modules"),
    ],
)
@pytest.mark.parametrize("kind", ["adapter", "checkpoint"])
def test_an_adapter_of_another_shape_is_refused(
    kind: str, values: Any, message: str, finished: Path, spm_base: Path, train_rows: Path, tmp_path: Path
) -> None:
    given = finished if kind == "adapter" else a_checkpoint(spm_base, train_rows, tmp_path, 4)
    out = tmp_path / "out"
    with pytest.raises(UsageError, match=message) as caught:
        train(settings(spm_base, train_rows, out, resume_from_checkpoint=str(given), **values))
    assert caught.value.hint
    assert not (out / "checkpoints").exists()


def test_a_checkpoint_of_another_optimizer_is_refused(spm_base: Path, train_rows: Path, tmp_path: Path) -> None:
    checkpoint = a_checkpoint(spm_base, train_rows, tmp_path, 4)
    values = {"resume_from_checkpoint": str(checkpoint), "loraplus_ratio": 4.0}
    with pytest.raises(UsageError, match="another optimizer") as caught:
        train(settings(spm_base, train_rows, tmp_path / "out", **values))
    assert "--loraplus-ratio" in caught.value.hint


STATE = ["optimizer.pt", "scheduler.pt", "trainer_state.json", "course.json", WEIGHTS]


@pytest.mark.parametrize("content", [None, "cut", b"", b"\xff{"], ids=["missing", "cut", "empty", "garbage"])
@pytest.mark.parametrize("name", STATE)
def test_a_damaged_checkpoint_is_one_sentence(
    name: str, content: Any, spm_base: Path, train_rows: Path, tmp_path: Path
) -> None:
    """Without optimizer, schedule or course, Transformers would go on to another result."""
    config = settings(spm_base, train_rows, tmp_path / "first", save_steps=4)
    a_checkpoint(spm_base, train_rows, tmp_path, 4)
    damaged = config.out / "checkpoints" / "checkpoint-4" / name
    if content is None:
        damaged.unlink()
    else:
        damaged.write_bytes(damaged.read_bytes()[:20] if content == "cut" else content)
    with pytest.raises(StellarError, match="checkpoint lacks" if content is None else "damaged") as caught:
        train(config)
    assert "--overwrite" in caught.value.hint
    if content is None:
        other = settings(spm_base, train_rows, tmp_path / "other", resume_from_checkpoint=str(damaged.parent))
        with pytest.raises(StellarError, match=f"checkpoint lacks {name}"):
            train(other)
        return
    if name != "optimizer.pt":
        return
    train(config, overwrite=True)


@pytest.mark.parametrize("what", ["missing", "empty", "no checkpoint", "damaged safetensors", "damaged bin"])
def test_what_holds_no_adapter_is_refused(what: str, spm_base: Path, train_rows: Path, tmp_path: Path) -> None:
    folder = tmp_path / "given"
    if what != "missing":
        folder.mkdir()
    if what == "no checkpoint":
        (folder / ADAPTER_CONFIG).write_text("{}")
    if what.startswith("damaged"):
        (folder / (WEIGHTS if what.endswith("safetensors") else "adapter_model.bin")).write_bytes(b"nonsense")
    with pytest.raises(StellarError) as caught:
        train(settings(spm_base, train_rows, tmp_path / "out", resume_from_checkpoint=str(folder)))
    assert caught.value.hint
    if what.startswith("damaged"):
        assert "the adapter cannot be read" in caught.value.message
    else:
        assert "holds neither a checkpoint nor an adapter" in caught.value.message
        assert isinstance(caught.value, UsageError)
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_a_pickle_with_code_in_it_is_not_run(spm_base: Path, train_rows: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "touched",)

    torch.save({"a": Evil()}, tmp_path / "adapter_model.bin")
    with pytest.raises(ModelError, match="cannot be read"):
        load_weights(plain_model(settings(spm_base, train_rows, tmp_path / "out")), tmp_path)
    assert not (tmp_path / "touched").exists()
