"""Checks of the GPU: what the system has against what llama.cpp uses, the driver, the cards' age, their free memory.

A GPU that lies idle is a failure: the reason why people find it slow. No GPU of AMD's, Intel's or Apple's was tried.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from ..console import amount
from . import hints, remedies
from .deaths import Surroundings, kind_of
from .features import archs_of_system_info
from .finding import Finding, Said, failure, ok, said, skipped, warning
from .nvidia import Card
from .probe import Outcome
from .remedies import VENDORS

_HIDING = {
    "cuda": ("CUDA_VISIBLE_DEVICES",),
    "rocm": ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"),
    "vulkan": ("GGML_VK_VISIBLE_DEVICES",),
}
_LITTLE = 1 << 30  # bytes of GPU memory, of which a 7B has no use
# What CUDA and HIP say when they find no device (cudaGetErrorString), as llama.cpp's log has it.
_REASONS = (
    ("driver version is insufficient", "old_driver"),
    ("no CUDA-capable device", "no_device"),
    ("no ROCm-capable device", "no_device"),
    ("unsupported display driver", "mismatch"),
    ("forward compatibility", "mismatch"),
    ("initialization error", "broken"),
    ("out of memory", "full"),
    ("unknown error", "broken"),
)


def listed(cards: Sequence[Card]) -> str:
    """Cards by name and memory, equal ones counted."""
    names = [card.name + (f" ({amount(card.total)})" if card.total else "") for card in cards]
    return ", ".join(
        f"{names.count(name)} × {name}" if names.count(name) > 1 else name for name in dict.fromkeys(names)
    )


def check_gpu(outcome: Outcome, around: Surroundings, environ: Mapping[str, str] | None = None) -> Finding:
    """The system's GPUs against those that llama.cpp lists."""
    environ = os.environ if environ is None else environ
    cards, facts = around.cards, outcome.facts
    usable = cards.usable
    if not outcome.done:
        if usable:
            return skipped("gpu", said("doctor.gpu_unknown", cards=listed(usable)))
        return skipped("gpu", said("doctor.no_library"))
    devices: Sequence[Mapping[str, Any]] = facts["devices"]
    kind = kind_of(facts["backends"])
    details: dict[str, Any] = {"system": [card.name for card in usable], "llama_cpp": [row["name"] for row in devices]}
    names = ", ".join(f"{row['name']} ({row['description']})" for row in devices)
    if devices:
        return _used(devices, names, kind, around, environ, details)
    if not usable:
        if cards.cards:
            return ok("gpu", said("doctor.gpu_integrated", cards=listed(cards.cards)), **details)
        return ok("gpu", said("doctor.gpu_none"), **details)
    if not kind:
        return _processor_only(usable, around, details)
    if not any(kind in VENDORS[card.vendor] for card in usable):
        remedy = remedies.gpu_build(around.machine, cards, around.wanted)
        return failure("gpu", said("doctor.gpu_other", cards=listed(usable), kind=kind), remedy.command, **details)
    why, fix = blind(kind, outcome.log, around, environ)
    return failure("gpu", said("doctor.gpu_blind", cards=listed(usable), kind=kind, why=why), fix, **details)


def _used(
    devices: Sequence[Mapping[str, Any]],
    names: str,
    kind: str,
    around: Surroundings,
    environ: Mapping[str, str],
    details: Mapping[str, Any],
) -> Finding:
    """llama.cpp has devices: all that the system has of their kind?"""
    fitting = [card for card in around.cards.usable if kind in VENDORS[card.vendor]]
    if len(devices) >= len(fitting):
        return ok("gpu", said("doctor.gpu", names=names), **details)
    hiding = next((name for name in _HIDING.get(kind, ()) if name in environ), "")
    told = said("doctor.gpu_some", names=names, used=len(devices), count=len(fitting))
    if hiding:
        return ok("gpu", told.and_then(said("doctor.gpu_chosen", name=hiding, value=environ[hiding])), **details)
    fix = (
        hints.GPU_CONTAINER if around.machine.container else "nvidia-smi" if kind == "cuda" else "vulkaninfo --summary"
    )
    return warning("gpu", told, fix, **details)


