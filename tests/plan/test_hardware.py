"""What there is to run a model in: devices as llama.cpp lists them, what is free, and cards that a user states."""

from __future__ import annotations

import builtins
import io
from pathlib import Path
from typing import Any

import pytest

from stellar_local.errors import UsageError
from stellar_local.native.devices import Device
from stellar_local.plan import hardware
from stellar_local.plan.hardware import Machine, available_memory, parse_sizes, stated_machine, this_machine

GIB, MIB = 1 << 30, 1 << 20


def card(free: int, total: int = 24 * GIB, integrated: bool = False, name: str = "CUDA0") -> Device:
    return Device(name, "a card", free, total, integrated)


@pytest.mark.parametrize(
    ("devices", "free", "unified"),
    [
        ([], 10 * GIB, False),
        ([card(20 * GIB)], 20 * GIB, False),
        ([card(20 * GIB), card(5 * GIB, name="CUDA1")], 25 * GIB, False),
        ([card(16 * GIB, 16 * GIB, integrated=True)], 10 * GIB, True),  # it is the same memory
        ([card(4 * GIB, 16 * GIB, integrated=True)], 4 * GIB, True),
        ([card(16 * GIB, 16 * GIB, name="Metal")], 10 * GIB, True),
        ([card(0, 0)], 10 * GIB, False),  # a driver that does not say
        ([card(0)], 0, False),  # a full one
    ],
)
def test_the_memory_that_decides(
    monkeypatch: pytest.MonkeyPatch, devices: list[Device], free: int, unified: bool
) -> None:
    monkeypatch.setattr(hardware, "available_memory", lambda: 10 * GIB)
    monkeypatch.setattr(hardware, "gpus", lambda: devices)
    machine = this_machine()
    assert (machine.free, machine.ram, machine.unified, machine.stated) == (free, 10 * GIB, unified, False)
    assert [device.name for device in machine.gpus] == [device.name for device in devices]
    assert this_machine(on_gpu=False) == Machine(10 * GIB)
    own = hardware.CUDA_CONTEXT if devices and not unified else 0
    assert machine.opened == own
    monkeypatch.setattr(hardware, "has_computed", lambda: True)
    assert this_machine().opened == (own + hardware.CUDA_LOADED if own else 0)


def test_a_system_that_does_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "available_memory", lambda: None)
    monkeypatch.setattr(hardware, "gpus", list)
    assert this_machine() == Machine(None)
    assert this_machine().free is None
    monkeypatch.setattr(hardware, "gpus", lambda: [card(3 * GIB, integrated=True)])
    assert this_machine().free == 3 * GIB
    monkeypatch.setattr(hardware, "gpus", lambda: [card(0, 0)])
    assert this_machine().free is None


def test_available_memory_is_plausible() -> None:
    memory = available_memory()
    assert memory is None or 100 << 20 < memory < 1 << 50


def files(monkeypatch: pytest.MonkeyPatch, contents: dict[str, str]) -> None:
    """A system with these files under /proc and /sys, and no others there."""
    real = builtins.open

    def opened(path: Any, *arguments: Any, **more: Any) -> Any:
        if str(path).startswith(("/proc/meminfo", "/proc/self/cgroup", "/sys/fs/cgroup")):
            if str(path) not in contents:
                raise FileNotFoundError(path)
            return io.StringIO(contents[str(path)])
        return real(path, *arguments, **more)

    monkeypatch.setattr(builtins, "open", opened)


MEMINFO = "MemTotal:       16000000 kB\nMemFree:  1000 kB\nMemAvailable:    8000000 kB\n"
GROUP = {"/proc/meminfo": MEMINFO, "/proc/self/cgroup": "0::/user/app\n"}


def group(path: str, limit: str, used: int, idle: int = 0) -> dict[str, str]:
    folder = "/sys/fs/cgroup" + path
    stat = f"anon 5\nfile 99999999\ninactive_file {idle}\nactive_file 7\n"
    return {f"{folder}/memory.max": limit, f"{folder}/memory.current": str(used), f"{folder}/memory.stat": stat}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, 8_192_000_000),
        (group("/user/app", "max\n", 5), 8_192_000_000),
        (group("/user/app", "4000000000\n", 1_000_000_000), 3_000_000_000),
        (group("/user/app", "4000000000", 1_000_000_000, idle=500_000_000), 3_500_000_000),
        (group("/user", "2000000000", 500_000_000), 1_500_000_000),  # what holds for a group's parent
        (group("/user", "2000000000", 0) | group("/user/app", "9000000000", 0), 2_000_000_000),
        (group("", "3000000000", 0), 3_000_000_000),  # a container sees its group as the root
        (group("/user/app", "90000000000", 0), 8_192_000_000),
        (group("/user/app", "1000", 5000), 0),
        (group("/other", "1000", 0), 8_192_000_000),
        ({"/proc/self/cgroup": "12:memory:/old\n"} | group("/user", "1000", 0), 8_192_000_000),
    ],
)
def test_linux_says_what_is_available_and_allowed(
    monkeypatch: pytest.MonkeyPatch, more: dict[str, str], expected: int
) -> None:
    files(monkeypatch, {**GROUP, **more})
    assert available_memory() == expected


def test_without_control_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    files(monkeypatch, {"/proc/meminfo": MEMINFO})
    assert available_memory() == 8_192_000_000


def test_elsewhere_it_is_the_physical_memory_or_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    files(monkeypatch, {})
    monkeypatch.setattr("os.sysconf", {"SC_PHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}.__getitem__, raising=False)
    assert available_memory() == 4_096_000
    monkeypatch.delattr("os.sysconf")
    assert available_memory() is None


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("8GiB", [8 * GIB]),
        ("8", [8 * GIB]),
        ("8GB", [8_000_000_000]),
        ("8 g", [8 * GIB]),
        ("7.5gib", [15 * GIB // 2]),
        ("7900MiB", [7900 * MIB]),
        ("7900 mb", [7_900_000_000]),
        ("８GiB", [8 * GIB]),
        ("8TiB", [8192 * GIB]),
        ("12GiB, 8GiB,4", [12 * GIB, 8 * GIB, 4 * GIB]),
    ],
)
def test_sizes(text: str, sizes: list[int]) -> None:
    assert parse_sizes(text, "--vram") == sizes


@pytest.mark.parametrize("text", ["", "0", "0.0GiB", "8KiB", "1024TiB", "-8", "8,,8", "8GiB,", "1e3", "9999999"])
def test_wrong_sizes(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_sizes(text, "--vram")
    assert caught.value.message == f"--vram must be a size as in 8GiB, not {text!r}"


def test_a_machine_that_is_stated() -> None:
    machine = stated_machine([8 * GIB, 15 * GIB // 2], ram=GIB)
    assert [(one.name, one.description, one.free, one.total) for one in machine.gpus] == [
        ("GPU0", "8.0 GiB", 8 * GIB, 8 * GIB),
        ("GPU1", "7.5 GiB", 15 * GIB // 2, 15 * GIB // 2),
    ]
    assert (machine.free, machine.ram, machine.stated, machine.unified) == (31 * GIB // 2, GIB, True, False)
    assert stated_machine([GIB]).ram is None


def test_the_limit_of_a_real_group_is_readable() -> None:
    """Where this very process runs in one; the numbers are its own."""
    if not Path("/proc/self/cgroup").exists():
        pytest.skip("no control groups here")
    assert 0 <= hardware._group_room() <= hardware._MOST
