"""How much memory there is to run a model in. Knows the operating system, not models."""

from __future__ import annotations

import os


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
