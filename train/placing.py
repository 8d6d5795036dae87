"""Where a run computes and how it fits there: the device, the processes, and the memory plan for them.

Knows torch's devices; the arithmetic is memory's and fit's. torch is imported inside functions.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from stellar_local.console import say
from stellar_local.plan.hardware import available_memory

# What Accelerate and torchrun tell each process.
RANK, WORLD = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


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
    return Place(torch.device("cpu"), available_memory() or 0, False)


def grow_segments() -> None:
    """Let the CUDA allocator grow its segments, since micro-batches of many lengths would leave holes otherwise.

    What the user has set in the environment stays.
    """
    import torch

    if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ and "PYTORCH_ALLOC_CONF" not in os.environ:
        torch.cuda.memory._set_allocator_settings("expandable_segments:True")


def wait_for_all() -> None:
    """Let every process of the run reach this point."""
    if WORLD > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()


def tell(message: str) -> None:
    """Say something once, however many processes run."""
    if RANK == 0:
        say(message)
