"""What there is to run a model in: the GPUs that llama.cpp would use, the main memory, and how much of both is free.

Knows no models. Cards that the user states, or that a table asks about, are machines as well.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..console import amount, bytes_of
from ..errors import UsageError
from ..native.devices import Device, gpus, has_computed

_LEAST, _MOST = 1 << 20, 1 << 50
# Bytes of a GPU that the driver's context of a process takes, measured on an H200. Smaller cards have smaller ones: it
# matters that it is once among a process's needs and once, if it is there, among what is free.
CUDA_CONTEXT = 518 << 20
# … and what stays, at least, of the kernels that were loaded once it has computed. After a batch 72 MiB were there,
# with graphs and streams, which go.
CUDA_LOADED = 56 << 20


@dataclass(frozen=True)
class Machine:
    """Where a model can lie. `ram` is the free main memory in bytes, None where the system does not say; `gpus` are
    those that llama.cpp spreads layers over. `stated` means that the cards are not this machine's, `limited`
    that the process may not map more than `ram`, however much there is. `opened` are the bytes of each GPU that this
    process's own driver context holds with its kernels, which are no longer free, but among what a model needs.
    """

    ram: int | None
    gpus: tuple[Device, ...] = ()
    stated: bool = False
    limited: bool = False
    opened: int = 0

    @property
    def unified(self) -> bool:
        """Whether the GPUs live on the main memory, so that what lies there and here adds up."""
        return any(_shares_memory(device) for device in self.gpus)

    @property
    def free(self) -> int | None:
        """Bytes free where weights will lie: all GPUs' together, else the main memory's; None where nobody says."""
        if not self.gpus:
            return self.ram
        known = any(device.total or device.free for device in self.gpus)
        return sum(device.free for device in self.gpus) if known else None


def is_cuda(device: Device) -> bool:
    """Whether a GPU is driven by CUDA."""
    return device.name.startswith("CUDA")


def _shares_memory(device: Device) -> bool:
    return device.integrated or device.name.startswith(("Metal", "MTL"))


def this_machine(on_gpu: bool = True) -> Machine:
    """The machine as it is now; without `on_gpu`, as if no GPU were there."""
    main = available_memory()
    found = []
    for device in gpus() if on_gpu else []:
        free = device.free
        if main is not None and (_shares_memory(device) or not device.total):
            # The main memory is what it lives on, or all that is known.
            free = min(free, main) if device.total else main
        found.append(replace(device, free=free))
    limited = main is not None and _own_room() <= main + (64 << 20)
    machine = Machine(main, tuple(found), limited=limited)
    if machine.unified or not any(map(is_cuda, found)):
        return machine
    return replace(machine, opened=CUDA_CONTEXT + has_computed() * CUDA_LOADED)


def stated_machine(sizes: Sequence[int], ram: int | None = None, name: str = "GPU") -> Machine:
    """A machine with cards of these many bytes, all of them free, and unlimited main memory where `ram` is None."""
    cards = tuple(Device(f"{name}{number}", amount(size), size, size, False) for number, size in enumerate(sizes))
    return Machine(ram, cards, stated=True)


def parse_sizes(text: str, option: str) -> list[int]:
    """Sizes as `console.bytes_of` reads them, several with commas; a mere number means GiB. Raises UsageError."""
    sizes = []
    for part in text.split(","):
        size = bytes_of(part) or bytes_of(part + "GiB") or 0
        if not _LEAST <= size < _MOST:
            raise UsageError(f"{option} must be a size as in 8GiB, not {text!r}", "several cards: 12GiB,8GiB")
        sizes.append(size)
    return sizes


def available_memory() -> int | None:
    """Bytes of main memory that a new process can use without swapping; None where the system does not say.

    Linux: MemAvailable of /proc/meminfo, or less where a control group or the process's own limit (ulimit -v) allows
    less. Elsewhere: the physical memory, of which other programs hold a part.
    """
    try:
        with open("/proc/meminfo", encoding="ascii") as handle:  # noqa: PTH123
            for line in handle:
                if line.startswith("MemAvailable:"):
                    return min(int(line.split()[1]) * 1024, _group_room(), _own_room())
    except OSError:
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _group_room(root: str = "/sys/fs/cgroup", own: str = "/proc/self/cgroup") -> int:
    """What the control group, as of a container, still allows (cgroup v2: memory.max, memory.current, and what of it
    are files' pages that can go); no limit found means no limit.
    """
    try:
        with open(own, encoding="ascii") as handle:  # noqa: PTH123
            path = next(line.strip()[3:] for line in handle if line.startswith("0::"))
    except (OSError, StopIteration):
        return _MOST
    room, parts = _MOST, [part for part in path.split("/") if part and part != ".."]
    for depth in range(len(parts) + 1):
        folder = "/".join([root, *parts[:depth]])
        try:
            limit, used, stat = (_read(f"{folder}/memory.{name}") for name in ("max", "current", "stat"))
            files = re.search(r"^inactive_file (\d+)", stat, re.MULTILINE)
            room = min(room, int(limit) - int(used) + (int(files[1]) if files else 0))
        except (OSError, ValueError):  # no limit here, or "max"
            continue
    return max(room, 0)


def _own_room() -> int:
    """What the process's limit of address space still allows: llama.cpp dies where it is reached in a small matter."""
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return _MOST
    try:
        used = int(_read("/proc/self/statm").split()[0]) * resource.getpagesize()
    except (OSError, ValueError):
        return limit
    return max(limit - used, 0)


def _read(path: str) -> str:
    with open(path, encoding="ascii") as handle:  # noqa: PTH123
        return handle.read()
