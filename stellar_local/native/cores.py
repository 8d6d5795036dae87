"""How many threads to compute with, and how they wait for one another.

Knows the operating system's lists of processors and the limits it sets a process; knows nothing of models.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
from pathlib import Path, PurePosixPath

_SPINS = "1000"
_ROOT = Path("/")


def spin_briefly() -> None:
    """Make OpenMP's threads sleep soon when they wait for one that another program holds up.

    GNU's OpenMP spins millions of rounds first: with one core busy elsewhere, generating slowed from 37 to 5 tokens
    a second on 2 cores. Takes effect if called before the first library that brings OpenMP is loaded; what the user
    has set in the environment stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)


def default_threads(root: Path = _ROOT) -> int:
    """How many threads llama.cpp should compute with here: one for each physical core, as `physical_cores` counts them.

    Where cores differ and the system says how (Linux on Intel's hybrid processors, macOS), only the fast ones count:
    all threads wait for the slowest at each step. `root` is where Linux's /sys and /proc are looked for. macOS is
    untried.
    """
    fast = _sysctl("hw.perflevel0.physicalcpu") if sys.platform == "darwin" else _fast_cores(root)
    cores = physical_cores(root)
    return min(fast or cores, cores)


def physical_cores(root: Path = _ROOT) -> int:
    """The physical cores this process may run on: a second hardware thread of a core adds nothing to matrix work.

    Linux: distinct cores among the allowed processors, and no more than a container's share of processor time makes,
    rounded up. macOS: as it counts them. Elsewhere: the logical processors.
    """
    allowed = _allowed()
    cores = len(_cores(allowed, root)) or len(allowed) or _sysctl("hw.physicalcpu") or os.cpu_count() or 1
    return min(cores, quota(root) or cores)


def quota(root: Path = _ROOT) -> int | None:
    """How many processors' time the process's control groups allow it, rounded up; None where there is no such limit.

    The tightest limit counts, from the process's own group up to the root of what is visible: cgroup v2's `cpu.max`,
    v1's `cpu.cfs_quota_us`.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    limits = []
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            mounts = ["sys/fs/cgroup", "sys/fs/cgroup/unified"]
        elif "cpu" in controllers.split(","):
            mounts = [f"sys/fs/cgroup/{controllers}", "sys/fs/cgroup/cpu"]
        else:
            continue
        # In a container the path may be the host's, of which nothing is visible but the part that is mounted.
        inside = PurePosixPath(path.lstrip("/"))
        places = [PurePosixPath(), *([] if ".." in inside.parts else [inside, *inside.parents])]
        limits += [_limit(root / mount / place) for mount in mounts for place in places]
    return min((limit for limit in limits if limit), default=None)


def _limit(group: Path) -> int | None:
    """The processors that one control group allows."""
    try:
        if (group / "cpu.max").exists():
            share, period = (group / "cpu.max").read_text().split()
        else:
            share = (group / "cpu.cfs_quota_us").read_text()
            period = (group / "cpu.cfs_period_us").read_text()
        return max(1, math.ceil(int(share) / int(period))) if int(share) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):  # "max" is no number: no limit
        return None


def _allowed() -> set[int]:
    """The processors this process may run on, by number; empty where the system does not say."""
    try:
        return set(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        return set()


def _cores(processors: set[int], root: Path) -> set[tuple[str, str]]:
    """The cores that these processors are hardware threads of, by package and number; empty where that is unknown."""
    cores = set()
    for processor in processors:
        topology = root / f"sys/devices/system/cpu/cpu{processor}/topology"
        try:
            cores.add(((topology / "physical_package_id").read_text(), (topology / "core_id").read_text()))
        except OSError:
            return set()
    return cores


def _fast_cores(root: Path) -> int:
    """The performance cores of an Intel hybrid processor among the allowed ones; 0 where there are none or no others.

    Linux lists the processors of each kind as those that the kind's performance counters cover.
    """
    try:
        listed = (root / "sys/devices/cpu_core/cpus").read_text()
        fast = {processor for part in listed.strip().split(",") if part for processor in _span(part)}
    except (OSError, ValueError):
        return 0
    fast &= _allowed()
    return len(_cores(fast, root)) or len(fast)


def _span(text: str) -> range:
    """ "0-7" or "3" as numbers."""
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def _sysctl(name: str) -> int:
    """A number that macOS's kernel knows by this name, 0 if it does not."""
    value, size = ctypes.c_int32(0), ctypes.c_size_t(4)
    try:
        ctypes.CDLL(None).sysctlbyname(name.encode(), ctypes.byref(value), ctypes.byref(size), None, 0)
    except (AttributeError, OSError, TypeError):  # not macOS
        return 0
    return max(0, value.value)
