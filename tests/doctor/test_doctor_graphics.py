"""A GPU that lies idle, is hidden, has no driver, or is too new for the build: each with its reason and its command."""

from __future__ import annotations

from dataclasses import replace

import pytest
from doctor_cases import (
    CUDA0,
    LINUX,
    MAC,
    NVIDIA,
    RTX,
    around,
    cuda,
    loaded,
    with_driver,
)

from stellar_local.doctor.cards import Cards
from stellar_local.doctor.finding import Finding, State
from stellar_local.doctor.graphics import check_driver, check_gpu, check_gpu_memory, suits
from stellar_local.doctor.nvidia import Card, Driver
from stellar_local.doctor.probe import Outcome
from stellar_local.texts import Texts

BROKEN = Outcome({"stage": "load"}, 1)
CONTAINER = replace(LINUX, container=True)
AMD = Cards((Card("amd", "Radeon RX 7900 XTX", 24 << 30, target="gfx1100"),), rocm="7.2.0")
NODES = ("/dev/nvidia0", "/dev/nvidiactl")


def text(finding: Finding) -> str:
    return finding.said.text(Texts("en"))


def test_no_gpu_is_healthy() -> None:
    finding = check_gpu(loaded(), around(), {})
    assert finding.state is State.OK
    assert "processor" in text(finding)


def test_a_used_gpu() -> None:
    finding = check_gpu(cuda(CUDA0), around(NVIDIA), {})
    assert finding.state is State.OK
    assert finding.details == {"system": ["NVIDIA GeForce RTX 3090"], "llama_cpp": ["CUDA0"]}


def test_an_idle_gpu_is_a_failure_with_the_command() -> None:
    finding = check_gpu(loaded(), around(NVIDIA), {})
    assert finding.state is State.FAILURE
    assert "NVIDIA GeForce RTX 3090 (24.0 GiB)" in text(finding)
    assert "idle" in text(finding)
    assert "--extra-index-url https://abetlen.github.io/llama-cpp-python/whl/cu124" in finding.fix
    assert "--only-binary llama-cpp-python" in finding.fix


@pytest.mark.parametrize(
    ("cards", "machine", "reason"),
    [
        (with_driver(version="470.1", cuda=(11, 4)), LINUX, "no wheel for a driver of CUDA 11.4"),
        (NVIDIA, replace(LINUX, arch="aarch64"), "no wheel for this machine (Linux, aarch64"),
        (NVIDIA, replace(LINUX, libc="musl"), "musl"),
        (Cards((replace(RTX, capability=(5, 2)),), Driver("550", (12, 4))), LINUX, "no wheel knows this card"),
    ],
)
def test_where_no_wheel_fits_it_is_built(cards: Cards, machine: object, reason: str) -> None:
    finding = check_gpu(loaded(), around(cards, machine), {})  # type: ignore[arg-type]
    assert finding.state is State.FAILURE
    assert reason in text(finding)
    assert finding.fix.startswith('CMAKE_ARGS="-DGGML_CUDA=on"')


@pytest.mark.parametrize(
    ("cards", "machine", "fix"),
    [
        (AMD, LINUX, "/whl/rocm72"),
        (Cards((Card("apple", "Apple M2", integrated=True),)), MAC, "/whl/metal"),
        (Cards((Card("intel", "Intel Arc A770"),)), LINUX, "/whl/vulkan"),
    ],
)
def test_other_idle_gpus(cards: Cards, machine: object, fix: str) -> None:
    finding = check_gpu(loaded(), around(cards, machine), {})  # type: ignore[arg-type]
    assert finding.state is State.FAILURE
    assert finding.fix.endswith(fix)


def test_integrated_graphics_are_no_failure() -> None:
    finding = check_gpu(loaded(), around(Cards((Card("intel", "Intel a780", integrated=True),))), {})
    assert finding.state is State.OK
    assert "Intel a780" in text(finding)


def test_an_idle_gpu_without_a_driver() -> None:
    cards = with_driver(version="", cuda=None, problem="missing")
    finding = check_gpu(loaded(), around(cards), {})
    assert finding.state is State.FAILURE
    assert "driver" in text(finding)
    assert finding.fix
    assert "pip" not in finding.fix


