"""The benchmarks of memory and the smoke run: what the driver says, models of zeros, how right the planner is."""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from stellar_local.native.header import read_header
from stellar_local.native.model import Model
from stellar_local.plan.estimate import Need, Parts, Setup
from stellar_local.plan.probe import probe
from stellar_local.plan.shapes import shape_header
from stellar_local.plan.weights import Weights

FOLDER = ROOT / "benchmarks"


class Driver:
    """NVIDIA's management library with two GPUs, whose processes are `processes`: {pid: bytes} of each GPU."""

    def __init__(self, *processes: dict[int, int], status: int = 0) -> None:
        self.processes, self.status, self.asked = processes, status, 0

    def nvmlInit_v2(self) -> int:
        return self.status

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:
        count._obj.value = len(self.processes)
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, number: Any, handle: Any) -> int:
        handle._obj.value = 1000 + number.value
        return 0

    def nvmlDeviceGetName(self, handle: Any, text: Any, size: Any) -> int:
        assert size.value == len(text)
        text.value = f"Card {handle.value - 1000}".encode()
        return 0

    def nvmlDeviceGetMemoryInfo(self, handle: Any, memory: Any) -> int:
        memory._obj.total, memory._obj.free, memory._obj.used = 99, 88, handle.value
        return 0

    def nvmlDeviceGetComputeRunningProcesses_v3(self, handle: Any, count: Any, rows: Any) -> int:
        self.asked += 1
        found = self.processes[handle.value - 1000]
        enough = count._obj.value >= len(found)
        count._obj.value = len(found)
        if not enough:
            return 7
        for number, (pid, size) in enumerate(found.items()):
            rows[number].pid, rows[number].used = pid, size
        return 0


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmarks' modules can be imported."""
    monkeypatch.syspath_prepend(str(FOLDER))


def test_gpu_memory_is_what_the_driver_says(scripts: None) -> None:
    import nvml

    many = dict.fromkeys(range(2000, 2100), 1)
    driver = Driver({7: 5, 8: 100, 9: (1 << 64) - 1}, {8: 11, **many})
    found = nvml.Nvml(driver)
    assert found.names() == ["Card 0", "Card 1"]
    assert found.used() == 1000 + 1001
    assert [found.of(pid) for pid in (7, 8, 9, 10, 2099)] == [5, 111, None, None, 1]  # 9: the driver does not tell
    assert driver.asked > 2 * 5  # more than there was room for at first
    for broken in (Driver(), Driver({}, status=9), object()):
        with pytest.raises(OSError, match=r"no GPU|nvmlInit_v2: error 9|the driver lacks nvmlInit_v2"):
            nvml.Nvml(broken)


def test_the_structures_are_as_long_as_in_c(scripts: None) -> None:
    """Of nvml.h: an unsigned int, padding, an unsigned long long, and two unsigned ints; three unsigned long longs."""
    import nvml

    assert ctypes.sizeof(nvml._Process) == 24
    assert nvml._Process.used.offset == 8
    assert ctypes.sizeof(nvml._Memory) == 24


