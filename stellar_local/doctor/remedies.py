"""Which build of llama-cpp-python a machine needs, and the command that installs it: a wheel if one fits, else source.

Knows the wheels of llama-cpp-python 0.3.36 (its README and .github/workflows); runs nothing. --only-binary makes a
wheel that is missing an error: pip would compile a build for the processor instead. Those for a GPU were never run.
"""

from __future__ import annotations

import importlib.metadata
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .cards import Cards
from .machine import Machine
from .nvidia import Card

PACKAGE = "llama-cpp-python"
INDEX = "https://abetlen.github.io/llama-cpp-python/whl"
_PROJECT = "stellar-local"
# The CUDA versions that there are wheels for; those for Windows.
_CUDA = ((11, 8), (12, 1), (12, 2), (12, 3), (12, 4), (12, 5), (13, 0), (13, 2))
_CUDA_WINDOWS = ((11, 8), (12, 4), (12, 5), (13, 0), (13, 2))
# Compute capabilities: the oldest that any wheel knows, that those of CUDA 13 do, the first that 11.8's do not.
_OLDEST, _OLDEST_13, _NEEDS_12 = (6, 0), (7, 5), (9, 0)
_ROCM = {f"gfx{name}" for name in ["908", "90a", "942", "1030", "1100", "1101", "1102", "1150", "1151", "1200", "1201"]}
_SOURCE = {"cuda": "-DGGML_CUDA=on", "metal": "-DGGML_METAL=on", "rocm": "-DGGML_HIP=on", "vulkan": "-DGGML_VULKAN=on"}
# GCC before 14 breaks AMX (its bug 114098); see the Makefile, which builds so too.
_NO_AMX = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
# ggml's names of backends → ours
KINDS = {"CUDA": "cuda", "ROCm": "rocm", "MTL": "metal", "Vulkan": "vulkan", "SYCL": "sycl"}
VENDORS = {
    "nvidia": ("cuda", "vulkan"),
    "amd": ("rocm", "vulkan"),
    "intel": ("vulkan", "sycl"),
    "apple": ("metal",),
    "other": ("vulkan",),
}
_AGAIN, _ANEW = "install --force-reinstall --no-cache-dir --no-deps", "install --no-cache-dir"
_TORCH = ((13, 0), (12, 8), (12, 6))  # the CUDA versions of PyTorch's own wheels


@dataclass(frozen=True)
class Remedy:
    """A command, and what it installs: "cu124" and its like for a wheel, "source" for a build."""

    command: str
    what: str


def required() -> str:
    """The versions of llama-cpp-python that this package takes, as ">=0.3.36,<0.3.37"; "" if nobody says."""
    try:
        lines: Sequence[str] = importlib.metadata.requires(_PROJECT) or ()
    except importlib.metadata.PackageNotFoundError:
        lines = ()
    if not lines:  # run from a folder without being installed
        try:
            text = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8")
        except OSError:
            return ""
        lines = re.findall(rf'"({PACKAGE}[^"]*)"', text)
    for line in lines:
        if found := re.match(rf"{PACKAGE}\s*\(?([<>=!~][^;)]*)", line):
            return found[1].replace(" ", "")
    return ""


def release(text: str) -> tuple[int, ...]:
    """The numbers at the beginning of a version; what follows them is left out."""
    found = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(map(int, found[0].split("."))) if found else ()


def within(version: str, wanted: str) -> bool:
    """Whether a version is in a range such as ">=0.3.36,<0.3.37"; only <, <=, >, >=, == and != are read."""
    checks = {
        ">=": lambda one, other: one >= other,
        "<=": lambda one, other: one <= other,
        "==": lambda one, other: one == other,
        "!=": lambda one, other: one != other,
        ">": lambda one, other: one > other,
        "<": lambda one, other: one < other,
    }
    own = release(version)
    for part in filter(None, wanted.split(",")):
        found = re.match(r"(>=|<=|==|!=|>|<)\s*(.+)", part)
        if found and not checks[found[1]](own, release(found[2])):
            return False
    return True


def pinned(wanted: str) -> str:
    """The oldest version in a range, which is the one that was tested: "llama-cpp-python==0.3.36"."""
    found = re.search(r">=\s*([\d.]+)", wanted) or re.search(r"==\s*([\d.]+)", wanted)
    return f"{PACKAGE}=={found[1]}" if found else PACKAGE


def pip(machine: Machine, *arguments: str) -> str:
    """A pip command of this very Python."""
    return " ".join([machine.interpreter, "-m", "pip", *arguments])


def quoted(machine: Machine, text: str) -> str:
    """A word for the shell: in PowerShell and cmd "…" alone works in both."""
    if machine.system == "Windows":
        return f'"{text}"'
    return f"'{text}'" if "'" not in text else shlex.quote(text)


