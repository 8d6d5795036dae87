"""Python, platform, memory, disks and PyTorch: what is healthy, and each way in which it is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from doctor_cases import LINUX, MAC, NVIDIA, WINDOWS, around, with_driver

from stellar_local.doctor.finding import Finding, State
from stellar_local.doctor.machine import Machine, Ran, _translated
from stellar_local.doctor.surroundings import (
    check_data,
    check_disk,
    check_memory,
    check_platform,
    check_python,
    check_training,
    torch_build,
)
from stellar_local.texts import Texts

CPU_TORCH = "__version__ = '2.9.0+cpu'\ncuda: Optional[str] = None\nhip: Optional[str] = None\n"
CUDA_TORCH = "__version__ = '2.9.0+cu128'\ncuda: Optional[str] = '12.8'\nhip: Optional[str] = None\n"
ROCM_TORCH = "__version__ = '2.9.0+rocm6.4'\ncuda = None\nhip = '6.4.43482'\n"


def text(finding: Finding) -> str:
    return finding.said.text(Texts("en"))


@pytest.mark.parametrize(
    ("machine", "state", "word"),
    [
        (LINUX, State.OK, "3.12.1, 64 bits, x86_64"),
        (replace(LINUX, python=(3, 10, 0)), State.OK, "3.10.0"),
        (replace(LINUX, python=(3, 14, 2)), State.OK, "3.14.2"),
        (replace(LINUX, python=(3, 15, 0)), State.WARNING, "newer"),
        (replace(LINUX, python=(3, 9, 7)), State.FAILURE, "3.10 or newer"),
        (replace(LINUX, bits=32), State.FAILURE, "64-bit"),
        (replace(MAC, arch="x86_64", translated=True), State.FAILURE, "Apple Silicon"),
    ],
)
def test_python(machine: Machine, state: State, word: str) -> None:
    finding = check_python(machine)
    assert finding.state is state
    assert word in text(finding)
    assert bool(finding.fix) == (state is not State.OK)


def test_translation_is_what_macos_says() -> None:
    assert _translated(Ran(0, "1\n"))
    assert not _translated(Ran(0, "0\n"))
    assert not _translated(Ran(1, "", "sysctl: unknown oid 'sysctl.proc_translated'"))
    assert not _translated(None)


def test_platform() -> None:
    assert "glibc 2.36" in text(check_platform(LINUX))
    assert "musl" in text(check_platform(replace(LINUX, libc="musl")))
    assert "WSL, container" in text(check_platform(replace(LINUX, wsl=True, container=True)))


def test_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_memory(LINUX).state is State.OK
    low = check_memory(LINUX, 500 << 20)
    assert low.state is State.WARNING
    assert low.fix.startswith("ps ")
    assert check_memory(WINDOWS, 1).fix == "tasklist"
    monkeypatch.setattr("stellar_local.doctor.surroundings.available_memory", lambda: None)
    assert check_memory(LINUX).state is State.SKIPPED


def test_disk(tmp_path: Path) -> None:
    assert check_disk(around(), tmp_path, lambda folder: 20 << 30).state is State.OK
    low = check_disk(around(), tmp_path, lambda folder: 1 << 30)
    assert low.state is State.WARNING
    assert "pip cache purge" in low.fix
    assert check_disk(around()).details["free"] > 0


def test_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STELLAR_DATA", str(tmp_path / "not" / "yet"))
    assert check_data(around(), lambda folder: 20 << 30).state is State.OK
    assert not (tmp_path / "not").exists()  # looking makes nothing
    assert check_data(around(), lambda folder: 1 << 30).state is State.WARNING
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STELLAR_DATA", str(tmp_path / "file"))
    finding = check_data(around())
    assert finding.state is State.FAILURE
    assert finding.fix == 'export STELLAR_DATA="$HOME/stellar"'


def test_a_data_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if Path("/proc/self").is_dir():  # where nobody can, root included
        monkeypatch.setenv("STELLAR_DATA", "/proc/stellar")
        finding = check_data(around())
        assert (finding.state, finding.fix) == (State.FAILURE, 'export STELLAR_DATA="$HOME/stellar"')
        assert "cannot write to /proc" in text(finding)
    monkeypatch.setenv("STELLAR_DATA", str(tmp_path / "data"))

    def refuse(path: Path) -> Path:
        from stellar_local.files import explain

        raise explain(PermissionError(13, "Permission denied"), path, "write to")

    monkeypatch.setattr("stellar_local.doctor.surroundings.ensure_folder", refuse)
    assert check_data(around()).fix == 'export STELLAR_DATA="$HOME/stellar"'
    monkeypatch.setenv("HOME", str(tmp_path))
    finding = check_data(around())
    assert finding.state is State.FAILURE
    assert "permission denied" in text(finding)
    assert finding.fix == f'sudo chown -R "$USER" {tmp_path} && chmod u+rwx {tmp_path}'
    assert check_data(around(machine=WINDOWS)).fix.startswith("setx STELLAR_DATA")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (CPU_TORCH, ("2.9.0+cpu", "cpu")),
        (CUDA_TORCH, ("2.9.0+cu128", "CUDA 12.8")),
        (ROCM_TORCH, ("2.9.0+rocm6.4", "ROCm 6.4.43482")),
        ("", ("", "cpu")),
    ],
)
def test_pytorch_s_own_word(source: str, expected: tuple[str, str]) -> None:
    assert torch_build(source) == expected


def test_pytorch_is_found_and_not_imported() -> None:
    """Its version.py says what it was built with, as the installed one does."""
    torch = pytest.importorskip("torch")
    finding = check_training(around())
    assert finding.details["torch"] == torch.__version__
    assert finding.details["computes_on"] == (f"CUDA {torch.version.cuda}" if torch.version.cuda else "cpu")


def everything(name: str) -> bool:
    return True


def test_training() -> None:
    assert check_training(around(), everything, CPU_TORCH).state is State.OK
    idle = check_training(around(NVIDIA), everything, CPU_TORCH)
    assert idle.state is State.WARNING
    assert "'torch==2.9.0' --index-url https://download.pytorch.org/whl/cu126" in idle.fix
    assert "cu130" in check_training(around(with_driver(cuda=(13, 0))), everything, CPU_TORCH).fix
    assert check_training(around(NVIDIA), everything, CUDA_TORCH).state is State.OK
    no_bits = check_training(around(NVIDIA), lambda name: name != "bitsandbytes", CUDA_TORCH)
    assert no_bits.state is State.OK
    assert "bitsandbytes" in text(no_bits)
    none = check_training(around(), lambda name: False)
    assert none.state is State.SKIPPED
    assert "stellar-local[train]" in none.fix
    part = check_training(around(), lambda name: name != "peft", CPU_TORCH)
    assert part.state is State.WARNING
    assert "peft" in text(part)
