"""Two processes train as one: the same losses, adapter and checkpoints, started as users start them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from train_runs import ROOT, WEIGHTS, record, same, same_logs, settings, start, table, wait_for_step, write_rows

from train.run import train

# What a user types, but for the ports, which `0` chooses, so that several tests may run at once.
LAUNCH = ("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1",
          "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
          "-m", "stellar_local.cli")  # fmt: skip
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "stellar_local.cli")


def odd(base: Path, out: Path, **values: Any) -> Any:
    """Thirteen rows in steps of four: the last of each pass has one, and one process has nothing to do."""
    data = out.parent / "rows.json"
    if not data.exists():
        write_rows(data, 13)
        write_rows(out.parent / "held.json", 3, seed=5)
    given = {"lora_dropout": 0.0, "max_steps": 40, "val_data": out.parent / "held.json", "eval_steps": 3}
    return settings(base, data, out, **{**given, "micro_batch_size": 1, "save_steps": 3, **values})


def finished(process: subprocess.Popen[bytes]) -> str:
    out, err = process.communicate(timeout=240)
    assert (process.returncode, out) == (0, b""), err.decode()
    return err.decode()


def equal(out: Path, single: Path) -> None:
    same(out, single, near=1e-5)
    same_logs(out, single)
    assert record(out)["losses"] == pytest.approx(record(single)["losses"], abs=1e-5)
    for mine, other in zip(record(out)["validation_losses"], record(single)["validation_losses"], strict=True):
        assert mine == pytest.approx(other, abs=1e-5)
    assert record(out)["adapter_step"] == record(single)["adapter_step"]
    assert not (out / "checkpoints").exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_accelerate_with_two_processes(spm_base: Path, tmp_path: Path) -> None:
    """Stopped with Ctrl-C, it goes on with two processes, and with one, and is the run of a single process."""
    single = train(odd(spm_base, tmp_path / "single"))
    assert {int(row["tokens"]) < 300 for row in table(single) if row["tokens"]} == {True, False}
    config = odd(spm_base, tmp_path / "two")
    process = start(config, *LAUNCH)
    wait_for_step(config.out, process, 5)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all
    out, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert out == b""
    assert err.count(b"stopped after step") == 1
    assert len(list(config.out.glob("checkpoints/checkpoint-*/complete"))) == 1
    assert not (config.out / WEIGHTS).exists()
    alone = odd(spm_base, tmp_path / "one")
    shutil.copytree(config.out, alone.out)
    said = finished(start(config, *LAUNCH))
    assert said.count("going on from step") == said.count("memory plan:") == said.count("adapter written to") == 1
    equal(config.out, single)
    train(alone)
    equal(alone.out, single)


@pytest.mark.slow
def test_torchrun_with_two_processes(spm_base: Path, tmp_path: Path) -> None:
    """With checkpointing and all that has groups of its own."""
    values = {"checkpointing": "on", "loraplus_ratio": 4.0, "use_dora": True, "max_steps": 6, "micro_batch_size": 0}
    single = train(odd(spm_base, tmp_path / "single", **values))
    config = odd(spm_base, tmp_path / "two", **values)
    finished(start(config, *TORCHRUN))
    equal(config.out, single)


def test_variables_of_another_tool_make_no_second_process() -> None:
    """RANK without WORLD_SIZE is nobody's launcher: the run must not wait, or say and write nothing."""
    code = "from train.placing import PROCESSES_HERE, RANK, WORLD; print(PROCESSES_HERE, RANK, WORLD)"
    environment = {**os.environ, "RANK": "3"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "1 0 1\n"


@pytest.mark.skipif(sys.platform == "win32", reason="not known there")
def test_the_peak_of_main_memory_is_this_program_s_alone() -> None:
    """Whoever starts it may be large: Linux's ru_maxrss then begins with that."""
    code = """
import subprocess, sys
if sys.argv[1:]:
    from train.placing import peak_rss
    held = bytearray(b"1" * (int(sys.argv[1]) << 20))
    print(peak_rss() >> 20)
else:
    held = bytearray(b"1" * (400 << 20))
    for more in ("1", "100"):
        subprocess.run([sys.executable, "-c", __import__("os").environ["CODE"], more], check=True)
"""
    given = {**os.environ, "CODE": code}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=given, check=True, cwd=ROOT)
    little, more = map(int, done.stdout.split())
    assert 0 < little < 200
    assert 80 <= more - little < 300
