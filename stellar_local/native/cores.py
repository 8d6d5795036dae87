"""How many threads to compute with. Knows the operating system's processor lists."""

from __future__ import annotations

import os
from pathlib import Path


def physical_cores() -> int:
    """The physical cores this process may run on: a second hardware thread of a core adds nothing to matrix work.

    Linux: distinct cores among the allowed processors. Elsewhere: the logical processors.
    """
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:
        return os.cpu_count() or 1
    cores = set()
    for processor in allowed:
        topology = Path(f"/sys/devices/system/cpu/cpu{processor}/topology")
        try:
            cores.add(((topology / "physical_package_id").read_text(), (topology / "core_id").read_text()))
        except OSError:
            return len(allowed)
    return len(cores) or 1
