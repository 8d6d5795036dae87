"""Checks of llama-cpp-python: installed, of a version that we take, its native library loaded, what it was built with.

Reads what the probe told, and the words of the systems' loaders: which library is missing, and who brings it.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..native.companions import missing_library
from . import hints, remedies
from .deaths import Surroundings, explain, kind_of
from .features import of_system_info
from .finding import Finding, Said, failure, ok, said, skipped
from .probe import Outcome

# What a DLL of llama.cpp may need, beside those of Windows itself.
_DLL = re.compile(
    rb"(?:cudart64|cublas64|cublasLt64|nvcuda|vulkan-1|amdhip64|hipblas|rocblas|libomp140|vcomp140|vcruntime140|msvcp140"
    rb"|ggml)[\w.-]*\.dll",
    re.IGNORECASE,
)
_RUNTIMES = re.compile(r"(?:lib)?(cudart|cublas|cublasLt)(?:\.so\.|64_)(\d{2})", re.IGNORECASE)


def version_installed() -> str:
    """The installed version of llama-cpp-python, "" if none is."""
    try:
        return importlib.metadata.version(remedies.PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return ""


def check_library(outcome: Outcome, version: str, around: Surroundings, seconds: float) -> Finding:
    """Whether it is there, of the right version, and loads."""
    error = outcome.error
    if outcome.facts.get("package", "") is None or (error and "is not installed" in error["message"]):
        return failure(
            "library",
            said("doctor.library_none"),
            remedies.reinstall(around.machine, around.cards, around.wanted, anew=True),
        )
    if error:
        return _unloadable(error["message"], outcome.log, around)
    if not outcome.done:
        words, fix = explain(
            outcome, around, str(outcome.facts.get("system_info", "")), _backends(outcome.facts), seconds
        )
        return failure("library", said("doctor.library_dies", version=version or "?", why=words), fix)
    details = {"version": version, "path": outcome.facts["library"]}
    if not remedies.within(version, around.wanted):
        told = said("doctor.library_range", version=version or "?", wanted=around.wanted)
        return failure("library", told, around.reinstall(), **details)
    told = said("doctor.library", version=version, path=outcome.facts["library"])
    return ok("library", told, **details)


def _unloadable(message: str, log: str, around: Surroundings) -> Finding:
    """A library that the system's loader refuses: what is missing, and what mends it."""
    words, fix = refused(message, around, hints.manager())
    return failure("library", words, fix or around.reinstall())


def refused(message: str, around: Surroundings, manager: str) -> tuple[Said, str]:
    """What a loader's message means, and the command against it; "" where a sound library is the remedy."""
    machine = around.machine
    if name := missing_library(message) or _missing_on_macos(message) or _missing_on_windows(message):
        return said("doctor.library_missing", name=name), _bringing(name, around, manager)
    if found := re.search(r"version `?'?(GLIBC(?:XX)?_[\d.]+)'? not found", message):
        fix = remedies.source(machine, around.wanted, "cuda" if around.cards.of("nvidia") else "")
        return said("doctor.library_glibc", wanted=found[1], libc=machine.libc or "-"), fix
    if found := re.search(r"undefined symbol: (\S+)|Symbol not found: (\S+)", message):
        return said("doctor.library_symbol", name=found[1] or found[2]), ""
    if re.search(r"wrong ELF class|incompatible architecture|not a valid Win32|WinError 193", message):
        return said("doctor.library_arch", arch=machine.arch), ""
    if re.search(r"invalid ELF header|file too short|not a mach-o file|base name .* not found", message):
        return said("doctor.library_damaged", words=_short(message)), ""
    return said("doctor.library_refused", words=_short(message)), ""


def _short(message: str) -> str:
    return " ".join(message.split())[:300]


def _missing_on_macos(message: str) -> str:
    """The library that dyld did not find, by its file name."""
    found = re.search(r"Library not loaded: (?:\S*/)?(\S+)", message)
    return found[1] if found else ""


def _missing_on_windows(message: str, exists: Callable[[str], bool] | None = None) -> str:
    """A library that a DLL needs and Windows does not find: its message does not name it, so the DLLs are read."""
    found = re.search(r"Could not find module '([^']+)'|Failed to load shared library '([^']+\.dll)'", message)
    if not found or "dll" not in message.lower():
        return ""
    folder = Path(found[1] or found[2]).parent
    exists = exists or (lambda name: _on_windows(name, folder, os.environ))
    for file in sorted(folder.glob("*.dll")):
        try:
            names = {str(name, "ascii") for name in _DLL.findall(file.read_bytes())}
        except OSError:
            continue
        for name in sorted(names):
            if not exists(name):
                return name
    return ""


def _on_windows(name: str, own: Path, environ: Mapping[str, str]) -> bool:
    """Whether Windows would find a DLL: beside the others, in the system's folder, in CUDA's and HIP's, on the PATH."""
    folders = [own, Path(environ.get("SYSTEMROOT", "C:\\Windows")) / "System32"]
    folders += [
        Path(environ[key]) / part for key in ("CUDA_PATH", "HIP_PATH") if key in environ for part in ("bin", "lib")
    ]
    folders += [Path(part) for part in environ.get("PATH", "").split(os.pathsep) if part]
    return any((folder / name).exists() for folder in folders)


def _bringing(name: str, around: Surroundings, manager: str) -> str:
    """The command that brings a missing library; "" where a sound llama-cpp-python would."""
    machine = around.machine
    if found := _RUNTIMES.match(name):
        packages = remedies.cuda_packages(int(found[2]))
        if machine.system == "Windows":
            return f"winget install --id Nvidia.CUDA --version {int(found[2])}"
        return remedies.pip(machine, "install", *(remedies.quoted(machine, package) for package in packages))
    if name.lower() in ("libcuda.so.1", "nvcuda.dll"):
        return hints.nvidia_driver(machine)
    if re.match(r"(lib)?(amdhip64|rocblas|hipblas|hsa)", name, re.IGNORECASE):
        return "sudo amdgpu-install --usecase=rocm" if machine.system == "Linux" else ""
    if re.match(r"(vcruntime|msvcp|vcomp)", name, re.IGNORECASE):
        return "winget install --id Microsoft.VCRedist.2015+.x64"
    return hints.install(name, manager)


def check_build(outcome: Outcome) -> Finding:
    """What the library was built with, and which devices it sees."""
    if not outcome.done:
        return skipped("build", said("doctor.no_library"))
    facts = outcome.facts
    features = sorted(of_system_info(str(facts["system_info"])))
    devices = [f"{row['name']} ({row['description']})" for row in facts["devices"]]
    told = said(
        "doctor.build",
        backends=", ".join(_backends(facts)),
        features=", ".join(features),
        devices=", ".join(devices) or "-",
    )
    return ok(
        "build", told, kind=kind_of(_backends(facts)) or "cpu", backends=_backends(facts), info=facts["system_info"]
    )


def _backends(facts: Mapping[str, Any]) -> Sequence[str]:
    found: Sequence[str] = facts.get("backends") or ()
    return found
