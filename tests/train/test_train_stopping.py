"""Runs that end before their time, as processes of their own: killed, told to stop, on a full disk; and go on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from terminals import Pty
from train_runs import (
    WEIGHTS,
    arguments,
    dies_at_its_first_checkpoint,
    record,
    same,
    same_logs,
    settings,
    start,
    table,
    wait_for_step,
)

from stellar_local.errors import ExitCode, ModelError, StellarError
from train.folder import RunFolder
from train.run import train
from train.stopping import Terminated, explained, stop_on_signals

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals")
# Everything that has state: dropout, noise, LoRA+'s groups, the order by length, evaluations, the best adapter.
STATE = {"neftune_alpha": 5.0, "group_by_length": True, "loraplus_ratio": 4.0, "val_set_size": 3, "eval_steps": 4}


def long_run(base: Path, data: Path, out: Path, **values: Any) -> Any:
    """A hundred steps: long enough to be met in its midst."""
    return settings(base, data, out, **{**STATE, "max_steps": 100, "save_steps": 3, "learning_rate": 5e-4, **values})


@pytest.fixture(scope="module")
def whole(spm_base: Path, train_rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody stopped."""
    return train(long_run(spm_base, train_rows, tmp_path_factory.mktemp("runs") / "whole"))


def equal(out: Path, whole: Path) -> None:
    """Adapter, log and record are those of the run that nobody stopped."""
    same(out, whole, near=1e-6)
    same_logs(out, whole, near=1e-6)
    for name in ("steps", "adapter_step", "stopped_early", "validation_losses", "rows"):
        assert record(out)[name] == record(whole)[name], name
    assert not (out / "checkpoints").exists()


def test_killed_at_any_step_it_goes_on(whole: Path, spm_base: Path, train_rows: Path, tmp_path: Path) -> None:
    """SIGKILL at a random step."""
    config = long_run(spm_base, train_rows, tmp_path / "out")
    process = start(config)
    wait_for_step(config.out, process, random.randrange(1, 80))
    process.kill()
    process.communicate()
    assert not (config.out / WEIGHTS).exists()
    train(config)
    equal(config.out, whole)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_told_to_stop_it_saves_after_the_step(
    number: signal.Signals, code: int, whole: Path, spm_base: Path, train_rows: Path, tmp_path: Path
) -> None:
    config = long_run(spm_base, train_rows, tmp_path / "out", save_steps=1000)
    process = start(config)
    wait_for_step(config.out, process, 5)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, b"")
    assert b"stopping after this step" in err and b"Traceback" not in err
    (checkpoint,) = config.out.glob("checkpoints/checkpoint-*")
    step = int(checkpoint.name.rpartition("-")[2])
    assert f"stopped after step {step}; the same command goes on from there".encode() in err
    rows = [row for row in table(config.out) if not row["validation_loss"]]
    assert [int(row["step"]) for row in rows] == list(range(1, step + 1))
    assert (config.out / "loss.png").is_file()
    train(config)
    equal(config.out, whole)


def test_a_terminal_is_as_it_was(spm_base: Path, train_rows: Path, tmp_path: Path) -> None:
    """Ctrl-C in a terminal: the cursor is back, the last state stands, and what to do next below it."""
    config = long_run(spm_base, train_rows, tmp_path / "out", max_steps=5000)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pty = Pty([sys.executable, "-m", "stellar_local.cli", *arguments(config)], environment, tmp_path, 100, 60)
    try:
        pty.wait_for(r"step \d+/5000.*loss \d")
        before = pty.settings()
        assert b"\x1b[?25l" in pty.output
        pty.type("\x03")
        assert pty.exit_code() == 130
    finally:
        pty.close()
    assert before
    assert pty.output.rindex(b"\x1b[?25h") > pty.output.rindex(b"\x1b[?25l")
    assert "the same command goes on from there" in pty.screen()
    assert "Traceback" not in pty.screen()
    assert list(config.out.glob("checkpoints/checkpoint-*/complete"))


def test_a_second_ctrl_c_stops_at_once(spm_base: Path, train_rows: Path, tmp_path: Path) -> None:
    """In the middle of a step that would go on for a long time."""
    config = long_run(spm_base, train_rows, tmp_path / "out")
    code = (
        "import os, signal, sys, threading, time\n"
        "from train.trainer import PackedTrainer\n"
        "def stuck(self, *given):\n"
        "    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "    threading.Timer(0.9, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "    time.sleep(300)\n"
        "PackedTrainer._loss = stuck\n"
        "from stellar_local.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    process = start(config, "-c", code)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (ExitCode.INTERRUPTED, b"")
    assert b"stopping after this step" in err and b"Traceback" not in err
    assert not list(config.out.glob("checkpoints/checkpoint-*"))


def full_disk(config: Any, most: int) -> subprocess.CompletedProcess[bytes]:
    """The run where no file may be larger than so many bytes, which the system refuses as it does on a full disk."""
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({most}, {most}))\n"
        "from stellar_local.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    process = start(config, "-c", code)
    out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess([], process.returncode, out, err)


@pytest.mark.parametrize("what", ["adapter", "optimizer"])
def test_a_full_disk_is_one_sentence_and_loses_nothing(
    what: str, spm_base: Path, train_rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint that could be written stays, and the run goes on from it once there is room."""
    values = {"lora_r": 32, "max_steps": 8, "save_steps": 2, "val_set_size": 0.0, "eval_steps": 0}
    config = long_run(spm_base, train_rows, tmp_path / "out", **values)
    dies_at_its_first_checkpoint(config, monkeypatch)
    checkpoint = config.out / "checkpoints" / "checkpoint-2"
    adapter = (checkpoint / WEIGHTS).stat().st_size
    assert (checkpoint / "optimizer.pt").stat().st_size > adapter + 5000
    done = full_disk(config, adapter + 2500 if what == "optimizer" else adapter - 2500)
    assert (done.returncode, done.stdout) == (ExitCode.FAILED, b"")
    errors = done.stderr.decode().split("stellar: error: ")
    assert len(errors) == 2
    assert errors[1].startswith(f"cannot write a checkpoint to {config.out / 'checkpoints'}")
    assert "free some space there" in errors[1]
    assert "Traceback" not in done.stderr.decode()
    assert (checkpoint / "complete").is_file()
    assert not (config.out / "checkpoints" / "checkpoint-4" / "complete").exists()
    train(config)
    same(config.out, train(long_run(spm_base, train_rows, tmp_path / "whole", **values)))


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with stop_on_signals() as asked:
        assert not asked
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)  # what starts several processes may send both: this is no second one
        assert asked
        assert isinstance(asked.end(), Terminated)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_signal_that_is_switched_off_stays_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_on_signals() as asked:
            signal.raise_signal(signal.SIGINT)
            assert not asked
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_the_main_thread_nothing_is_caught() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen: list[Any] = []

    def run() -> None:
        with stop_on_signals() as asked:
            seen.append((bool(asked), signal.getsignal(signal.SIGINT) is before))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [(False, True)]


def test_what_is_no_failure_of_the_machine_is_raised_as_it_is(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, {})
    for error in (RuntimeError("a defect"), ValueError("a defect"), StellarError("ours")):
        with pytest.raises(type(error)) as caught, explained(None, folder):  # type: ignore[arg-type]
            raise error
        assert caught.value is error
    with pytest.raises(StellarError, match="no space left on device"), explained(None, folder):  # type: ignore[arg-type]
        raise OSError(28, "No space left on device")
    with pytest.raises(ModelError, match="not enough memory"), explained(None, folder):  # type: ignore[arg-type]
        raise MemoryError