def _processor_only(usable: Sequence[Card], around: Surroundings, details: Mapping[str, Any]) -> Finding:
    """A build without any GPU's backend, on a machine that has one."""
    cards = around.cards
    remedy = remedies.gpu_build(around.machine, cards, around.wanted)
    told = said("doctor.gpu_idle", cards=listed(usable))
    driver = cards.nvidia
    if around.machine.container and cards.absent and not cards.of("amd") and driver and driver.problem:
        # The host's card: nobody has given it to this container.
        return warning("gpu", said("doctor.gpu_outside", cards=listed(usable)), hints.GPU_CONTAINER, **details)
    if driver is not None and driver.problem and not driver.cuda:
        return failure(
            "gpu", told.and_then(said("doctor.gpu_no_driver")), hints.nvidia_driver(around.machine), **details
        )
    if remedy.what == "source":
        return failure("gpu", told.and_then(_no_wheel(around)), remedy.command, **details)
    return failure("gpu", told.and_then(said("doctor.gpu_wheel", tag=remedy.what)), remedy.command, **details)


def _no_wheel(around: Surroundings) -> Said:
    """Why this machine's build must be made here."""
    machine, cards = around.machine, around.cards
    if not machine.wheels:
        return said("doctor.no_wheel_machine", system=machine.system, arch=machine.arch, libc=machine.libc or "-")
    driver = cards.nvidia
    if driver is not None and driver.cuda and not remedies.cuda_tag(machine, driver.cuda, ()):
        return said("doctor.no_wheel_driver", cuda=_dotted(driver.cuda))
    return said("doctor.no_wheel_card")


def blind(kind: str, log: str, around: Surroundings, environ: Mapping[str, str]) -> tuple[Said, str]:
    """Why a build for GPUs of this kind sees none of those that are there, and the command against it."""
    machine, cards = around.machine, around.cards
    for name in _HIDING.get(kind, ()):
        if name in environ and environ[name].split(",")[0].strip() in ("", "-1", "NoDevFiles"):
            fix = f"Remove-Item Env:{name}" if machine.system == "Windows" else f"unset {name}"
            return said("doctor.blind_hidden", name=name, value=environ[name] or "''"), fix
    if cards.closed:
        group = (
            'sudo usermod -aG render,video "$USER"'
            if kind in ("rocm", "vulkan")
            else "sudo chmod a+rw " + " ".join(cards.closed)
        )
        return said("doctor.blind_closed", nodes=", ".join(cards.closed)), group
    driver = cards.nvidia if kind == "cuda" else None
    if driver is not None and driver.problem:
        return driver_said(driver.problem, driver.words), driver_fix(driver.problem, around)
    if cards.absent and machine.container:
        return said("doctor.blind_absent", nodes=", ".join(cards.absent)), hints.GPU_CONTAINER
    for mark, reason in _REASONS:
        if mark.lower() in log.lower():
            return said(f"doctor.blind_{reason}"), _against(reason, around)
    if cards.absent:
        fix = hints.nvidia_driver(machine) if kind == "cuda" else "sudo modprobe amdgpu"
        return said("doctor.blind_absent", nodes=", ".join(cards.absent)), fix
    return said("doctor.blind_unknown"), remedies.gpu_build(machine, cards, around.wanted).command


def _against(reason: str, around: Surroundings) -> str:
    """The command against what CUDA says of itself."""
    if reason == "old_driver":
        remedy = remedies.gpu_build(around.machine, around.cards, around.wanted)
        return remedy.command if remedy.what != "source" else hints.nvidia_driver(around.machine)
    if reason == "full":
        return "nvidia-smi"
    if reason == "no_device":
        return hints.nvidia_driver(around.machine)
    return hints.GPU_CONTAINER if around.machine.container else "sudo reboot"


def driver_said(problem: str, words: str) -> Said:
    """What is wrong with NVIDIA's driver, with its own words where it has some."""
    told = said(f"doctor.driver_{problem}")
    return told.and_then(said("doctor.said", words=words)) if words else told


