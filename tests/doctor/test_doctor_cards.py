"""The GPUs on the PCI bus, in AMD's, Vulkan's, Windows's and Apple's lists, and the device files of their drivers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from doctor_cases import LINUX, MAC, RTX, WINDOWS, program

from stellar_local.doctor import cards as module
from stellar_local.doctor.cards import (
    Cards,
    collect,
    names_of_rocminfo,
    names_of_vulkaninfo,
    node_faults,
    of_macos,
    of_pci,
    of_windows,
    targets_of_kfd,
    with_vulkan,
)
from stellar_local.doctor.machine import Machine, Ran
from stellar_local.doctor.nvidia import Card, Driver

ROCMINFO = """ROCk module is loaded
==========
HSA Agents
==========
*******
Agent 1
*******
  Name:                    AMD Ryzen 9 7950X 16-Core Processor
  Marketing Name:          AMD Ryzen 9 7950X 16-Core Processor
  Device Type:             CPU
*******
Agent 2
*******
  Name:                    gfx1100
  Marketing Name:          Radeon RX 7900 XTX
  Device Type:             GPU
"""
VULKANINFO = """==========
VULKANINFO
==========
Devices:
========
GPU0:
	apiVersion         = 1.3.277
	deviceType         = PHYSICAL_DEVICE_TYPE_DISCRETE_GPU
	deviceName         = Intel(R) Arc(tm) A770 Graphics (DG2)
GPU1:
	deviceType         = PHYSICAL_DEVICE_TYPE_CPU
	deviceName         = llvmpipe (LLVM 15.0.7, 256 bits)
GPU2:
	deviceType         = PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU
	deviceName         = V3D 7.1.7
