"""NVIDIA's cards and driver as nvidia-smi, NVML and /proc tell of them, without llama.cpp.

Each reading takes the text that a program printed, so that it can be tried on other machines' outputs. Judges nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .machine import Ran, tool

_ELSEWHERE = ("/usr/lib/wsl/lib/nvidia-smi", "/usr/bin/nvidia-smi", "/usr/local/nvidia/bin/nvidia-smi")
_FIELDS = "name,memory.total,memory.free,pci.bus_id,driver_version"
# Driver branch → the CUDA version that it brings (the toolkits' release notes); for where the driver does not say.
_CUDA = (
    (450, 11, 0),
    (520, 11, 8),
    (525, 12, 0),
    (530, 12, 1),
    (535, 12, 2),
    (545, 12, 3),
    (550, 12, 4),
    (555, 12, 5),
    (560, 12, 6),
    (565, 12, 7),
    (570, 12, 8),
    (575, 12, 9),
    (580, 13, 0),
)


@dataclass(frozen=True)
class Card:
    """A GPU that the system knows of. `vendor` is nvidia, amd, intel, apple or other; memory is in bytes, None where
    that is unknown. An `integrated` one shares the main memory. `capability` is NVIDIA's, `target` AMD's (gfx1100).
    """

    vendor: str
    name: str
    total: int | None = None
    free: int | None = None
    capability: tuple[int, int] | None = None
    slot: str = ""
    integrated: bool = False
    target: str = ""


@dataclass(frozen=True)
class Driver:
    """NVIDIA's driver: its version ("" unknown), the newest CUDA that it runs, and why it does not answer, if so.

    `problem` is "", or one of: missing, unreachable, mismatch, permission, lost, hangs, failed; `words` are its own.
    """

    version: str = ""
    cuda: tuple[int, int] | None = None
    problem: str = ""
    words: str = ""


def cards_of_query(text: str) -> list[Card]:
    """The cards in `nvidia-smi --query-gpu=…,compute_cap`, or without the last: CSV without header and units."""
    found = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) < 5:
            continue
        capability = re.fullmatch(r"(\d+)\.(\d+)", cells[5]) if len(cells) > 5 else None
        found.append(
            Card(
                "nvidia",
                cells[0],
                _mebibytes(cells[1]),
                _mebibytes(cells[2]),
                (int(capability[1]), int(capability[2])) if capability else None,
                short_slot(cells[3]),
            )
        )
    return found


def _mebibytes(text: str) -> int | None:
    """MiB as bytes; None for [N/A], as of cards that share the main memory."""
    return int(text) << 20 if text.isdigit() else None


def short_slot(text: str) -> str:
    """A place on the PCI bus as Linux writes it: NVIDIA's has eight digits of domain."""
    return re.sub(r"^0000(?=[0-9a-f]{4}:)", "", text.strip().lower())


def banner(text: str) -> tuple[str, tuple[int, int] | None]:
    """The driver's version and its CUDA version at the head of what `nvidia-smi` prints."""
    driver = re.search(r"Driver Version\s*:\s*([\d.]+)", text)
    cuda = re.search(r"CUDA(?: UMD)? Version\s*:\s*(\d+)\.(\d+)", text)
    return driver[1] if driver else "", (int(cuda[1]), int(cuda[2])) if cuda else None


def cuda_of_driver(version: str) -> tuple[int, int] | None:
    """The CUDA version that a driver brings, by its own; None for one that is older than CUDA 11 or unreadable."""
    branch = re.match(r"\d+", version)
    known = [(major, minor) for first, major, minor in _CUDA if branch and int(branch[0]) >= first]
    return known[-1] if known else None


def problem(ran: Ran | None) -> tuple[str, str]:
    """Why nvidia-smi gave no list, as a word and in its own words; ("", "") if it gave one."""
    if ran is None:
        return "missing", ""
    words = next((line.strip() for line in (ran.err + "\n" + ran.out).splitlines() if line.strip()), "")
    if ran.code is None:
        return "hangs", ""
    if ran.code == 0 and "No devices" not in words:
        return "", ""
    for mark, name in (
        ("version mismatch", "mismatch"),
        ("couldn't communicate", "unreachable"),
        ("Insufficient Permissions", "permission"),
        ("Unknown Error", "lost"),
        ("No devices", "unreachable"),
        ("Driver Not Loaded", "unreachable"),
        ("GPU is lost", "lost"),
    ):
        if mark.lower() in words.lower():
            return name, words
    return "failed", words


def of_proc(root: Path = Path("/proc/driver/nvidia")) -> tuple[list[Card], str]:
    """The cards and the driver's version as the kernel module tells them, which needs no library."""
    found = []
    for file in sorted(root.glob("gpus/*/information")):
        model = re.search(r"^Model:\s*(.+)$", _text(file), re.MULTILINE)
        found.append(Card("nvidia", model[1].strip() if model else "NVIDIA", slot=file.parent.name.lower()))
    version = re.search(r"(?:Module|Kernel Module for \S+)\s+(\d+[\d.]+)", _text(root / "version"))
    return found, version[1] if version else ""


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def of_nvml(facts: Mapping[str, Any]) -> tuple[list[Card], Driver]:
    """The cards and the driver in what the probe of NVML told."""
    found = [
        Card(
            "nvidia",
            str(row["name"]),
            row["total"],
            row["free"],
            (int(row["major"]), int(row["minor"])) if row["major"] else None,
            short_slot(str(row["slot"])),
        )
        for row in facts.get("cards", [])
    ]
    number = int(facts.get("cuda") or 0)
    return found, Driver(str(facts.get("driver", "")), (number // 1000, number % 1000 // 10) if number else None)


def seen(nvml: Iterable[Mapping[str, Any]] = (), root: Path = Path("/proc/driver/nvidia")) -> tuple[list[Card], Driver]:
    """NVIDIA's cards and driver, from the first that knows them: nvidia-smi, NVML, the kernel.

    `nvml` gives the facts of the probe of NVML if it is asked for them, which takes a child process.
    """
    query = None
    for fields in (f"{_FIELDS},compute_cap", _FIELDS):  # drivers before 510 do not know the capability
        query = tool("nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits", elsewhere=_ELSEWHERE)
        if query is None or query.code is None or query.code == 0:
            break
    fault, words = problem(query)
    if query is not None and not fault and (found := cards_of_query(query.out)):
        head = tool("nvidia-smi", elsewhere=_ELSEWHERE)
        version, cuda = banner(head.out if head else "")
        version = version or query.out.splitlines()[0].split(",")[4].strip()
        return found, Driver(version, cuda or cuda_of_driver(version))
    for facts in nvml:
        found, driver = of_nvml(facts)
        if found:
            return found, replace(driver, cuda=driver.cuda or cuda_of_driver(driver.version))
    found, version = of_proc(root)
    return found, Driver(version, cuda_of_driver(version), fault or "failed", words)
