"""The GPUs that the system has, without llama.cpp: by NVIDIA's driver, the PCI bus, the kernel, and Apple's processor.

Each reading takes the text or the folder that it reads, so that it can be tried on other machines'. Of AMD's, Intel's
and Apple's nothing was tried on a machine that has one; Windows's list neither. Judges nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from . import nvidia
from .machine import Machine, Ran, tool
from .nvidia import Card, Driver

_VENDORS = {"0x10de": "nvidia", "0x1002": "amd", "0x8086": "intel"}
_WORDS = {"nvidia": ("nvidia", "geforce"), "amd": ("amd", "radeon"), "intel": ("intel",), "apple": ("apple",)}
_DISPLAY = "0x03"  # PCI class of display controllers
_INTEL_INSIDE = "0000:00:02.0"  # where Intel's integrated graphics always is
_SMALLEST = 2 << 30  # bytes: AMD's integrated graphics is given less of the main memory as its own


@dataclass(frozen=True)
class Cards:
    """The system's GPUs, and what their drivers are. `rocm` is ROCm's version, "" where it is not installed; `nodes`
    are the device files that a program needs and may not open, or that are not there (`absent`).
    """

    cards: tuple[Card, ...] = ()
    nvidia: Driver | None = None
    rocm: str = ""
    closed: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()

    def of(self, vendor: str) -> list[Card]:
        """The cards of one maker."""
        return [card for card in self.cards if card.vendor == vendor]

    @property
    def usable(self) -> list[Card]:
        """The cards that are worth a build of llama.cpp: not Intel's and AMD's integrated ones."""
        return [card for card in self.cards if not card.integrated or card.vendor == "apple"]


def of_pci(root: Path = Path("/sys/bus/pci/devices")) -> list[Card]:
    """NVIDIA's, AMD's and Intel's display controllers on the PCI bus, from Linux's sysfs."""
    found = []
    for folder in sorted(root.glob("*")):
        vendor = _VENDORS.get(_word(folder / "vendor"))
        if vendor is None or not _word(folder / "class").startswith(_DISPLAY):
            continue
        total = _number(_word(folder / "mem_info_vram_total"))  # amdgpu's
        used = _number(_word(folder / "mem_info_vram_used"))
        inside = folder.name == _INTEL_INSIDE if vendor == "intel" else total is not None and total < _SMALLEST
        name = f"{vendor.upper() if vendor == 'amd' else vendor.capitalize()} {_word(folder / 'device')[2:]}"
        free = total - used if total is not None and used is not None else None
        found.append(Card(vendor, name, total, free, slot=folder.name.lower(), integrated=inside))
    return found


def targets_of_kfd(root: Path = Path("/sys/class/kfd/kfd/topology/nodes")) -> list[str]:
    """The targets (gfx1100) of the GPUs that AMD's compute driver has, in its order."""
    found = []
    for file in sorted(root.glob("*/properties"), key=lambda path: (len(path.parent.name), path.parent.name)):
        version = re.search(r"^gfx_target_version (\d+)$", _text(file), re.MULTILINE)
        if version and (number := int(version[1])):  # 0 is a processor
            found.append(f"gfx{number // 10000}{number // 100 % 100:x}{number % 100:x}")
    return found


def names_of_rocminfo(text: str) -> list[str]:
    """The names of the GPUs in what `rocminfo` prints, in its order."""
    agents = re.split(r"^\*+\s*$\n^Agent \d+\s*$", text, flags=re.MULTILINE)
    names = []
    for agent in agents:
        name = re.search(r"Marketing Name:\s*(.+)", agent)
        if re.search(r"Device Type:\s*GPU", agent):
            names.append(name[1].strip() if name else "AMD")
    return names


def names_of_vulkaninfo(text: str) -> list[tuple[str, bool]]:
    """The GPUs in what `vulkaninfo --summary` prints, and whether each is integrated; processors are left out."""
    found = []
    for block in re.split(r"^GPU\d+:\s*$", text, flags=re.MULTILINE)[1:]:
        kind, name = re.search(r"deviceType\s*=\s*(\w+)", block), re.search(r"deviceName\s*=\s*(.+)", block)
        if kind and name and kind[1].endswith("_GPU"):
            found.append((name[1].strip(), "INTEGRATED" in kind[1]))
    return found


