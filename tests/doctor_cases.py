"""Machines, cards and outcomes that the doctor's tests examine, and stand-ins for the system's programs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stellar_local.doctor.cards import Cards
from stellar_local.doctor.deaths import Surroundings
from stellar_local.doctor.examination import Examination, Order
from stellar_local.doctor.finding import State
from stellar_local.doctor.graphics import check_driver, check_gpu
from stellar_local.doctor.machine import Machine
from stellar_local.doctor.nvidia import Card, Driver
from stellar_local.doctor.probe import Outcome
from stellar_local.texts import Texts

WANTED = ">=0.3.36,<0.3.37"
NO_CARDS = Cards()
LINUX = Machine("Linux", "x86_64", (3, 12, 1), libc="glibc 2.36")
WINDOWS = Machine("Windows", "x86_64", (3, 12, 1))
MAC = Machine("Darwin", "aarch64", (3, 12, 1))
RTX = Card("nvidia", "NVIDIA GeForce RTX 3090", 24 << 30, 23 << 30, (8, 6), "0000:01:00.0")
DRIVER = Driver("550.54.14", (12, 4))
NVIDIA = Cards((RTX,), DRIVER)
CPU_INFO = "CPU : SSE3 = 1 | SSSE3 = 1 | AVX = 1 | AVX2 = 1 | F16C = 1 | FMA = 1 | BMI2 = 1 | LLAMAFILE = 1 | "
CUDA_INFO = f"CUDA : ARCHS = 600,610,700,750,800,860,890,900 | FORCE_MMQ = 1 | USE_GRAPHS = 1 | {CPU_INFO}"
MODERN = frozenset(["SSE3", "SSSE3", "AVX", "AVX2", "F16C", "FMA", "BMI2"])
CUDA0 = {"name": "CUDA0", "description": "NVIDIA GeForce RTX 3090", "free": 23 << 30, "total": 24 << 30}


@pytest.fixture(scope="session")
def sound_machine() -> None:
    """The doctor must find this machine healthy: skipped where its GPU lies idle, or its driver is broken."""
    here = Examination(Order())
    for finding in (check_gpu(here.loaded, here.around), check_driver(here.loaded, here.around)):
        if finding.state is State.FAILURE:
            pytest.skip(f"this machine is not healthy: {finding.said.text(Texts('en'))}")


def around(
    cards: Cards = NO_CARDS, machine: Machine = LINUX, features: frozenset[str] = MODERN, **more: Any
) -> Surroundings:
    """The surroundings of a machine that has nothing wrong with it."""
    return Surroundings(machine, cards, "Some Processor", features, WANTED, **more)


def loaded(
    backends: tuple[str, ...] = ("CPU",), devices: tuple[Any, ...] = (), info: str = CPU_INFO, log: str = ""
) -> Outcome:
    """What the probe of the library tells if all is well."""
    facts = {
        "stage": "ask",
        "package": "/site/llama_cpp/__init__.py",
        "library": "/site/llama_cpp/lib/libllama.so",
        "system_info": info,
        "offload": len(backends) > 1,
        "backends": list(backends),
        "devices": list(devices),
        "done": True,
    }
    return Outcome(facts, 0, "", log)


def cuda(*devices: Any, info: str = CUDA_INFO, log: str = "") -> Outcome:
    """What it tells of a CUDA build."""
    return loaded(("CUDA", "CPU"), devices, info, log)


def with_driver(**changes: Any) -> Cards:
    """The NVIDIA machine with another driver."""
    return replace(NVIDIA, nvidia=replace(DRIVER, **changes))


def program(folder: Path, name: str, script: str) -> Path:
    """A stand-in for a program of the system: a shell script of this name in the folder."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def fake_llama(folder: Path, code: str) -> Path:
    """A package llama_cpp whose low-level module runs this code; returns the folder for sys.path."""
    package = folder / "llama_cpp"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "llama_cpp.py").write_text(code)
    return folder
