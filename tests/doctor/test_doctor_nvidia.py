"""NVIDIA's cards and driver, read from what drivers of several ages print, by stand-ins for nvidia-smi and NVML."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from doctor_cases import program

from stellar_local.doctor import nvidia
from stellar_local.doctor.machine import Ran
from stellar_local.doctor.nvidia import Card, banner, cards_of_query, cuda_of_driver, of_nvml, of_proc, problem
from stellar_local.doctor.probe import ask

# What the programs print: two cards under 535; a driver of 470, which does not know the capability; a Jetson-like card
# that shares the main memory; the newest layout.
QUERY_535 = """NVIDIA GeForce RTX 3090, 24576, 24115, 00000000:01:00.0, 535.183.01, 8.6
NVIDIA GeForce GTX 1080 Ti, 11264, 11010, 00000000:4B:00.0, 535.183.01, 6.1
"""
QUERY_470 = "Tesla K80, 11441, 11438, 00000000:00:1E.0, 470.256.02\n"
QUERY_SHARED = "NVIDIA GB10, [N/A], [N/A], 0000000F:01:00.0, 580.95.05, 12.1\n"
BANNER_470 = """Thu Jul 11 09:12:01 2024
+-----------------------------------------------------------------------------+
| NVIDIA-SMI 470.256.02   Driver Version: 470.256.02   CUDA Version: 11.4     |
|-------------------------------+----------------------+----------------------+
"""
BANNER_550 = """+-----------------------------------------------------------------------------------------+
| NVIDIA-SMI 550.54.14              Driver Version: 550.54.14      CUDA Version: 12.4     |
|-----------------------------------------+------------------------+----------------------+
"""
BANNER_NEW = "| NVIDIA-SMI 595.10                 Driver Version: 595.10         CUDA UMD Version: 13.2 |\n"
BANNER_NO_CUDA = "| NVIDIA-SMI 535.183.01             Driver Version: 535.183.01     CUDA Version: N/A      |\n"


def test_cards_of_several_drivers() -> None:
    assert cards_of_query(QUERY_535) == [
        Card("nvidia", "NVIDIA GeForce RTX 3090", 24576 << 20, 24115 << 20, (8, 6), "0000:01:00.0"),
        Card("nvidia", "NVIDIA GeForce GTX 1080 Ti", 11264 << 20, 11010 << 20, (6, 1), "0000:4b:00.0"),
    ]
    assert cards_of_query(QUERY_470) == [Card("nvidia", "Tesla K80", 11441 << 20, 11438 << 20, None, "0000:00:1e.0")]
    (shared,) = cards_of_query(QUERY_SHARED)
    assert (shared.total, shared.free, shared.capability) == (None, None, (12, 1))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (BANNER_470, ("470.256.02", (11, 4))),
        (BANNER_550, ("550.54.14", (12, 4))),
        (BANNER_NEW, ("595.10", (13, 2))),
        (BANNER_NO_CUDA, ("535.183.01", None)),
        ("", ("", None)),
    ],
)
def test_the_banner(text: str, expected: tuple[str, object]) -> None:
    assert banner(text) == expected


@pytest.mark.parametrize(
    ("version", "cuda"),
    [
        ("418.87", None),
        ("520.61.05", (11, 8)),
        ("535.183.01", (12, 2)),
        ("549.9", (12, 3)),
        ("580.95.05", (13, 0)),
        ("", None),
    ],
)
def test_the_cuda_that_a_driver_brings(version: str, cuda: object) -> None:
    assert cuda_of_driver(version) == cuda


@pytest.mark.parametrize(
    ("ran", "name"),
    [
        (None, "missing"),
        (Ran(None, ""), "hangs"),
        (Ran(0, QUERY_535), ""),
        (Ran(6, "No devices were found\n"), "unreachable"),
        (Ran(0, "No devices were found\n"), "unreachable"),
        (
            Ran(18, "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 535\n"),
            "mismatch",
        ),
        (
            Ran(
                9,
                "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the "
                "latest NVIDIA driver is installed and running.\n",
            ),
            "unreachable",
        ),
        (Ran(255, "Failed to initialize NVML: Unknown Error\n"), "lost"),
        (Ran(4, "Failed to initialize NVML: Insufficient Permissions\n"), "permission"),
        (Ran(127, "", "nvidia-smi: error while loading shared libraries: libfoo.so\n"), "failed"),
    ],
)
def test_why_there_is_no_list(ran: Ran | None, name: str) -> None:
    assert problem(ran)[0] == name
    assert bool(problem(ran)[1]) == (name not in ("missing", "hangs", ""))


def test_an_old_driver_is_asked_without_the_capability(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As nvidia-smi of a driver before 510 answers: it refuses the whole query for the one field."""
    program(
        tmp_path,
        "nvidia-smi",
        f"""case "$1" in
  *compute_cap*) echo 'Field "compute_cap" is not a valid field to query.'; exit 2;;
  --query-gpu*) printf '%s' '{QUERY_470}';;
  *) cat <<'END'
{BANNER_470}END
;;
esac""",
    )
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    cards, driver = nvidia.seen()
    assert [card.name for card in cards] == ["Tesla K80"]
    assert driver == nvidia.Driver("470.256.02", (11, 4))


