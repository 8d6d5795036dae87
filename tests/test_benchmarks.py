"""The benchmarks run, on a tiny model; what they count is right. How fast anything is, is not tested."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from stellar_local.native.context import Chunk, Context
from stellar_local.native.model import Model

FOLDER = ROOT / "benchmarks"


def test_the_batch_benchmark_compares_all_cases(spm_model: Path) -> None:
    command = [sys.executable, FOLDER / "batch.py", "--model", spm_model, "--rounds", "1", "--tokens", "6"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": "/nowhere"}  # none of llama.cpp's own programs
    done = subprocess.run([*command, "--parallel", "3"], capture_output=True, text=True, timeout=120, env=env)
    assert done.returncode == 0, done.stderr
    assert "llama-server absent" in done.stdout
    rows = [line.split("  ")[0] for line in done.stdout.partition("\ncase ")[2].splitlines()[1:]]
    assert {case: rows.count(case) for case in ("single", "parallel", "prefix", "wide")} == {
        "single": 4,
        "parallel": 1,
        "prefix": 1,
        "wide": 4,
    }
    assert re.search(r"\+ 6 tokens; the same as ours from: raw, llama", done.stdout)


def test_tokens_after_the_first_are_counted(spm_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    from batch_engine import run_engine
    from peers import Machine, Raw

    from stellar_local.native.library import api

    machine = Machine(spm_model, threads=1, gpu_layers=0, batch=64)
    prompts = [[1, 300 + number, 310, 320] for number in range(3)]
    with Model(spm_model, gpu_layers=0) as model:
        alone = run_engine(model, machine, prompts[:1], 1, 256, 9)
        assert (alone.count, alone.generated) == (9, 8)
        together = run_engine(model, machine, prompts, 3, 768, 9)
        assert together.count == 27 and 3 <= together.generated <= 24
        for unified in (True, False):
            with Raw(api(), model.handle, machine, 768, 3, unified) as raw:
                run = raw.run(prompts, 9)
                assert (run.count, run.generated) == (27, 24)
                assert run.tokens == raw.run(prompts, 9).tokens  # the memory was emptied
                assert run.tokens[0] == alone.tokens[0]


def test_the_resume_benchmark_restores_what_it_saved(spm_model: Path) -> None:
    command = [sys.executable, FOLDER / "resume.py", "--model", spm_model, "--rounds", "1", "--tokens", "150"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, "--ctx", "512"], capture_output=True, text=True, timeout=120, env=env)
    assert done.returncode == 0, done.stderr
    saved = re.search(r"(\d+) turns, (\d+) tokens; ([\d,]+) bytes written", done.stdout)
    restored = re.search(r"(\d+) tokens restored; the same answer in all runs", done.stdout)
    assert saved and restored
    assert int(saved[2]) >= 150 and int(saved[2]) - 1 <= int(restored[1]) <= int(saved[2])
    assert int(saved[3].replace(",", "")) > 256 * int(saved[2])  # 2 layers, keys and values, 32 wide, in two bytes
    assert re.search(r"the model is loaded +[\d.]+ s +[\d.]+ s", done.stdout)


def test_the_benchmark_of_defaults_marks_ours_and_the_best(spm_model: Path) -> None:
    command = [sys.executable, FOLDER / "defaults.py", "--rounds", "1", "--prompt", "16", "--tokens", "4"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    chosen = ["--axis", "kv", "--axis", "mmap", "--axis", "parallel"]
    done = subprocess.run([*command, "--shape", "tiny", *chosen], capture_output=True, text=True, timeout=240, env=env)
    assert done.returncode == 0, done.stderr
    tables = done.stdout.split("\n\n")[1:]
    for table, rows, default in zip(
        tables,
        (["f16", "q8_0", "q4_0"], ["auto", "off"], ["1", "4", "16", "32", "64"]),
        ("f16", "auto", "16"),
        strict=True,
    ):
        lines = table.splitlines()
        assert [line.split()[0] for line in lines[2:-1]] == rows
        assert [line.split()[0] for line in lines if line.endswith("← default")] == [default]
        columns = lines[1].count("  ratio")
        assert table.count("1.00*") >= columns >= 2
        assert re.match(rf"the default \({default}\) (is within 3% of|reaches [\d.]+ of) the best", lines[-1])
    # A model whose heads are too narrow for a quantized cache: the reason stands in the table.
    done = subprocess.run(
        [*command, "--model", spm_model, "--axis", "kv", "--best"], capture_output=True, text=True, timeout=240, env=env
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^q8_0 +— +— .*cannot create a context", done.stdout, re.MULTILINE)
    assert "the default (f16) is within 3% of the best" in done.stdout
    done = subprocess.run([*command, "--axis", "colour"], capture_output=True, text=True, timeout=60, env=env)
    assert done.returncode and "no such choice on this machine: colour; there are threads," in done.stderr


def test_the_benchmark_of_flash_attention_compares_after_each_depth() -> None:
    command = [sys.executable, FOLDER / "flash_attention.py", "--shape", "tiny", "--layers", "1", "--depths", "8,300"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    for more in ([], ["--sequences", "3"]):
        done = subprocess.run([*command, *more], capture_output=True, text=True, timeout=120, env=env)
        assert done.returncode == 0, done.stderr
        assert "random-tiny-1-layers.gguf" in done.stdout
        rows = [line.split() for line in done.stdout.splitlines()[3:]]
        assert [row[0] for row in rows] == ["8", "300"]
        assert all(float(value) > 0 for row in rows for value in row[1:]) and len(rows[0]) == 6


def test_what_the_benchmark_of_defaults_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    import defaults

    axis = defaults.Axis("x", "a choice", {}, "b", ["prompt", "load"])
    found = {
        "a": {"prompt": [100.0, 120.0, 110.0], "load": [2.0, 1.0, 1.5]},
        "b": {"prompt": [99.0, 111.0, 100.0], "load": [1.5, 1.5, 1.5]},
        "c": {"it failed": []},
    }
    defaults.report(axis, found, best=False)
    out = capsys.readouterr().out
    assert re.search(r"^a +110\.0  1\.00\* +1\.500  1\.00\*$", out, re.MULTILINE)
    assert re.search(r"^b +100\.0  0\.91 +1\.500  1\.00\* +← default$", out, re.MULTILINE)
    assert re.search(r"^c +— +— +it failed$", out, re.MULTILINE)
    assert "the default (b) reaches 0.91 of the best prompt (a); its rounds differ by 12%" in out
    defaults.report(axis, found, best=True)
    out = capsys.readouterr().out
    assert re.search(r"^a +120\.0  1\.00\* +1\.000  1\.00\*$", out, re.MULTILINE)
    assert "reaches 0.93 of the best prompt (a), 0.67 of the best loading (a)" in out


def test_the_benchmark_s_models_are_small_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read by gguf's own reader, and run: no weight is so large that a model would overflow."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import gguf
    import numpy as np
    import random_gguf

    path = tmp_path / "tiny.gguf"
    random_gguf.write("tiny", path)
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    assert len(tensors) == 3 + 2 * 9
    for name, tensor in tensors.items():
        if "norm" not in name:
            weights = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            assert 0.001 < weights.std() < 0.05 and abs(weights).max() < 0.1, name
    with Model(path) as model, Context(model, 256) as context:
        context.decode([Chunk(0, 0, [1, 300, 301], 1)])
        assert np.isfinite(context.logits).all() and context.logits.std() > 0


def test_the_training_benchmark_measures_whole_runs(
    spm_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    import train_memory

    data = tmp_path / "long.json"
    train_memory.write(train_memory.long_rows(12), data)
    job = {"how": "ours", "base": str(spm_base), "data": str(data), "out": str(tmp_path / "out"), "gib": 4}
    found = train_memory.run({**job, "tokens": 64, "batch": 4, "packing": 126, "validation": 4, "prompts": True})
    assert found.get("speed", 0) > 0, found
    # Rows of 64 tokens, of which 63 are computed: two of them fit into 126.
    assert "126 tokens at most at once" in found["note"] and "evaluations: 4" in found["note"]


def test_the_training_benchmark_says_what_it_needs() -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, FOLDER / "train_memory.py"], capture_output=True, text=True, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert "needs a GPU" in done.stdout


def test_the_benchmark_of_likelihood_sets_both_side_by_side(spm_model: Path, tmp_path: Path) -> None:
    """With a stand-in for llama-perplexity; and without any it says that it compares nothing."""
    text = tmp_path / "text.txt"
    text.write_text("The Sun is a star. 太阳是一颗恒星。" * 30, encoding="utf-8")
    command = [sys.executable, FOLDER / "likelihood.py", "--model", spm_model, "--text", text, "--chunk", "32"]
    own = Path(sys.executable).parent
    alone = {**os.environ, "PYTHONPATH": str(FOLDER.parent), "PATH": "/usr/bin:/bin"}
    peer = tmp_path / "llama-perplexity"
    peer.write_text('#!/bin/sh\necho "Final estimate: PPL = 100.0000 +/- 1.0"\n')
    peer.chmod(0o755)
    for path, expected in (("", "nothing to compare with"), (str(tmp_path), "speed ours / theirs")):
        env = {**alone, "PATH": os.pathsep.join(filter(None, [path, alone["PATH"], str(own)]))}
        done = subprocess.run([*command, "--rounds", "1"], capture_output=True, text=True, timeout=120, env=env)
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout
    ours, ratio = (float(found) for found in re.findall(r"perplexity (?:ours / theirs )?([\d.]+)", done.stdout)[::2])
    assert ratio == pytest.approx(ours / 100, rel=1e-3)
