"""How much memory a run may take: what --memory says, and what is free.

Knows sizes as people write them; knows no model. What is free is told.
"""

from __future__ import annotations

from stellar_local.console import bytes_of
from stellar_local.errors import UsageError

from .memory import CUDA_CONTEXT, PROGRAM

# The share of what is free that other programs may come to need.
MARGIN = {"cuda": 0.05, "mps": 0.2, "cpu": 0.2}


def parse_memory(text: str) -> int | None:
    """A size as `console.bytes_of` reads it → bytes; `auto` → None. Raises UsageError."""
    if text.strip().lower() == "auto":
        return None
    size = bytes_of(text)
    if size is None:
        raise UsageError(f"not a size of memory: {text!r}", "for example --memory 8GiB, or auto for what is free")
    if not size:
        raise UsageError(f"--memory is {text.strip()}, but must be greater than 0", "for example --memory 8GiB")
    return size


def budget(memory: str, free: int, device: str) -> int:
    """The bytes that a process may take on its device, what its runtime takes included.

    `memory` is the option's text, `free` what the system calls free once torch is loaded and, on CUDA, its context
    exists; 0 where it does not say. Auto leaves a margin. Raises UsageError.
    """
    asked = parse_memory(memory)
    there = free + runtime(device)
    if asked is None and not free:
        raise UsageError("this system does not say how much memory is free", "say how much to use: --memory 8GiB")
    if asked is None:
        return int(there - MARGIN[device] * free)
    return min(asked, there) if free else asked


def runtime(device: str) -> int:
    """What a process takes on a device before it trains anything."""
    return CUDA_CONTEXT if device == "cuda" else PROGRAM
