"""Which build of llama-cpp-python a machine is told to install; what there is, the pinned release's README says."""

from __future__ import annotations

import shlex
from dataclasses import replace

import pytest
from conftest import ROOT
from doctor_cases import DRIVER, LINUX, MAC, NVIDIA, RTX, WANTED, WINDOWS

from stellar_local.doctor import remedies
from stellar_local.doctor.cards import Cards
from stellar_local.doctor.machine import Machine
from stellar_local.doctor.nvidia import Card
from stellar_local.doctor.remedies import cuda_tag, gpu_build, pinned, required, source, torch_build, within

ARM = replace(LINUX, arch="aarch64")
MUSL = replace(LINUX, libc="musl")


def card(*capability: int) -> Card:
    return replace(RTX, capability=(capability[0], capability[1]))


@pytest.mark.parametrize(
    ("machine", "cuda", "capabilities", "expected"),
    [
        (LINUX, (12, 4), [(8, 6)], (12, 4)),
        (LINUX, (12, 8), [(8, 9)], (12, 5)),  # the newest of 12
        (LINUX, (13, 0), [(8, 9)], (13, 0)),
        (LINUX, (13, 1), [(12, 0)], (13, 0)),
        (LINUX, (13, 9), [(9, 0)], (13, 2)),
        (LINUX, (13, 0), [(6, 1)], (12, 5)),  # CUDA 13 has left Pascal and Volta behind
        (LINUX, (13, 0), [(8, 9), (7, 0)], (12, 5)),
        (LINUX, (13, 0), [(7, 5)], (13, 0)),
        (LINUX, (11, 8), [(8, 9)], (11, 8)),
        (LINUX, (11, 8), [(9, 0)], None),  # 11.8 does not know Hopper
        (LINUX, (11, 4), [(8, 6)], None),  # too old a driver
        (LINUX, (12, 4), [(5, 2)], None),  # too old a card
        (LINUX, (12, 4), [], (12, 4)),
        (LINUX, None, [(8, 6)], None),
        (WINDOWS, (12, 3), [(8, 6)], (11, 8)),  # Windows has no wheel for 12.1 to 12.3
        (WINDOWS, (12, 9), [(8, 6)], (12, 5)),
        (ARM, (12, 4), [(9, 0)], None),
        (MUSL, (12, 4), [(8, 6)], None),
    ],
)
def test_the_wheel_for_a_driver_and_its_cards(
    machine: Machine, cuda: tuple[int, int] | None, capabilities: list[tuple[int, int]], expected: object
) -> None:
    assert cuda_tag(machine, cuda, [card(*one) for one in capabilities]) == expected


def words(command: str) -> list[str]:
    return shlex.split(command)


def test_the_command_of_a_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    """--only-binary makes a wheel that is missing an error; the CUDA runtime comes with it, unless it is there."""
    monkeypatch.setattr(remedies.importlib.metadata, "version", lambda name: missing(name))
    remedy = gpu_build(LINUX, NVIDIA, WANTED)
    assert remedy.what == "cu124"
    parts = words(remedy.command)
    assert parts[1:4] == ["-m", "pip", "install"]
    assert {"llama-cpp-python==0.3.36", "nvidia-cuda-runtime-cu12", "nvidia-cublas-cu12", "--force-reinstall"} <= {
        *parts
    }
    assert parts[parts.index("--only-binary") + 1] == "llama-cpp-python"
    assert parts[parts.index("--extra-index-url") + 1] == "https://abetlen.github.io/llama-cpp-python/whl/cu124"
    monkeypatch.setattr(remedies.importlib.metadata, "version", lambda name: "12.4.127")
    assert "nvidia-" not in gpu_build(LINUX, NVIDIA, WANTED).command
    newer = replace(NVIDIA, nvidia=replace(DRIVER, cuda=(13, 0)))
    monkeypatch.setattr(remedies.importlib.metadata, "version", lambda name: missing(name))
    assert {"nvidia-cuda-runtime==13.*", "nvidia-cublas==13.*"} <= {*words(gpu_build(LINUX, newer, WANTED).command)}


