"""The probe: what its log lines say, on a file that is only a header, and a child that fails in each way."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from plan_cases import MIB, log_of, made_header

from stellar_local.native.devices import gpus
from stellar_local.native.header import read_header
from stellar_local.plan import probe as module
from stellar_local.plan.estimate import Buffers, Setup
from stellar_local.plan.models import Candidate, openable
from stellar_local.plan.probe import buffers_in, probe
from stellar_local.plan.sparse import write_sparse

SETUPS = [Setup(512), Setup(1024, sequences=9), Setup(1024, "f16", sequences=4, unified=False)]
# As the pinned release says it with CUDA: two cards, and main memory that the driver holds in place.
CUDA = """\
llama_context: n_ctx         = 4096
llama_context:  CUDA_Host  output buffer size =     0.12 MiB
llama_kv_cache:      CUDA0 KV buffer size =  1024.00 MiB
llama_kv_cache: size = 2048.00 MiB (  4096 cells,  32 layers,  1/1 seqs), K (f16): 1024.00 MiB, V (f16): 1024.00 MiB
sched_reserve: reserving ...
sched_reserve:      CUDA0 compute buffer size =   300.01 MiB
sched_reserve: resolving fused Gated Delta Net support:
sched_reserve:      CUDA0 compute buffer size =   164.01 MiB
sched_reserve:      CUDA1 compute buffer size =    98.50 MiB
sched_reserve:  CUDA_Host compute buffer size =    24.01 MiB
sched_reserve: graph nodes  = 999
"""


def test_the_last_word_on_each_device() -> None:
    found = buffers_in(CUDA)
    assert found == {"CUDA0": int(164.01 * MIB), "CUDA1": int(98.5 * MIB), "CUDA_Host": int(24.01 * MIB)}
    buffers = Buffers(found)
    assert buffers.of("CUDA1") == int(98.5 * MIB)
    assert buffers.of("CUDA2") == 0
    assert buffers.host({"CUDA0": 0, "CUDA1": 1}) == int(24.01 * MIB)


@pytest.mark.parametrize(
    "log", ["", "sched_reserve: CPU compute buffer size = many MiB", "CPU compute buffer size = 3 MiB"]
)
def test_a_log_that_says_nothing(log: str) -> None:
    assert buffers_in(log) == {}


def test_a_child_says_what_this_process_would_hear(spm_model: Path, tmp_path: Path) -> None:
    whole = spm_model.read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(whole[: read_header(spm_model).data_start])
    expected = [buffers_in(log_of(spm_model, setup)) for setup in SETUPS]
    assert all(list(one) == ["CPU"] for one in expected)
    with openable(Candidate(read_header(cut), "F32")) as path:
        assert path != cut
        found = probe(path, SETUPS)
    assert [one and dict(one.compute) for one in found] == expected


def test_a_refused_setup_is_no_word_on_the_others(spm_model: Path) -> None:
    """Heads of 16 values are no whole blocks of q8_0."""
    first, second, third = probe(spm_model, [Setup(512), Setup(512, "q8_0"), Setup(1024)])
    assert first is not None
    assert second is None
    assert third is not None


def test_what_llama_cpp_cannot_load(tmp_path: Path) -> None:
    write_sparse(made_header(), None, tmp_path / "a.gguf")
    with (tmp_path / "a.gguf").open("r+b") as file:
        file.truncate(1000)
    assert probe(tmp_path / "a.gguf", SETUPS) == [None] * 3
    assert probe(tmp_path / "none.gguf", SETUPS[:1]) == [None]


def test_nothing_is_started_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(module.subprocess, "run")
    assert probe(Path("none.gguf"), []) == []


def child(folder: Path, script: str) -> str:
    """A program that a probe takes for Python."""
    path = folder / "python"
    path.write_text(f"#!{sys.executable}\nimport os, sys, time\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def said(value: object) -> str:
    return f"print({json.dumps(value)!r})"


@pytest.mark.skipif(os.name == "nt", reason="a script is no program there")
@pytest.mark.parametrize(
    "script",
    [
        "os.abort()",
        "sys.exit(3)",
        "time.sleep(60)",
        "print('[')",
        "sys.stdout.buffer.write(b'\\xff\\xfe')",
        "pass",
        said(5),
        said({}),
        said("ab"),
        said([{"CPU": 5}]),
        said([{"CPU": 5}] * 3),
        said([{"CPU": "many"}, None]),
        said([5, {"CPU": 5}]),
        said([None, None]),
        said([{}, {}]),
        f"print('{{}}' * {1 << 20})",
    ],
)
def test_a_child_that_fails_says_nothing(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", child(tmp_path, script))
    assert probe(tmp_path / "a.gguf", SETUPS[:2], seconds=0.5 if "sleep" in script else 60) == [None, None]


@pytest.mark.skipif(os.name == "nt", reason="a script is no program there")
def test_a_child_is_asked_and_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "open(sys.argv[0] + '.asked', 'w').write(sys.stdin.read())\n" + said([{"CUDA0": 7}, None])
    monkeypatch.setattr(sys, "executable", child(tmp_path, script))
    assert probe(tmp_path / "星.gguf", SETUPS[:2]) == [Buffers({"CUDA0": 7}), None]
    asked = json.loads((tmp_path / "python.asked").read_text(encoding="utf-8"))
    assert asked["path"] == str(tmp_path / "星.gguf")
    assert [(one["n_ctx"], one["sequences"]) for one in asked["setups"]] == [(512, 1), (1024, 9)]


def test_no_program_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    assert probe(Path("a.gguf"), SETUPS) == [None] * 3


def test_nothing_of_the_current_folder_runs(spm_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where somebody plans within a model's folder: a module there must not take the standard library's place."""
    (tmp_path / "json.py").write_text("open('ran', 'w').close()\nraise SystemExit(1)\n")
    monkeypatch.chdir(tmp_path)
    (found,) = probe(spm_model, [Setup(512)])
    assert found is not None
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(bool(gpus()), reason="where there is a GPU the shares are good")
def test_the_shares_reach_the_child(spm_model: Path) -> None:
    whole, shared = probe(spm_model, [Setup(512), Setup(512, gpu_layers=2, split=(1.0,))])
    assert whole is not None
    assert shared is None  # refused: there is no GPU to share
