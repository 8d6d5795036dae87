"""Checks of what is around llama.cpp: Python, the platform, memory, disks, the optional parts of the installation."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

from ..chat.sessions import sessions_folder
from ..console import amount
from ..errors import StellarError
from ..files import ensure_folder
from ..plan.hardware import available_memory
from . import hints, remedies
from .deaths import Surroundings
from .finding import Finding, failure, ok, said, skipped, warning
from .machine import Machine

_OLDEST, _NEWEST = (3, 10), (3, 14)  # of Python; newer ones were never tried
_MEMORY, _DISK = 1 << 30, 5 << 30  # bytes free, below which there is a warning
_ARM_PYTHON = (  # Homebrew's in /opt is never translated
    "brew install python@3.12 && /opt/homebrew/bin/python3.12 -m venv .venv && .venv/bin/pip install stellar-local"
)
_TRAIN = ("torch", "transformers", "peft", "accelerate", "safetensors")


def check_python(machine: Machine) -> Finding:
    """The version and the kind of Python that this is."""
    version, number = machine.python[:2], ".".join(map(str, machine.python))
    told = said("doctor.python", version=number, bits=machine.bits, arch=machine.arch)
    details = {"version": number, "arch": machine.arch, "bits": machine.bits}
    if machine.translated:
        return failure("python", told.and_then(said("doctor.python_translated")), _ARM_PYTHON, **details)
    fix = "uv venv --python 3.12 && uv pip install stellar-local"
    if machine.bits != 64:
        return failure("python", told.and_then(said("doctor.python_bits")), fix, **details)
    if version < _OLDEST:
        return failure("python", told.and_then(said("doctor.python_old")), fix, **details)
    if version > _NEWEST:
        return warning("python", told.and_then(said("doctor.python_new")), fix, **details)
    return ok("python", told, **details)


def check_platform(machine: Machine) -> Finding:
    """The operating system and its C library, by which wheels are made."""
    parts = [machine.libc, "WSL" if machine.wsl else "", "container" if machine.container else ""]
    more = ", ".join(filter(None, parts)) or "-"
    told = said("doctor.platform", system=machine.system, release=machine.release, more=more)
    if machine.libc == "musl":
        told = told.and_then(said("doctor.platform_musl"))
    details = {"system": machine.system, "release": machine.release, "libc": machine.libc}
    return ok("platform", told, **details, container=machine.container)


def check_memory(machine: Machine, free: int | None = None) -> Finding:
    """The main memory that is free now."""
    free = available_memory() if free is None else free
    if free is None:
        return skipped("memory", said("doctor.memory_unknown"))
    told = said("doctor.memory", free=amount(free))
    if free < _MEMORY:
        return warning("memory", told.and_then(said("doctor.memory_low")), hints.memory_holders(machine), free=free)
    return ok("memory", told, free=free)


def check_disk(around: Surroundings, here: Path | None = None, free: Callable[[Path], int] | None = None) -> Finding:
    """The free space in the current folder, where models and results go."""
    folder = here or Path.cwd()
    space = (free or _free)(folder)
    told = said("doctor.disk", folder=folder, free=amount(space))
    if space < _DISK:
        fix = remedies.pip(around.machine, "cache purge")
        return warning("disk", told.and_then(said("doctor.disk_low")), fix, free=space)
    return ok("disk", told, free=space)


def check_data(around: Surroundings, free: Callable[[Path], int] | None = None) -> Finding:
    """The folder in which chat saves its sessions and their KV memory: whether it can be written to, and has space."""
    folder = sessions_folder()
    above = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    try:
        ensure_folder(above)  # os.access promises even root what it cannot do, in /proc as on a read-only disk
    except StellarError as error:
        quoted = shlex.quote(str(above))
        fix = f'sudo chown -R "$USER" {quoted} && chmod u+rwx {quoted}'
        if around.machine.system == "Windows":
            fix = "setx STELLAR_DATA %USERPROFILE%\\stellar"
        elif above == Path(above.anchor):
            fix = 'export STELLAR_DATA="$PWD/stellar"'
        elif not above.is_dir() or (above != folder and Path.home() not in (above, *above.parents)):
            fix = 'export STELLAR_DATA="$HOME/stellar"'
        return failure("data", said("doctor.data_closed", folder=folder, words=error.message), fix)
    space = (free or _free)(above)
    told = said("doctor.data", folder=folder, free=amount(space))
    if space < _DISK:
        fix = remedies.pip(around.machine, "cache purge")
        return warning("data", told.and_then(said("doctor.disk_low")), fix, free=space)
    return ok("data", told, free=space)


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def check_training(around: Surroundings, has: Callable[[str], bool] | None = None, torch: str | None = None) -> Finding:
    """The packages of training, found and never imported; `torch` is the text of PyTorch's version.py."""
    has = has or (lambda name: importlib.util.find_spec(name) is not None)
    lacking = [name for name in _TRAIN if not has(name)]
    extra = remedies.quoted(around.machine, "stellar-local[train]")
    if len(lacking) == len(_TRAIN) or "torch" in lacking:
        return skipped("training", said("doctor.training_none"), remedies.pip(around.machine, "install", extra))
    if lacking:
        told = said("doctor.training_part", names=", ".join(lacking))
        return warning("training", told, remedies.pip(around.machine, "install", extra))
    version, kind = torch_build(_torch_text() if torch is None else torch)
    told = said("doctor.training", version=version or "?", kind=kind)
    cards, details = around.cards.of("nvidia"), {"torch": version, "computes_on": kind}
    if cards and kind == "cpu":
        driver = around.cards.nvidia
        fix = remedies.torch_build(around.machine, version, driver.cuda if driver else None)
        return warning("training", told.and_then(said("doctor.training_cpu")), fix, **details)
    if cards and not has("bitsandbytes"):
        told = told.and_then(said("doctor.training_4bit"))
    return ok("training", told, **details)


def torch_build(text: str) -> tuple[str, str]:
    """The version of PyTorch, and what it computes on ("CUDA 12.8", "ROCm 6.4", "cpu"), by the text of version.py."""
    version = re.search(r"^__version__ = ['\"]([^'\"]+)", text, re.MULTILINE)
    for name, shown in (("cuda", "CUDA"), ("hip", "ROCm")):
        if found := re.search(rf"^{name}(?:\s*:[^=]+)?\s*=\s*['\"]([^'\"]+)", text, re.MULTILINE):
            return version[1] if version else "", f"{shown} {found[1]}"
    return version[1] if version else "", "cpu"


def _torch_text() -> str:
    spec = importlib.util.find_spec("torch")
    try:
        return Path(spec.origin).with_name("version.py").read_text(encoding="utf-8") if spec and spec.origin else ""
    except OSError:
        return ""
