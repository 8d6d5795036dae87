"""Where a run computes: its device, what is free there, and the other processes that train with it.

Knows torch's devices and what Accelerate tells its processes. torch is imported inside functions.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stellar_local.console import say
from stellar_local.plan.hardware import available_memory

# What Accelerate and torchrun tell each process.
WORLD = int(os.environ.get("WORLD_SIZE", "1"))
RANK = int(os.environ.get("RANK", "0")) if WORLD > 1 else 0
PROCESSES_HERE = max(1, int(os.environ.get("LOCAL_WORLD_SIZE", WORLD)))


@dataclass(frozen=True)
class Place:
    """A device with its free bytes (0 where nobody can say) and whether it computes in bfloat16."""

    device: Any
    free: int
    bf16: bool


def find_place() -> Place:
    """This process's GPU if there is one, Apple's, else the CPU."""
    import torch

    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
        grow_segments()
        return Place(device, torch.cuda.mem_get_info(device)[0], torch.cuda.is_bf16_supported())
    if torch.backends.mps.is_available():
        return Place(torch.device("mps"), int(torch.mps.recommended_max_memory()), False)
    return Place(torch.device("cpu"), (available_memory() or 0) // PROCESSES_HERE, False)


def grow_segments() -> None:
    """Let the CUDA allocator grow its segments, since micro-batches of many lengths would leave holes otherwise.

    What the user has set in the environment stays.
    """
    import torch

    if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ and "PYTORCH_ALLOC_CONF" not in os.environ:
        torch.cuda.memory._set_allocator_settings("expandable_segments:True")


def peak(device: Any) -> int:
    """The most bytes this process has taken: of a CUDA device its allocator's, else of main memory; 0: unknown."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.max_memory_reserved(device))
    return peak_rss()


def peak_rss() -> int:
    """The most main memory that this process has held, in bytes; 0 where the system does not say.

    Linux counts in ru_maxrss what the process that started this one held then; VmHWM is this program's own.
    """
    with suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) << 10
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def wait_for_all() -> None:
    """Let every process of the run reach this point."""
    if WORLD > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()


def least(value: int) -> int:
    """The least of a number that every process of the run has."""
    if WORLD == 1:
        return value
    import torch
    from accelerate import PartialState
    from accelerate.utils import gather

    state = PartialState()
    return int(gather(torch.tensor([value], device=state.device)).min())


def tell(message: str) -> None:
    """Say something once, however many processes run."""
    if RANK == 0:
        say(message)