def driver_fix(problem: str, around: Surroundings) -> str:
    """The command against a fault of NVIDIA's driver."""
    if around.machine.container:
        return hints.GPU_CONTAINER
    if problem in ("missing", "failed"):
        return hints.nvidia_driver(around.machine)
    if problem == "permission":
        return "sudo chmod a+rw /dev/nvidia*"
    if problem == "unreachable":
        return "sudo modprobe nvidia"
    return "sudo reboot"


def check_driver(outcome: Outcome, around: Surroundings) -> Finding:
    """NVIDIA's driver and the cards' compute capabilities, against what the build was made for; AMD's ROCm."""
    driver, cards = around.cards.nvidia, around.cards.of("nvidia")
    if driver is None:
        amd = around.cards.of("amd")
        if amd:
            targets = ", ".join(dict.fromkeys(card.target for card in amd if card.target))
            return ok("driver", said("doctor.driver_amd", rocm=around.cards.rocm or "-", targets=targets or "-"))
        return ok("driver", said("doctor.driver_needless"))
    capabilities = sorted({card.capability for card in cards if card.capability})
    details = {
        "version": driver.version,
        "cuda": _dotted(driver.cuda) if driver.cuda else None,
        "capabilities": [_dotted(one) for one in capabilities],
    }
    if driver.problem and not driver.version:
        told, fix = driver_said(driver.problem, driver.words), driver_fix(driver.problem, around)
        if around.machine.container and around.cards.absent:
            return warning("driver", told, fix, **details)
        return failure("driver", told, fix, **details)
    told = said(
        "doctor.driver",
        version=driver.version or "?",
        cuda=_dotted(driver.cuda) if driver.cuda else "?",
        capabilities=", ".join(map(_dotted, capabilities)) or "?",
    )
    if driver.problem in ("mismatch", "unreachable", "lost", "hangs"):
        return failure(
            "driver",
            told.and_then(driver_said(driver.problem, driver.words)),
            driver_fix(driver.problem, around),
            **details,
        )
    built = archs_of_system_info(str(outcome.facts.get("system_info", "")))
    for capability in reversed(capabilities):
        fit = suits(capability, built)
        fix = remedies.source(around.machine, around.wanted, "cuda", more="-DCMAKE_CUDA_ARCHITECTURES=native")
        values = {
            "capability": _dotted(capability),
            "built": ", ".join(_dotted((arch // 100, arch // 10 % 10)) for arch in built),
        }
        if fit == "none":
            return failure("driver", told.and_then(said("doctor.capability_none", **values)), fix, **details)
        if fit == "translated":
            return warning("driver", told.and_then(said("doctor.capability_ptx", **values)), fix, **details)
    return ok("driver", told, **details)


def suits(capability: tuple[int, int], built: Sequence[int]) -> str:
    """How a build for these architectures (860 is 8.6) runs on a card: "native", "translated" by the driver from PTX
    when it first starts, or "none". Code for an architecture runs on later ones of the same major version; whether
    there is PTX the build does not say.
    """
    own = 100 * capability[0] + 10 * capability[1]
    if not built or any(arch // 100 == capability[0] and arch <= own for arch in built):
        return "native"
    return "translated" if any(arch <= own for arch in built) else "none"


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def check_gpu_memory(outcome: Outcome, around: Surroundings) -> Finding | None:
    """The free memory of each GPU, live; None where there is none."""
    rows = [(row["name"], row["free"], row["total"]) for row in outcome.facts.get("devices", []) if row["total"]]
    known = (card for card in around.cards.cards if card.total and card.free is not None)
    rows = rows or [(card.name, card.free, card.total) for card in known]
    if not rows:
        return None
    shown = ", ".join(f"{name}: {amount(free)} / {amount(total)}" for name, free, total in rows)
    told = said("doctor.gpu_memory", rows=shown)
    details = {"gpus": [{"name": name, "free": free, "total": total} for name, free, total in rows]}
    if all(free < _LITTLE for _, free, _ in rows):
        fix = "nvidia-smi" if around.cards.of("nvidia") else hints.memory_holders(around.machine)
        return warning("gpu-memory", told.and_then(said("doctor.gpu_memory_low")), fix, **details)
    return ok("gpu-memory", told, **details)