"""


def device(root: Path, slot: str, **files: str) -> None:
    folder = root / slot
    folder.mkdir(parents=True)
    for name, text in {"class": "0x030000", **files}.items():
        (folder / name).write_text(text + "\n")


def test_the_bus_has_the_three_makers_displays_and_nothing_else(tmp_path: Path) -> None:
    device(tmp_path, "0000:00:02.0", vendor="0x8086", device="0xa780")
    device(tmp_path, "0000:01:00.0", vendor="0x10de", device="0x2204")
    device(tmp_path, "0000:01:00.1", vendor="0x10de", device="0x1aef", **{"class": "0x040300"})  # its sound
    device(tmp_path, "0000:02:00.0", vendor="0x1a03", device="0x2000")  # a server's own display
    device(
        tmp_path,
        "0000:03:00.0",
        vendor="0x1002",
        device="0x744c",
        mem_info_vram_total=str(24 << 30),
        mem_info_vram_used="1024",
    )
    device(tmp_path, "0000:04:00.0", vendor="0x1002", device="0x164e", mem_info_vram_total=str(512 << 20))
    device(tmp_path, "0000:05:00.0", vendor="0x10de", device="0x2330", **{"class": "0x030200"})  # without a display
    device(tmp_path, "0000:06:00.0", vendor="0x8086", device="0x56a0")
    found = of_pci(tmp_path)
    assert [(card.vendor, card.name, card.integrated) for card in found] == [
        ("intel", "Intel a780", True),
        ("nvidia", "Nvidia 2204", False),
        ("amd", "AMD 744c", False),
        ("amd", "AMD 164e", True),
        ("nvidia", "Nvidia 2330", False),
        ("intel", "Intel 56a0", False),
    ]
    assert found[2].free == (24 << 30) - 1024
    assert [card.name for card in Cards(tuple(found)).usable] == [
        "Nvidia 2204",
        "AMD 744c",
        "Nvidia 2330",
        "Intel 56a0",
    ]
    assert of_pci(tmp_path / "none") == []


def test_amd_s_targets_and_names(tmp_path: Path) -> None:
    for number, version in enumerate((0, 110000, 90010, 100302)):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "properties").write_text(f"cpu_cores_count 0\ngfx_target_version {version}\n")
    assert targets_of_kfd(tmp_path) == ["gfx1100", "gfx90a", "gfx1032"]
    assert names_of_rocminfo(ROCMINFO) == ["Radeon RX 7900 XTX"]
    one = Card("amd", "AMD 744c")
    (named,) = module._named([one], ["gfx1100"], Ran(0, ROCMINFO))
    assert (named.name, named.target) == ("Radeon RX 7900 XTX", "gfx1100")
    assert module._named([one, one], ["gfx1100"], None) == [one, one]  # nobody knows which is which


def test_vulkan_names_cards_and_knows_others() -> None:
    listed = names_of_vulkaninfo(VULKANINFO)
    assert listed == [("Intel(R) Arc(tm) A770 Graphics (DG2)", False), ("V3D 7.1.7", True)]
    found = with_vulkan([Card("intel", "Intel 56a0")], listed)
    assert [(card.vendor, card.name) for card in found] == [("intel", listed[0][0]), ("other", "V3D 7.1.7")]


def test_windows_and_apple() -> None:
    intel, amd = "Intel(R) UHD Graphics 770\r\nIntel(R) Arc(TM) A770 Graphics", "AMD Radeon(TM) Graphics"
    text = f"NVIDIA GeForce RTX 4070\r\n{intel}\r\n{amd}\r\nMicrosoft Basic Display Adapter\r\n"
    assert [(card.vendor, card.integrated) for card in of_windows(text)] == [
        ("nvidia", False),
        ("intel", True),
        ("intel", False),
        ("amd", True),
    ]
    (chip,) = of_macos(MAC, Ran(0, "Apple M2 Pro\n"))
    assert (chip.name, Cards((chip,)).usable) == ("Apple M2 Pro", [chip])
    assert of_macos(Machine("Darwin", "x86_64", (3, 12, 0)), Ran(0, "Intel Core i7")) == []
    assert of_macos(Machine("Darwin", "x86_64", (3, 12, 0), translated=True), None)[0].vendor == "apple"


def test_device_files(tmp_path: Path) -> None:
    assert node_faults({"nvidia"}, tmp_path) == ((), (str(tmp_path / "nvidia0"), str(tmp_path / "nvidiactl")))
    for name in ("nvidia0", "nvidiactl", "kfd"):
        (tmp_path / name).touch()
    assert node_faults({"nvidia", "amd"}, tmp_path) == ((), ())
    if os.geteuid():  # the superuser may open everything
        (tmp_path / "kfd").chmod(0)
        assert node_faults({"amd"}, tmp_path) == ((str(tmp_path / "kfd"),), ())


def test_files_that_may_not_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("nvidia0", "nvidiactl"):
        (tmp_path / name).touch()
    monkeypatch.setattr(os, "access", lambda path, mode: path.name == "nvidiactl")
    assert node_faults({"nvidia"}, tmp_path) == ((str(tmp_path / "nvidia0"),), ())


def test_all_of_it_on_a_machine_whose_driver_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(
        tmp_path,
        "nvidia-smi",
        'case "$1" in --query-gpu*) echo "NVIDIA L4, 23034, 22000, 00000000:00:03.0, 550.54.14, 8.9";; '
        '*) echo "Driver Version: 550.54.14  CUDA Version: 12.4";; esac',
    )
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(
        module, "of_pci", lambda: [Card("nvidia", "Nvidia 27b8"), Card("intel", "Intel a780", integrated=True)]
    )

    def never() -> dict[str, object]:
        raise AssertionError("NVML was asked although nvidia-smi had answered")

    found = collect(LINUX, never)
    assert [card.name for card in found.cards] == ["NVIDIA L4", "Intel a780"]
    assert found.nvidia == Driver("550.54.14", (12, 4))


def test_all_of_it_where_only_the_bus_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(module.nvidia, "_ELSEWHERE", ())
    monkeypatch.setattr(module, "of_pci", lambda: [Card("nvidia", "Nvidia 27b8")])
    asked = []
    found = collect(LINUX, lambda: asked.append(1) or {})
    assert asked
    assert [card.name for card in found.cards] == ["Nvidia 27b8"]
    assert found.nvidia
    assert found.nvidia.problem == "missing"
    monkeypatch.setattr(module, "of_pci", list)
    assert collect(LINUX, dict) == Cards()


def test_windows_asks_powershell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "powershell", "echo 'AMD Radeon RX 7800 XT'")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert [card.name for card in collect(WINDOWS, dict).cards] == ["AMD Radeon RX 7800 XT"]
    assert collect(MAC, dict).cards[0].vendor == "apple"
    assert Cards((RTX,)).of("nvidia") == [RTX]
