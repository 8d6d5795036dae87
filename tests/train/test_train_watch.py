"""The best adapter, early stopping and the log: what a run decides, and that a run that was killed decides the same."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from train_runs import WEIGHTS, loss_of_adapter, record, same, same_logs, samples_of, settings, table

from train.folder import RunFolder
from train.packing import Limit
from train.run import train
from train.watch import Course


def overfitting(base: Path, data: Path, held_out: Path, out: Path, **values: Any) -> Any:
    """Twenty steps that soon learn the rows by heart: the held-out loss falls, then rises."""
    given = {"val_data": held_out, "eval_steps": 2, "learning_rate": 0.05, "epochs": 4.0, "save_steps": 3}
    return settings(base, data, out, **{**given, "scheduler": "constant", "lora_dropout": 0.2, **values})


@pytest.fixture(scope="module")
def overfitted(spm_base: Path, train_rows: Path, held_out: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(overfitting(spm_base, train_rows, held_out, tmp_path_factory.mktemp("runs") / "whole"))


def test_the_best_adapter_is_kept(overfitted: Path, spm_base: Path, train_rows: Path, held_out: Path) -> None:
    done = record(overfitted)
    measured = done["validation_losses"]
    assert [step for step, _ in measured] == list(range(2, 21, 2))
    best_step, best = min(measured, key=lambda pair: pair[1])
    assert 2 <= best_step < 20
    assert measured[-1][1] > best + 0.05
    assert done["adapter_step"] == best_step
    assert (done["steps"], done["stopped_early"]) == (20, False)
    config = overfitting(spm_base, train_rows, held_out, overfitted)
    found = loss_of_adapter(spm_base, overfitted, samples_of(config, held_out))
    assert found == pytest.approx(best, abs=1e-5)


def test_the_log_says_what_the_record_says(overfitted: Path) -> None:
    done, rows = record(overfitted), table(overfitted)
    steps = [row for row in rows if not row["validation_loss"]]
    assert [int(row["step"]) for row in steps] == list(range(1, 21))
    assert [float(row["loss"]) for row in steps] == pytest.approx(done["losses"], abs=1e-6)
    measured = [[int(row["step"]), float(row["validation_loss"])] for row in rows if row["validation_loss"]]
    assert [step for step, _ in measured] == [step for step, _ in done["validation_losses"]]
    assert [loss for _, loss in measured] == pytest.approx([loss for _, loss in done["validation_losses"]], abs=1e-6)
    assert sum(int(row["learned"]) for row in steps) == 4 * done["rows"]["learned_tokens"]
    assert sum(int(row["tokens"]) for row in steps) == 4 * done["rows"]["tokens"]
    assert [float(row["epoch"]) for row in steps] == pytest.approx([step / 5 for step in range(1, 21)])


def stops_after(measured: list[list[float]], patience: int) -> int:
    """The step after which a run with that patience stops, from the losses of a run without."""
    best, stale = float("inf"), 0
    for step, loss in measured:
        best, stale = (loss, 0) if loss < best else (best, stale + 1)
        if stale == patience:
            return int(step)
    raise AssertionError("it would not stop")


@pytest.mark.parametrize("patience", [1, 2])
def test_early_stopping(
    patience: int, overfitted: Path, spm_base: Path, train_rows: Path, held_out: Path, tmp_path: Path
) -> None:
    config = overfitting(spm_base, train_rows, held_out, tmp_path / "out", early_stopping=patience)
    last = stops_after(record(overfitted)["validation_losses"], patience)
    assert last < 20
    train(config)
    done = record(config.out)
    assert (done["steps"], done["stopped_early"]) == (last, True)
    whole = record(overfitted)["validation_losses"]
    assert done["validation_losses"] == [pair for pair in whole if pair[0] <= last]
    assert done["adapter_step"] == min(done["validation_losses"], key=lambda pair: pair[1])[0]
    if done["adapter_step"] == record(overfitted)["adapter_step"]:
        same(config.out, overfitted)
    assert int(table(config.out)[-1]["step"]) == last


def dying(monkeypatch: pytest.MonkeyPatch, at: int, after: bool = True) -> Any:
    """Let a run die around the checkpoint of a step; returns what undoes it."""
    commit = RunFolder.commit

    def die(self: Any, step: int, course: Any) -> None:
        if step == at and not after:
            raise SystemExit(9)
        commit(self, step, course)
        if step == at:
            raise SystemExit(9)

    monkeypatch.setattr(RunFolder, "commit", die)
    return lambda: monkeypatch.setattr(RunFolder, "commit", commit)


@pytest.mark.parametrize(("dies_at", "after"), [(3, True), (6, False), (12, True), (18, False)])
def test_a_run_that_died_decides_the_same(
    dies_at: int, after: bool, overfitted: Path, spm_base: Path, train_rows: Path, held_out: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Before and after its best step, with evaluations since the last checkpoint and without."""
    config = overfitting(spm_base, train_rows, held_out, tmp_path / "out")
    undo = dying(monkeypatch, dies_at, after)
    with pytest.raises(SystemExit):
        train(config)
    assert not (config.out / WEIGHTS).exists()
    undo()
    train(config)
    same(config.out, overfitted)
    same_logs(config.out, overfitted, near=1e-6)
    for name in ("steps", "adapter_step", "stopped_early", "validation_losses", "losses", "rows"):
        assert record(config.out)[name] == record(overfitted)[name], name


