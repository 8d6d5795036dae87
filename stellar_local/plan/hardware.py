"""How much memory there is to run a model in, and whose: the machine's or its GPUs'. Knows no models."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ..native.devices import gpus


@dataclass(frozen=True)
class Memory:
    """Free bytes where a model's weights will lie; `gpus` counts the GPUs they are of, 0 means main memory."""

    free: int
    gpus: int = 0


def free_memory(on_gpu: bool = True) -> Memory | None:
    """The memory that decides whether a model fits: all GPUs' together where llama.cpp computes on them, and `on_gpu`,
    else the machine's. None where the system does not say.
    """
    main = available_memory()
    devices = gpus() if on_gpu else []
    if not devices:
        return None if main is None else Memory(main)
    free = sum(device.free for device in devices)
    if any(device.integrated or not device.total for device in devices) and main is not None:
        free = min(free, main) if free else main  # the main memory is what it lives on, or all that is known
    return Memory(free, len(devices))


def available_memory() -> int | None:
    """Bytes of main memory that a new process can use without swapping; None where the system does not say.

    Linux: MemAvailable of /proc/meminfo. Elsewhere: the physical memory, of which other programs hold a part.
    """
    try:
        with open("/proc/meminfo", encoding="ascii") as handle:  # noqa: PTH123
            for line in handle:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
