"""How a run ends before its time: signals that ask it to stop after a step, and what the machine may run out of.

Knows signals and the errors of torch and the operating system.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from stellar_local.errors import ModelError, StellarError
from stellar_local.files import explain

from .config import TrainConfig
from .folder import RunFolder
from .placing import tell


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """While the block runs, the first Ctrl-C or SIGTERM sets the event, so that a step can end; a second of the same
    stops at once. What starts several processes sends them SIGTERM after the terminal's Ctrl-C: that is no second.
    """
    asked, seen = threading.Event(), set[int]()

    def ask(number: int, frame: object) -> None:
        if number in seen:
            raise KeyboardInterrupt
        seen.add(number)
        if asked.is_set():
            return
        asked.set()
        tell("stopping after this step; Ctrl-C again stops at once")

    if threading.current_thread() is not threading.main_thread():  # only that one may set handlers
        yield asked
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def explained(config: TrainConfig, run: RunFolder) -> Iterator[None]:
    """Turn what the machine may run out of, memory or disk, into our errors."""
    try:
        yield
    except OSError as error:
        raise explain(error, run.out, "write to") from error
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or "out of memory" in str(error) or "allocate memory" in str(error):
            raise ModelError(
                "not enough memory for this run",
                "lower --packing or --micro-batch-size, which leaves the result as it is, or --cutoff-len",
            ) from error
        if "PytorchStreamWriter" in str(error):  # how torch.save words a full disk
            raise StellarError(f"cannot write a checkpoint to {run.checkpoints}", "free some space there") from error
        raise