def test_early_stopping_counts_on_after_a_kill(
    overfitted: Path, spm_base: Path, train_rows: Path, held_out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint between the best step and the end: the evaluations before the kill count."""
    last = stops_after(record(overfitted)["validation_losses"], 2)
    config = overfitting(spm_base, train_rows, held_out, tmp_path / "out", early_stopping=2, save_steps=1)
    undo = dying(monkeypatch, last - 1)
    with pytest.raises(SystemExit):
        train(config)
    undo()
    train(config)
    assert (record(config.out)["steps"], record(config.out)["stopped_early"]) == (last, True)


@pytest.mark.parametrize("patience", [0, 2])
@pytest.mark.parametrize("moment", ["before the adapter", "after the adapter"])
def test_a_run_that_dies_at_its_end_ends_the_same(
    moment: str, patience: int, overfitted: Path, spm_base: Path, train_rows: Path, held_out: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Killed while the result is put into place: neither the best adapter nor the decision to stop is lost."""
    from train import folder

    config = overfitting(spm_base, train_rows, held_out, tmp_path / "out", early_stopping=patience, save_steps=1)
    last = stops_after(record(overfitted)["validation_losses"], 2) if patience else 20
    atomic = folder.atomic_text

    def die(path: Path, text: str) -> None:
        if path.name == "template.json":
            raise SystemExit(9)
        atomic(path, text)

    with monkeypatch.context() as patch:
        if moment == "after the adapter":
            patch.setattr(folder, "atomic_text", die)
        else:
            patch.setattr(RunFolder, "finish", lambda *given: die(Path("template.json"), ""))
        with pytest.raises(SystemExit):
            train(config)
    assert not (config.out / "training.json").exists()
    train(config)
    done = record(config.out)
    assert (done["steps"], done["stopped_early"]) == (last, bool(patience))
    assert done["adapter_step"] == min(done["validation_losses"], key=lambda pair: pair[1])[0]
    same_logs(config.out, overfitted) if not patience else None
    found = loss_of_adapter(spm_base, config.out, samples_of(config, held_out))
    assert found == pytest.approx(min(loss for _, loss in done["validation_losses"]), abs=1e-5)


def test_without_evaluations_the_last_adapter_is_the_result(spm_base: Path, train_rows: Path, tmp_path: Path) -> None:
    done = record(train(settings(spm_base, train_rows, tmp_path / "out")))
    assert (done["adapter_step"], done["steps"], done["validation_losses"]) == (10, 10, [])


def test_evaluation_after_each_pass_and_at_the_end(spm_base: Path, train_rows: Path, tmp_path: Path) -> None:
    """By default; rows that are held out of the data are not trained on."""
    out = train(settings(spm_base, train_rows, tmp_path / "out", val_set_size=0.2, max_steps=10))
    done = record(out)
    assert done["rows"]["train"] == 16
    assert done["rows"]["validation"] == 4
    assert [step for step, _ in done["validation_losses"]] == [4, 8, 10]
    tokens = sum(int(row["tokens"]) for row in table(out)[:4])
    assert tokens < done["rows"]["tokens"]


def test_a_limit_is_the_lower_one() -> None:
    assert Course().limit(Limit(0, 100)) == Limit(0, 100)
    assert Course(tokens=50).limit(Limit(4, 100)) == Limit(4, 50)
    assert Course(samples=2, tokens=200).limit(Limit(4, 100)) == Limit(2, 100)
    assert Course(samples=2).limit(Limit(0, 0)) == Limit(2, 0)


def test_the_best_adapter_is_replaced_whole(tmp_path: Path) -> None:
    """A run that dies while it saves a better one still has the last."""
    folder = RunFolder(tmp_path, {})
    folder.keep_best(lambda path: (path / "a").write_text("1"))  # type: ignore[arg-type,return-value]

    def die(path: Path) -> None:
        (path / "a").write_text("2")
        raise SystemExit(9)

    with pytest.raises(SystemExit):
        folder.keep_best(die)
    assert (folder.best / "a").read_text() == "1"
    folder.keep_best(lambda path: (path / "b").write_text("3"))  # type: ignore[arg-type,return-value]
    assert [path.name for path in folder.best.iterdir()] == ["b"]
    assert [path.name for path in folder.checkpoints.iterdir()] == ["best"]


def test_a_checkpoint_of_another_run_brings_its_state_but_not_its_best(
    overfitted: Path, spm_base: Path, train_rows: Path, held_out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Going on from a run that had overfitted: what this run finds best is the best of its own steps."""
    first = overfitting(spm_base, train_rows, held_out, tmp_path / "first")
    undo = dying(monkeypatch, 18)
    with pytest.raises(SystemExit):
        train(first)
    undo()
    checkpoint = tmp_path / "kept" / "checkpoint-18"
    shutil.copytree(first.out / "checkpoints" / "checkpoint-18", checkpoint)
    config = overfitting(spm_base, train_rows, held_out, tmp_path / "out", resume_from_checkpoint=str(checkpoint))
    train(config)
    done, whole = record(config.out), record(overfitted)
    assert done["losses"] == whole["losses"]
    assert done["validation_losses"] == [pair for pair in whole["validation_losses"] if pair[0] > 18]
    assert done["adapter_step"] == 20
    weights = load_file(config.out / WEIGHTS)
    assert weights.keys() == load_file(overfitted / WEIGHTS).keys()
    assert [row["step"] for row in table(config.out)] == ["19", "20", "20"]