def of_windows(text: str) -> list[Card]:
    """The GPUs in Windows's list of video controllers, a name a line."""
    found = []
    for line in filter(None, map(str.strip, text.splitlines())):
        vendor = next((key for key, words in _WORDS.items() if any(word in line.lower() for word in words)), None)
        if vendor:
            inside = line.endswith("Radeon(TM) Graphics") or (vendor == "intel" and not re.search(r"\bArc\b", line))
            found.append(Card(vendor, line, integrated=inside))
    return found


def of_macos(machine: Machine, ran: Ran | None) -> list[Card]:
    """Apple Silicon's GPU, which every such machine has; its memory is the machine's."""
    if not machine.apple_silicon:
        return []
    return [Card("apple", (ran.out.strip() if ran else "") or "Apple Silicon", integrated=True)]


def node_faults(vendors: set[str], root: Path = Path("/dev")) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The device files that these makers' drivers need: those that we may not open, and those that are not there."""
    wanted = []
    if "nvidia" in vendors:
        wanted += [*(sorted(root.glob("nvidia[0-9]*")) or [root / "nvidia0"]), root / "nvidiactl"]
    if "amd" in vendors:
        wanted += [root / "kfd", *sorted((root / "dri").glob("renderD*"))]
    closed = [str(node) for node in wanted if node.exists() and not os.access(node, os.R_OK | os.W_OK)]
    return tuple(closed), tuple(str(node) for node in wanted if not node.exists())


def collect(machine: Machine, nvml: Callable[[], Mapping[str, Any]]) -> Cards:
    """All of it, for this machine. `nvml` asks NVML in a child process, where nvidia-smi does not answer."""
    if machine.system == "Darwin":
        return Cards(tuple(of_macos(machine, tool("sysctl", "-n", "machdep.cpu.brand_string"))))
    facts = (nvml() for _ in range(1))  # asked only if it must be
    if machine.system == "Windows":
        listing = "Get-CimInstance Win32_VideoController | Select-Object -ExpandProperty Name"
        ran = tool("powershell", "-NoProfile", "-Command", listing)
        bus = of_windows(ran.out) if ran else []
    else:
        bus = of_pci()
    found, driver = nvidia.seen(facts)
    others = [card for card in bus if card.vendor != "nvidia"]
    cards = [*(found or [card for card in bus if card.vendor == "nvidia"]), *others]
    rocm = ""
    if machine.system == "Linux" and any(card.vendor == "amd" for card in others):
        rocm = _word(Path("/opt/rocm/.info/version")).partition("-")[0]
        cards = _named(cards, targets_of_kfd(), tool("rocminfo"))
    if not found and (ran := tool("vulkaninfo", "--summary")):
        cards = with_vulkan(cards, names_of_vulkaninfo(ran.out))
    vendors = {card.vendor for card in cards}
    closed, absent = node_faults(vendors) if machine.system == "Linux" and not machine.wsl else ((), ())
    return Cards(tuple(cards), driver if "nvidia" in vendors else None, rocm, closed, absent)


def with_vulkan(cards: list[Card], listed: list[tuple[str, bool]]) -> list[Card]:
    """The cards with the names that Vulkan has for them, and those that only Vulkan knows (as on small boards)."""
    made = list(cards)
    for name, integrated in listed:
        vendor = next((key for key, words in _WORDS.items() if any(word in name.lower() for word in words)), "other")
        own = [place for place, card in enumerate(made) if card.vendor == vendor]
        plain = [place for place in own if re.fullmatch(r"\w+ [0-9a-f]{4}", made[place].name)]
        if plain:
            made[plain[0]] = replace(made[plain[0]], name=name)
        elif not own:
            made.append(Card(vendor, name, integrated=integrated))
    return made


def _named(cards: list[Card], targets: list[str], ran: Ran | None) -> list[Card]:
    """AMD's cards with their targets and names, where the compute driver lists as many as the bus has."""
    count = sum(card.vendor == "amd" for card in cards)
    names = names_of_rocminfo(ran.out) if ran else []
    known = iter(zip(targets, names if len(names) == count else [""] * count, strict=False))
    if len(targets) != count:
        return cards
    made = []
    for card in cards:
        if card.vendor == "amd":
            target, name = next(known)
            card = replace(card, target=target, name=name or card.name)
        made.append(card)
    return made


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _word(path: Path) -> str:
    return _text(path).strip().lower()


def _number(text: str) -> int | None:
    return int(text) if text.isdigit() else None
