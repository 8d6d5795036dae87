"""Whose memory decides: the GPUs' where they compute, else the machine's."""

from __future__ import annotations

import pytest

from stellar_local.native.devices import Device
from stellar_local.plan import hardware
from stellar_local.plan.hardware import Memory, available_memory, free_memory

GIB = 1 << 30


def card(free: int, total: int = 24 * GIB, integrated: bool = False) -> Device:
    return Device("CUDA0", "a card", free, total, integrated)


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        ([], Memory(10 * GIB)),
        ([card(20 * GIB)], Memory(20 * GIB, 1)),
        ([card(20 * GIB), card(5 * GIB)], Memory(25 * GIB, 2)),
        ([card(16 * GIB, 16 * GIB, integrated=True)], Memory(10 * GIB, 1)),  # it is the same memory
        ([card(4 * GIB, 16 * GIB, integrated=True)], Memory(4 * GIB, 1)),
        ([card(0, 0)], Memory(10 * GIB, 1)),  # a driver that does not say
        ([card(0)], Memory(0, 1)),  # a full one
    ],
)
def test_the_memory_that_decides(monkeypatch: pytest.MonkeyPatch, devices: list[Device], expected: Memory) -> None:
    monkeypatch.setattr(hardware, "available_memory", lambda: 10 * GIB)
    monkeypatch.setattr(hardware, "gpus", lambda: devices)
    assert free_memory() == expected
    assert free_memory(on_gpu=False) == Memory(10 * GIB)


def test_a_system_that_does_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "available_memory", lambda: None)
    monkeypatch.setattr(hardware, "gpus", list)
    assert free_memory() is None
    monkeypatch.setattr(hardware, "gpus", lambda: [card(3 * GIB, integrated=True)])
    assert free_memory() == Memory(3 * GIB, 1)


def test_available_memory_is_plausible() -> None:
    memory = available_memory()
    assert memory is None or 100 << 20 < memory < 1 << 50