def test_a_gpu_that_the_container_was_not_given() -> None:
    """The bus shows the host's card: this is no part of the container, and no failure of it."""
    cards = replace(with_driver(version="", cuda=None, problem="missing"), absent=NODES)
    finding = check_gpu(loaded(), around(cards, CONTAINER), {})
    assert finding.state is State.WARNING
    assert "--gpus all" in finding.fix
    driver = check_driver(loaded(), around(cards, CONTAINER))
    assert driver.state is State.WARNING


def test_a_build_for_another_maker() -> None:
    finding = check_gpu(cuda(), around(AMD), {})
    assert finding.state is State.FAILURE
    assert "another kind of GPU (cuda)" in text(finding)
    assert finding.fix.endswith("/whl/rocm72")


@pytest.mark.parametrize(
    ("cards", "environ", "log", "machine", "reason", "fix"),
    [
        (
            NVIDIA,
            {"CUDA_VISIBLE_DEVICES": ""},
            "",
            LINUX,
            "CUDA_VISIBLE_DEVICES='' hides",
            "unset CUDA_VISIBLE_DEVICES",
        ),
        (NVIDIA, {"CUDA_VISIBLE_DEVICES": "-1"}, "", LINUX, "CUDA_VISIBLE_DEVICES=-1", "unset CUDA_VISIBLE_DEVICES"),
        (
            replace(NVIDIA, closed=NODES),
            {},
            "",
            LINUX,
            "no permission to open /dev/nvidia0",
            "sudo chmod a+rw /dev/nvidia0 /dev/nvidiactl",
        ),
        (replace(NVIDIA, absent=NODES), {}, "", CONTAINER, "/dev/nvidia0, /dev/nvidiactl is missing", "--gpus all"),
        (replace(NVIDIA, absent=NODES), {}, "", LINUX, "is missing", "driver"),
        (
            with_driver(problem="mismatch", words="Driver/library version mismatch"),
            {},
            "",
            LINUX,
            "updated while it ran",
            "sudo reboot",
        ),
        (with_driver(problem="unreachable"), {}, "", LINUX, "kernel module is not loaded", "sudo modprobe nvidia"),
        (with_driver(problem="permission"), {}, "", LINUX, "may not be opened", "chmod a+rw /dev/nvidia*"),
        (with_driver(problem="missing"), {}, "", CONTAINER, "not for this container", "--gpus all"),
        (
            NVIDIA,
            {},
            "ggml_cuda_init: failed to initialize CUDA: CUDA driver version is insufficient for CUDA runtime version",
            LINUX,
            "older than the CUDA of this build",
            "/whl/cu124",
        ),
        (
            NVIDIA,
            {},
            "ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected",
            LINUX,
            "no device",
            "driver",
        ),
        (
            NVIDIA,
            {},
            "failed to initialize CUDA: system has unsupported display driver / cuda driver combination",
            LINUX,
            "different versions",
            "reboot",
        ),
        (NVIDIA, {}, "failed to initialize CUDA: out of memory", LINUX, "memory is full", "nvidia-smi"),
        (NVIDIA, {}, "", LINUX, "not known", "/whl/cu124"),
    ],
)
def test_a_build_for_it_that_sees_no_device(
    cards: Cards, environ: dict[str, str], log: str, machine: object, reason: str, fix: str
) -> None:
    finding = check_gpu(cuda(log=log), around(cards, machine), environ)  # type: ignore[arg-type]
    assert finding.state is State.FAILURE
    assert reason in text(finding)
    assert fix in finding.fix


def test_amd_s_groups() -> None:
    finding = check_gpu(loaded(("ROCm", "CPU")), around(replace(AMD, closed=("/dev/kfd",))), {})
    assert finding.fix == 'sudo usermod -aG render,video "$USER"'
    finding = check_gpu(loaded(("ROCm", "CPU")), around(AMD), {"HIP_VISIBLE_DEVICES": "-1"})
    assert finding.fix == "unset HIP_VISIBLE_DEVICES"