def test_without_nvidia_smi_the_kernel_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(nvidia, "_ELSEWHERE", ())
    root = tmp_path / "nvidia"
    (root / "gpus" / "0000:01:00.0").mkdir(parents=True)
    (root / "gpus" / "0000:01:00.0" / "information").write_text("Model: \t\t NVIDIA GeForce RTX 4090\nIRQ:   \t\t 16\n")
    (root / "version").write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  560.35.03  Release Build  (dvs-builder@U16)\n"
    )
    cards, driver = nvidia.seen(root=root)
    assert [(card.name, card.slot) for card in cards] == [("NVIDIA GeForce RTX 4090", "0000:01:00.0")]
    assert driver == nvidia.Driver("560.35.03", (12, 6), "missing")
    (root / "version").write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.256.02  Thu May  2 14:37:44 UTC 2024\n"
    )
    assert of_proc(root)[1] == "470.256.02"
    assert of_proc(tmp_path / "none") == ([], "")


FAKE_NVML = r"""
#include <string.h>
typedef struct { unsigned long long total, free, used; } memory;
typedef struct { char legacy[16]; unsigned numbers[5]; char slot[32]; } place;
int nvmlInit_v2(void) { return 0; }
int nvmlSystemGetDriverVersion(char *text, unsigned size) { strncpy(text, "550.54.14", size); return 0; }
int nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = 12040; return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = (void *)(long)(index + 1); return 0; }
int nvmlDeviceGetName(void *device, char *text, unsigned size) { strncpy(text, "NVIDIA L4", size); return 0; }
int nvmlDeviceGetMemoryInfo(void *device, memory *m) {
  m->total = 24ull << 30; m->free = 20ull << 30; return device == (void *)2;
}
int nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor) { *major = 8; *minor = 9; return 0; }
int nvmlDeviceGetPciInfo_v3(void *device, place *p) { strcpy(p->slot, "00000000:0A:00.0"); return 0; }
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_nvml_is_asked_in_a_child(tmp_path: Path) -> None:
    """Against a library with NVML's functions, written from its documentation."""
    (tmp_path / "nvml.c").write_text(FAKE_NVML)
    library = tmp_path / "libnvidia-ml.so.1"
    subprocess.run(["cc", "-w", "-shared", "-fPIC", "-o", library, tmp_path / "nvml.c"], check=True)
    cards, driver = of_nvml(ask("probe_nvml", 60, name=str(library)).facts)
    assert driver == nvidia.Driver("550.54.14", (12, 4))
    assert cards == [
        Card("nvidia", "NVIDIA L4", 24 << 30, 20 << 30, (8, 9), "0000:0a:00.0"),
        Card("nvidia", "NVIDIA L4", None, None, (8, 9), "0000:0a:00.0"),
    ]


def test_a_machine_without_nvml_tells_nothing(tmp_path: Path) -> None:
    outcome = ask("probe_nvml", 60, name=str(tmp_path / "none.so"))
    assert outcome.error
    assert of_nvml(outcome.facts) == ([], nvidia.Driver())