def test_without_the_library_the_program_is_asked(
    scripts: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nvml

    monkeypatch.setattr(nvml, "LIBRARY", "libno-such-thing.so.1")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert nvml.open_gpus() is None
    program = tmp_path / "nvidia-smi"
    answers = {
        "--query-gpu=name": "Card, no",
        "--query-gpu=memory.used": "100\n23",
        "--query-compute-apps=pid,used_memory": "7, 5\n8, [N/A]\n7, 2",
    }
    program.write_text(f"#!{sys.executable}\nimport sys\nprint({answers}[sys.argv[1]])\n")
    program.chmod(0o755)
    found = nvml.open_gpus()
    assert isinstance(found, nvml.Smi)
    assert found.used() == 123 << 20
    assert [found.of(pid) for pid in (7, 8, 9)] == [7 << 20, None, None]
    program.write_text(f"#!{sys.executable}\nraise SystemExit(9)\n")
    assert nvml.open_gpus() is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's /proc")
def test_a_watch_sees_the_peak(scripts: None) -> None:
    import readings

    class Card:
        size = 0

        def names(self) -> list[str]:
            return ["Card"]

        def used(self) -> int:
            return 1000 + self.size

        def of(self, pid: int) -> int | None:
            return self.size or None

    card, before = Card(), readings.main_memory()
    with readings.Watch(card, 1000) as watch:
        held = bytearray(b"x" * (64 << 20))
        card.size = 30
        watch.look()
        del held
        card.size = 10
        now = watch.look()
    assert (now.process, now.device, watch.peak.process, watch.peak.device, watch.peak.gpu) == (10, 10, 30, 30, 30)
    assert watch.peak.main.total - before.total >= 60 << 20
    assert watch.peak.main.total - now.main.total >= 60 << 20
    assert watch.peak.main.peak >= watch.peak.main.total
    silent = readings.Peak(None, None, 5)
    assert silent.gpu == 5
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        assert {os.getpid(), child.pid} <= readings.family(os.getpid())
        assert readings.family(child.pid) == {child.pid}
        assert readings.main_memory(child.pid).total > 0
    finally:
        child.kill()
        child.wait()
    assert readings.main_memory(child.pid) is None


def test_a_model_of_zeros_is_a_model(scripts: None, tmp_path: Path) -> None:
    import zero_gguf

    path = tmp_path / "zeros.gguf"
    zero_gguf.write_zeros("13b", "Q3_K_M", path)
    header = read_header(path)
    assert path.stat().st_size == header.full_size > 5 << 30
    assert getattr(path.stat(), "st_blocks", 0) * 512 < 2 << 20  # the vocabulary
    with Model(path, vocab_only=True) as model:
        assert model.n_vocab == 32000
        assert model.text(model.tokenize("星 7")).endswith("星 7")
        assert (model.bos, model.eos, model.is_eog(2)) == (1, 2, True)
    weights = Weights.of(header)
    assert weights.total == Weights.of(shape_header("13b", "Q3_K_M")).total
    assert probe(path, [Setup(4096)])[0] is not None


def test_the_plans_accuracy_is_measured(spm_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "all.json"
    command = [sys.executable, FOLDER / "plan_accuracy.py", "--cpu", "--model", spm_model, "--json", out]
    command += ["--only", "tiny-F32 512 f16 x1", "--only", "tiny-F32 4,096 f16 x8 separate", "--steps", "2"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env)
    rows = json.loads(out.read_text())["rows"]
    assert [row["combination"] for row in rows] == ["tiny-F32 512 f16 x1", "tiny-F32 4,096 f16 x8 separate"]
    assert "2 combinations measured, 0 failed" in done.stdout, done.stderr
    for row, n_ctx in zip(rows, (512, 4096), strict=True):
        parts, peak, stages = row["probed"]["RAM"], row["peak"], row["stages"]
        assert parts["kv"] == 2 * 2 * 32 * 2 * n_ctx  # two layers, keys and values, 32 wide, in two bytes
        assert row["filled"] == 1
        assert row["ratio"]["RAM"] == pytest.approx(sum(parts.values()) / peak["most"])
        assert stages["context"]["main"] - stages["model"]["main"] >= parts["kv"]
        assert peak["most"] >= stages["generated"]["main"] > stages["program"]["main"] > 20 << 20
        assert f"{row['ratio']['RAM']:.3f}" in done.stdout
    good = all(1 <= row["ratio"]["RAM"] <= 1.05 for row in rows)
    assert done.returncode == (0 if good else 1)


def rows_of(measured: list[tuple[int | None, int]], gpus: tuple[str, ...] = ("CUDA0",)) -> list[Any]:
    """Rows of combinations that were predicted with 1,000 bytes on the GPU and 100 in main memory."""
    import plan_accuracy

    need = Need({**{name: Parts(weights=600, kv=200, compute=50, runtime=150) for name in gpus}, "RAM": Parts(kv=100)})
    stage = {"process": 900, "device": 950, "main": 50}
    return [
        plan_accuracy.Row(
            plan_accuracy.Combination("7b Q4_K_M", 4096),
            need,
            None,
            {
                "peak": {"process": on_gpu, "device": 990, "main": 1, "most": main, "files": 1},
                "stages": {"program": stage, "warm": stage},
                "filled": 1,
            },
            2.0,
            gpus,
        )
        for on_gpu, main in measured
    ]


@pytest.mark.parametrize(
    ("measured", "gpus", "fine"),
    [
        ([(1000, 100), (960, 40)], ("CUDA0",), True),  # main memory, which a driver shares, may be far below
        ([(None, 100)], ("CUDA0",), True),  # by what more was in use: 990
        ([(1000, 100), (1001, 40)], ("CUDA0",), False),
        ([(950, 100)], ("CUDA0",), False),
        ([(1000, 101)], ("CUDA0",), False),
        ([(None, 96), (None, 100)], (), True),
        ([(None, 94)], (), False),
        ([(None, 101)], (), False),
    ],
)
def test_what_counts_as_accurate(
    measured: list[tuple[int | None, int]],
    gpus: tuple[str, ...],
    fine: bool,
    scripts: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import plan_accuracy

    rows = rows_of(measured, gpus)
    assert plan_accuracy.summary(rows) == fine
    assert f"{len(rows)} combinations measured, 0 failed" in capsys.readouterr().out
    failed = plan_accuracy.Row(rows[0].combination, rows[0].formula, None, {"error": "died"}, 1.0, gpus)
    assert not plan_accuracy.summary([*rows, failed])
    plan_accuracy.print_row(failed)
    assert "died" in capsys.readouterr().out


def test_constants_can_be_fitted_from_the_table(scripts: None, capsys: pytest.CaptureFixture[str]) -> None:
    import plan_accuracy

    mib = plan_accuracy.MIB
    rows = rows_of([(1050 * mib, 100), (1000 * mib, 100)])
    plan_accuracy.print_rests(rows, {"gpus": [1]})
    lines = [line.split()[-4:] for line in capsys.readouterr().out.splitlines() if line.startswith("7b")]
    assert [line[2] for line in lines[:2]] == ["1,000", "1,050"]  # the least first
    plan_accuracy.print_row(rows[0])
    assert re.search(r"7b Q4_K_M 4,096 f16 x1 +GPU .*\n +RAM ", capsys.readouterr().out)


def test_enough_combinations_for_the_claim(scripts: None) -> None:
    import plan_accuracy

    combinations = plan_accuracy.ON_GPU
    assert len(set(map(str, combinations))) == len(combinations) >= 16
    models = {one.model for one in combinations}
    assert models >= {f"{shape} {level}" for shape in ("7b", "13b") for level in ("Q8_0", "Q6_K", "Q4_K_M", "Q3_K_M")}
    assert {one.kv for one in combinations} == {"f16", "q8_0", "q4_0"}
    assert {one.ctx for one in combinations} >= {2048, 4096, 8192}
    assert {one.parallel for one in combinations} >= {1, 16}
    assert {one.layers for one in combinations} == {"all", "half", "few"}
    assert sum(one.separate for one in combinations) == 1
    assert sum(one.flash == "off" for one in combinations) == 4
    weights = Weights.of(shape_header("7b", "Q4_K_M"))
    kept = plan_accuracy.Combination("7b Q4_K_M", 8192, "q8_0", 16).setup(weights, on_gpu=True)
    assert (kept.sequences, kept.unified, kept.gpu_layers) == (24, True, 33)
    own = plan_accuracy.Combination("7b Q4_K_M", 8192, "f16", 16, "half", separate=True).setup(weights, on_gpu=True)
    assert (own.sequences, own.unified, own.gpu_layers) == (16, False, 16)


def test_a_random_base_is_whole(scripts: None, tmp_path: Path) -> None:
    import random_base
    from safetensors.torch import load_file
    from transformers import AutoConfig

    for dtype in ("BF16", "F16"):
        out = tmp_path / dtype
        random_base.write_base(out, "tiny", dtype=dtype)
        index = json.loads((out / "model.safetensors.index.json").read_text())["weight_map"]
        found = {name: tensor for file in set(index.values()) for name, tensor in load_file(out / file).items()}
        assert set(found) == set(index)
        assert sum(tensor.nbytes for tensor in found.values()) == random_base.base_size("tiny")
        config = AutoConfig.from_pretrained(out)
        assert found["lm_head.weight"].shape == (config.vocab_size, config.hidden_size)
        assert float(found["lm_head.weight"].float().std()) == pytest.approx(0.02, rel=0.02)
        assert set(found["model.norm.weight"].tolist()) == {1.0}
    given = tmp_path / "tokenizer.model"
    given.write_bytes(b"a tokenizer")
    random_base.write_base(tmp_path / "given", "tiny", given)
    assert (tmp_path / "given" / "tokenizer.model").read_bytes() == b"a tokenizer"


@pytest.mark.slow
def test_everything_runs_once_without_a_gpu(tmp_path: Path) -> None:
    command = [sys.executable, FOLDER / "gpu_smoke.py", "--shape", "tiny", "--dir", tmp_path]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": "/nowhere"}
    done = subprocess.run(
        [*command, "--cpu", "--lines", "2", "--tokens", "4"], capture_output=True, text=True, timeout=300, env=env
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {line[:34].strip(): line[34:].split() for line in done.stdout.partition("\nstep ")[2].splitlines()[1:]}
    assert {"convert to Q4_K_M", "plan", "doctor", "chat, one turn", "batch, shared context, 2 lines"} <= set(rows)
    for name in ("chat, one turn", "batch, shared context, 2 lines", "batch, a context each, 2 lines"):
        seconds, speed, measured, planned, ratio, where = rows[name]
        assert float(seconds) > 0 and float(speed) > 0 and where == "CPU"
        assert float(ratio) == pytest.approx(float(planned) / float(measured), rel=0.02)
    assert len((tmp_path / "batch.jsonl").read_text().splitlines()) == 2


def test_the_smoke_run_says_what_it_needs() -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": "/nowhere"}
    done = subprocess.run([sys.executable, FOLDER / "gpu_smoke.py"], capture_output=True, text=True, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "not run: there is no NVIDIA GPU, or no driver for it; --cpu runs it anyway\n"
    done = subprocess.run([sys.executable, FOLDER / "gpu_pressure.py"], capture_output=True, text=True, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "not run: there is no NVIDIA GPU, or no driver for it\n"


@pytest.mark.real
@pytest.mark.parametrize("when", ["after planning", "while loading"])
def test_memory_is_taken_away_at_its_time(tmp_path: Path, real_model: Path, when: str) -> None:
    """The child's side, with a program in the other's place that only says how much is free."""
    code = "\n".join(
        [
            "import sys, gpu_pressure",
            "gpu_pressure._HOG = 'import sys; print(int(sys.argv[1]) << 20, flush=True); sys.stdin.read()'",
            "gpu_pressure.child(sys.argv[1], 7, sys.argv[2:])",
        ]
    )
    command = [sys.executable, "-c", code, when, "chat", str(real_model), "--prompt", "Hi", "--max-tokens", "2"]
    env = {**os.environ, "PYTHONPATH": f"{FOLDER}{os.pathsep}{ROOT}", "STELLAR_DATA": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert (done.returncode, done.stderr.splitlines()[0]) == (0, "left: 7"), done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize(
    ("log", "held", "where", "failed"),
    [
        ("x: offloaded 1/33 layers to GPU\nx: offloaded 33/33 layers to GPU\n", 5, "GPU, 33 of 33 layers", ""),
        ("x: offloaded 0/33 layers to GPU\n", 5, "CPU", "it ran on the processor, though there is a GPU"),
        ("", None, "CPU", "it ran on the processor, though there is a GPU"),
        ("x: offloaded 33/33 layers to GPU\n", None, "GPU, 33 of 33 layers", "it took no GPU memory"),
    ],
)
def test_where_a_step_ran_is_judged(
    log: str, held: int | None, where: str, failed: str, scripts: None, tmp_path: Path
) -> None:
    import gpu_smoke
    import nvml
    from readings import Peak

    options = argparse.Namespace(cpu=False, dir=None)
    smoke = gpu_smoke.Smoke(tmp_path, options, nvml.Nvml(Driver({})))
    run = gpu_smoke.Run(0, "", log, 1.0, Peak(None, held, None), 0.5)
    step = smoke._computed("chat", run, 9.0, "chat")
    assert (step.where, step.failed, step.memory) == (where, failed, held)
    dead = gpu_smoke.Run(3, "", f"{log}stellar: error: no room\n  hint: none\n", 1.0, Peak(None, held, None), 0.0)
    assert smoke._computed("chat", dead, None, "chat").failed == "exit code 3: no room"
