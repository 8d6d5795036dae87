"""How many threads to compute with, and how they wait for one another. Knows the operating system's processor lists."""

from __future__ import annotations

import os
from pathlib import Path

_SPINS = "1000"


def spin_briefly() -> None:
    """Make OpenMP's threads sleep soon when they wait for one that another program holds up.

    GNU's OpenMP spins millions of rounds first: with one core busy elsewhere, generating slowed from 37 to 5 tokens
    a second on 2 cores. Takes effect if called before the first library that brings OpenMP is loaded; what the user
    has set in the environment stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)


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
