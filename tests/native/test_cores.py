"""How many threads: against trees of /sys and /proc as machines of several kinds have them, and this machine's own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stellar_local.native import cores
from stellar_local.native.cores import default_threads, physical_cores, quota


def machine(
    root: Path, threads_of: list[int], monkeypatch: pytest.MonkeyPatch, allowed: set[int] | None = None
) -> Path:
    """A tree of cores with so many hardware threads each, in Linux's order: the first thread of each core first."""
    number = 0
    for thread in range(max(threads_of)):
        for core, count in enumerate(threads_of):
            if thread < count:
                topology = root / f"sys/devices/system/cpu/cpu{number}/topology"
                topology.mkdir(parents=True)
                (topology / "physical_package_id").write_text("0\n")
                (topology / "core_id").write_text(f"{core}\n")
                number += 1
    monkeypatch.setattr(cores, "_allowed", lambda: set(range(number)) if allowed is None else allowed)
    return root


def groups(root: Path, membership: str, **files: str) -> Path:
    """Control groups: what /proc/self/cgroup says, and files by their path below /sys/fs/cgroup (__ for /)."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(membership)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_hardware_threads_of_a_core_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = machine(tmp_path, [2] * 8, monkeypatch)
    assert (physical_cores(root), default_threads(root)) == (8, 8)
    monkeypatch.setattr(cores, "_allowed", lambda: {0, 1, 8, 9})  # both threads of two cores
    assert physical_cores(root) == 2
    monkeypatch.setattr(cores, "_allowed", lambda: {0, 99})  # one that nothing is known of
    assert physical_cores(root) == 2


def test_a_hybrid_processor_s_fast_cores_compute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a Core i7 with 4 performance cores of two threads and 8 efficiency cores of one."""
    for core in range(12):
        count = 2 if core < 4 else 1
        for thread in range(count):
            number = 2 * core + thread if core < 4 else 4 + core
            topology = tmp_path / f"sys/devices/system/cpu/cpu{number}/topology"
            topology.mkdir(parents=True)
            (topology / "physical_package_id").write_text("0\n")
            (topology / "core_id").write_text(f"{core}\n")
    for kind, processors in (("cpu_core", "0-7"), ("cpu_atom", "8-15")):
        (tmp_path / f"sys/devices/{kind}").mkdir()
        (tmp_path / f"sys/devices/{kind}/cpus").write_text(processors + "\n")
    monkeypatch.setattr(cores, "_allowed", lambda: set(range(16)))
    assert (default_threads(tmp_path), physical_cores(tmp_path)) == (4, 12)
    monkeypatch.setattr(cores, "_allowed", lambda: {0, 1, 8, 9})
    assert (default_threads(tmp_path), physical_cores(tmp_path)) == (1, 3)
    monkeypatch.setattr(cores, "_allowed", lambda: {8, 9, 10})  # no fast one may be used
    assert default_threads(tmp_path) == 3
    (tmp_path / "sys/devices/cpu_core/cpus").write_text("0-1,4\n")
    monkeypatch.setattr(cores, "_allowed", lambda: set(range(16)))
    assert default_threads(tmp_path) == 2
    (tmp_path / "sys/devices/cpu_core/cpus").write_text("all of them\n")
    assert default_threads(tmp_path) == 12


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),  # a container that sees its own group as the root
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),  # one and a half: rounded up
        ("0::/\n", {"cpu.max": "5000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {"cpu.max": "nonsense\n"}, None),
        ("0::/\n", {"cpu.max": "100000 0\n"}, None),
        ("0::/a/b\n", {"a__b__cpu.max": "max 100000\n", "a__cpu.max": "300000 100000\n"}, 3),  # an outer group's
        ("0::/a/b\n", {"a__b__cpu.max": "100000 100000\n", "a__cpu.max": "300000 100000\n"}, 1),
        ("0::/docker/0123\n", {"cpu.max": "400000 100000\n"}, 4),  # the path is the host's
        ("0::/../../x\n", {"cpu.max": "400000 100000\n"}, 4),
        (
            "5:cpu,cpuacct:/docker/0123\n1:name=systemd:/\n",
            {"cpu,cpuacct__cpu.cfs_quota_us": "250000\n", "cpu,cpuacct__cpu.cfs_period_us": "100000\n"},
            3,
        ),
        ("1:cpu:/\n0::/\n", {"cpu__cpu.cfs_quota_us": "-1\n", "cpu__cpu.cfs_period_us": "100000\n"}, None),
        ("2:cpuset:/\n", {"cpu__cpu.cfs_quota_us": "100000\n", "cpu__cpu.cfs_period_us": "100000\n"}, None),
        ("", {}, None),
    ],
)
def test_a_container_s_share_of_processor_time(
    membership: str, files: dict[str, str], expected: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = groups(tmp_path, membership, **files)
    assert quota(root) == expected
    machine(root, [1] * 64, monkeypatch)
    assert (physical_cores(root), default_threads(root)) == (expected or 64, expected or 64)


def test_without_control_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert quota(tmp_path) is None


def test_macos_is_asked_for_its_performance_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated: an M-series chip with 4 performance and 6 efficiency cores."""
    known = {"hw.perflevel0.physicalcpu": 4, "hw.physicalcpu": 10}
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(cores, "_allowed", set)
    monkeypatch.setattr(cores, "_sysctl", lambda name: known.get(name, 0))
    assert (default_threads(tmp_path), physical_cores(tmp_path)) == (4, 10)
    known.pop("hw.perflevel0.physicalcpu")
    assert default_threads(tmp_path) == 10
    known.clear()
    assert default_threads(tmp_path) == os.cpu_count()


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS knows these names")
def test_elsewhere_no_such_number_is_known() -> None:
    assert cores._sysctl("hw.physicalcpu") == 0


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux lets a process be bound to processors")
def test_a_process_bound_to_one_processor_starts_one_thread() -> None:
    code = (
        "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
        "from stellar_local.native.cores import default_threads; print(default_threads())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stdout == "1\n", done.stderr