def wheel(machine: Machine, wanted: str, tag: str, *companions: str) -> str:
    """The command that installs the wheel of this tag, and packages that it needs.

    What else it depends on stays as it is: another NumPy might not suit others.
    """
    packages = [quoted(machine, name) for name in (pinned(wanted), *companions)]
    return pip(
        machine,
        _AGAIN,
        *packages,
        f"--only-binary {PACKAGE} --extra-index-url {INDEX}/{tag}",
    )


def source(machine: Machine, wanted: str, kind: str = "", amx: bool = True, more: str = "") -> str:
    """The command that builds it here, for this processor and perhaps a GPU of this kind; without AMX if asked."""
    flags = [flag for flag in (_SOURCE.get(kind, ""), more) if flag]
    if not amx:
        flags += [f"-DCMAKE_C_FLAGS='{_NO_AMX}' -DCMAKE_CXX_FLAGS='{_NO_AMX}'"]
    command = pip(
        machine,
        _AGAIN,
        f"--no-binary {PACKAGE}",
        quoted(machine, pinned(wanted)),
    )
    if not flags:
        return command
    text = " ".join(flags)
    return f"$env:CMAKE_ARGS='{text}'; & {command}" if machine.system == "Windows" else f'CMAKE_ARGS="{text}" {command}'


def cuda_tag(machine: Machine, cuda: tuple[int, int] | None, cards: Sequence[Card]) -> tuple[int, int] | None:
    """The newest CUDA version that the driver runs, that there is a wheel for, and that knows all of the cards."""
    if not machine.wheels or cuda is None:
        return None
    known = [card.capability for card in cards if card.capability]
    if any(capability < _OLDEST for capability in known):
        return None
    tags = [tag for tag in (_CUDA_WINDOWS if machine.system == "Windows" else _CUDA) if tag <= cuda]
    if any(capability < _OLDEST_13 for capability in known):
        tags = [tag for tag in tags if tag < (13, 0)]
    if any(capability >= _NEEDS_12 for capability in known):
        tags = [tag for tag in tags if tag >= (12, 0)]
    return tags[-1] if tags else None


def cuda_packages(major: int) -> tuple[str, str]:
    """The packages that bring the CUDA runtime and cuBLAS, which the wheels leave out."""
    if major >= 13:
        return f"nvidia-cuda-runtime=={major}.*", f"nvidia-cublas=={major}.*"
    return f"nvidia-cuda-runtime-cu{major}", f"nvidia-cublas-cu{major}"


def _companions(machine: Machine, major: int) -> tuple[str, ...]:
    """Those of them that are not there: PyTorch brings them as well, and needs its own versions."""
    if machine.system == "Windows":
        return ()
    found = []
    for package in cuda_packages(major):
        try:
            importlib.metadata.version(package.partition("==")[0])
        except importlib.metadata.PackageNotFoundError:
            found.append(package)
    return tuple(found)


def gpu_build(machine: Machine, cards: Cards, wanted: str) -> Remedy:
    """The build that uses this machine's GPUs: NVIDIA's where there are some, else Apple's, AMD's, Intel's."""
    if nvidia := cards.of("nvidia"):
        tag = cuda_tag(machine, cards.nvidia.cuda if cards.nvidia else None, nvidia)
        if tag is None:
            return Remedy(source(machine, wanted, "cuda"), "source")
        name = f"cu{tag[0]}{tag[1]}"
        return Remedy(wheel(machine, wanted, name, *_companions(machine, tag[0])), name)
    if cards.of("apple"):
        if machine.wheels:
            return Remedy(wheel(machine, wanted, "metal"), "metal")
        return Remedy(source(machine, wanted, "metal"), "source")
    amd = cards.of("amd")
    if amd and machine.wheels and machine.system == "Linux" and release(cards.rocm)[:1] == (7,):
        if all(card.target in _ROCM for card in amd if card.target):
            return Remedy(wheel(machine, wanted, "rocm72"), "rocm72")
        return Remedy(source(machine, wanted, "rocm"), "source")
    if machine.wheels:
        return Remedy(wheel(machine, wanted, "vulkan"), "vulkan")
    return Remedy(source(machine, wanted, "vulkan"), "source")


def reinstall(machine: Machine, cards: Cards, wanted: str, anew: bool = False) -> str:
    """The command that puts a sound library in the place of a broken one, or of none: the GPU's where there is one."""
    command = gpu_build(machine, cards, wanted).command if cards.usable else wheel(machine, wanted, "cpu")
    return command.replace(_AGAIN, _ANEW) if anew else command


def torch_build(machine: Machine, version: str, cuda: tuple[int, int] | None) -> str:
    """The command that installs PyTorch with CUDA, of the newest kind that the driver runs."""
    tag = next((tag for tag in _TORCH if cuda and tag <= cuda), _TORCH[-1])
    return pip(
        machine,
        "install --force-reinstall --no-cache-dir",
        quoted(machine, f"torch=={version.partition('+')[0]}"),
        f"--index-url https://download.pytorch.org/whl/cu{tag[0]}{tag[1]}",
    )