def missing(name: str) -> str:
    raise remedies.importlib.metadata.PackageNotFoundError(name)


@pytest.mark.parametrize("machine", [ARM, MUSL])
def test_where_no_wheel_fits_it_is_built(machine: Machine) -> None:
    remedy = gpu_build(machine, NVIDIA, WANTED)
    assert remedy.what == "source"
    parts = words(remedy.command)
    assert parts[0] == "CMAKE_ARGS=-DGGML_CUDA=on"
    assert parts[parts.index("--no-binary") + 1] == "llama-cpp-python"
    assert "llama-cpp-python==0.3.36" in parts


def amd(target: str = "gfx1100") -> Cards:
    return Cards((Card("amd", "Radeon", target=target),), rocm="7.2.0")


@pytest.mark.parametrize(
    ("machine", "cards", "what"),
    [
        (MAC, Cards((Card("apple", "Apple M2", integrated=True),)), "metal"),
        (LINUX, amd(), "rocm72"),
        (LINUX, amd("gfx803"), "source"),
        (LINUX, replace(amd(), rocm="6.4.1"), "vulkan"),
        (LINUX, replace(amd(), rocm=""), "vulkan"),
        (WINDOWS, amd(), "vulkan"),
        (LINUX, Cards((Card("intel", "Arc"),)), "vulkan"),
        (ARM, Cards((Card("other", "V3D"),)), "source"),
    ],
)
def test_other_makers(machine: Machine, cards: Cards, what: str) -> None:
    remedy = gpu_build(machine, cards, WANTED)
    assert remedy.what == what
    assert what == "source" or remedy.command.endswith(f"/whl/{what}")


def test_windows_speaks_powershell() -> None:
    command = source(WINDOWS, WANTED, "cuda")
    assert command.startswith("$env:CMAKE_ARGS='-DGGML_CUDA=on'; & ")
    assert '"llama-cpp-python==0.3.36"' in command


def test_without_amx() -> None:
    """The flags of the Makefile."""
    parts = words(source(LINUX, WANTED, amx=False))
    assert parts[0] == (
        "CMAKE_ARGS=-DCMAKE_C_FLAGS='-mno-amx-tile -mno-amx-int8 -mno-amx-bf16' "
        "-DCMAKE_CXX_FLAGS='-mno-amx-tile -mno-amx-int8 -mno-amx-bf16'"
    )
    makefile = (ROOT / "Makefile").read_text()
    assert "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16" in makefile
    assert "-DCMAKE_C_FLAGS='$(NO_AMX)' -DCMAKE_CXX_FLAGS='$(NO_AMX)'" in makefile


def test_the_versions_are_those_of_pyproject(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remedies.importlib.metadata, "requires", lambda name: missing(name))
    wanted = required()
    assert f'"llama-cpp-python{wanted}"' in (ROOT / "pyproject.toml").read_text()
    assert f"{pinned(wanted)}\n" in (ROOT / "constraints.txt").read_text()
    monkeypatch.setattr(
        remedies.importlib.metadata, "requires", lambda name: ["click>=8", "llama-cpp-python<0.3.37,>=0.3.36; extra"]
    )
    assert required() == "<0.3.37,>=0.3.36"


@pytest.mark.parametrize(
    ("version", "fits"),
    [
        ("0.3.36", True),
        ("0.3.36.post1", True),
        ("0.3.35", False),
        ("0.3.37", False),
        ("0.4", False),
        ("0.3.36+cu124", True),
    ],
)
def test_within_a_range(version: str, fits: bool) -> None:
    assert within(version, WANTED) == fits
    assert within(version, "")


def test_torch() -> None:
    assert torch_build(LINUX, "2.9.0+cpu", (12, 9)).endswith(
        "'torch==2.9.0' --index-url https://download.pytorch.org/whl/cu128"
    )
    assert torch_build(LINUX, "2.9.0+cpu", (12, 2)).endswith("/cu126")
    assert torch_build(LINUX, "2.9.0+cpu", (13, 1)).endswith("/cu130")
    assert torch_build(LINUX, "2.9.0", None).endswith("/cu126")