def test_some_of_several() -> None:
    two = replace(NVIDIA, cards=(RTX, RTX))
    chosen = check_gpu(cuda(CUDA0), around(two), {"CUDA_VISIBLE_DEVICES": "1"})
    assert chosen.state is State.OK
    assert "1 of 2" in text(chosen)
    assert "CUDA_VISIBLE_DEVICES=1" in text(chosen)
    unasked = check_gpu(cuda(CUDA0), around(two), {})
    assert unasked.state is State.WARNING
    assert unasked.fix == "nvidia-smi"


def test_a_library_that_does_not_load_tells_nothing() -> None:
    assert check_gpu(BROKEN, around(), {}).state is State.SKIPPED
    finding = check_gpu(BROKEN, around(NVIDIA), {})
    assert finding.state is State.SKIPPED
    assert "RTX 3090" in text(finding)
    assert check_gpu_memory(BROKEN, around()) is None


def test_the_driver_and_the_cards_age() -> None:
    assert check_driver(loaded(), around()).state is State.OK
    finding = check_driver(cuda(CUDA0), around(NVIDIA))
    assert finding.state is State.OK
    assert finding.details == {"version": "550.54.14", "cuda": "12.4", "capabilities": ["8.6"]}
    blackwell = replace(NVIDIA, cards=(replace(RTX, capability=(12, 0)),))
    finding = check_driver(cuda(CUDA0), around(blackwell))
    assert finding.state is State.WARNING
    assert "12.0" in text(finding)
    assert "-DCMAKE_CUDA_ARCHITECTURES=native" in finding.fix
    old = replace(NVIDIA, cards=(RTX, replace(RTX, capability=(5, 2))))
    finding = check_driver(cuda(CUDA0), around(old))
    assert finding.state is State.FAILURE
    assert "no code for 5.2" in text(finding)
    assert check_driver(loaded(), around(blackwell)).state is State.OK  # no CUDA build: that is another check's
    assert "gfx1100" in text(check_driver(loaded(), around(AMD)))


@pytest.mark.parametrize("problem", ["missing", "failed", "unreachable", "permission", "lost", "hangs", "mismatch"])
def test_a_driver_that_does_not_answer(problem: str) -> None:
    finding = check_driver(loaded(), around(with_driver(version="", cuda=None, problem=problem, words="its words")))
    assert finding.state is State.FAILURE
    assert "its words" in text(finding)
    assert finding.fix


def test_a_driver_whose_kernel_answers_alone() -> None:
    finding = check_driver(loaded(), around(with_driver(problem="mismatch")))
    assert finding.state is State.FAILURE
    assert finding.fix == "sudo reboot"
    assert check_driver(loaded(), around(with_driver(problem="missing"))).state is State.OK  # only the tool is missing


@pytest.mark.parametrize(
    ("capability", "built", "expected"),
    [
        ((8, 6), (860,), "native"),
        ((8, 9), (860,), "native"),  # code for 8.6 runs on 8.9
        ((8, 0), (860,), "none"),  # and not on 8.0
        ((9, 0), (860, 900), "native"),
        ((12, 0), (860, 900), "translated"),
        ((12, 0), (860, 1200), "native"),
        ((7, 5), (500, 610), "translated"),
        ((5, 2), (600,), "none"),
        ((8, 6), (), "native"),
    ],
)
def test_which_code_a_card_runs(capability: tuple[int, int], built: tuple[int, ...], expected: str) -> None:
    assert suits(capability, built) == expected


def test_its_memory() -> None:
    finding = check_gpu_memory(cuda(CUDA0), around(NVIDIA))
    assert finding
    assert finding.state is State.OK
    assert "CUDA0: 23.0 GiB / 24.0 GiB" in text(finding)
    full = check_gpu_memory(cuda({**CUDA0, "free": 100 << 20}), around(NVIDIA))
    assert full
    assert (full.state, full.fix) == (State.WARNING, "nvidia-smi")
    told = check_gpu_memory(loaded(), around(NVIDIA))  # by the driver, where llama.cpp has no device
    assert told
    assert "RTX 3090: 23.0 GiB" in text(told)
    assert check_gpu_memory(loaded(), around()) is None
