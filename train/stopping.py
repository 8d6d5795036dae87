"""How a run ends before its time: signals that ask it to stop after a step, and what the machine may run out of.

Knows signals and the errors of torch, safetensors and the operating system.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pickle import UnpicklingError

from stellar_local.errors import ModelError, StellarError, UsageError
from stellar_local.files import explain
from stellar_local.interrupts import caught

from .config import TrainConfig
from .folder import RunFolder
from .placing import tell


class Terminated(KeyboardInterrupt):
    """SIGTERM has ended the run, its state saved."""


class Asked:
    """Whether this process was asked to stop, and the signal that did first; 0: none."""

    number = 0

    def __bool__(self) -> bool:
        return bool(self.number)

    def end(self) -> KeyboardInterrupt:
        """What to raise once the state is saved; also where another process of the run was asked."""
        return Terminated() if self.number == signal.SIGTERM else KeyboardInterrupt()


@contextmanager
def stop_on_signals() -> Iterator[Asked]:
    """While the block runs, the first Ctrl-C or SIGTERM is noted, so that a step can end; a second of the same stops
    at once. What starts several processes sends them SIGTERM after the terminal's Ctrl-C: that is no second.
    """
    asked, seen = Asked(), set[int]()

    def handle(number: int) -> None:
        if number in seen:
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
        seen.add(number)
        if asked:
            return
        asked.number = number
        tell("stopping after this step; Ctrl-C again stops at once")

    with caught(handle):
        yield asked


@contextmanager
def explained(config: TrainConfig, run: RunFolder) -> Iterator[None]:
    """Turn what the machine may run out of, memory or disk, and what a checkpoint may lack, into our errors."""
    from safetensors import SafetensorError

    damaged = ModelError("the checkpoint is damaged: it cannot be read", "begin anew with --overwrite")
    try:
        yield
    except (UnpicklingError, EOFError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise damaged from error
    except OSError as error:
        raise explain(error, run.out, "write to") from error
    except (MemoryError, RuntimeError, ValueError, SafetensorError) as error:
        text = str(error)
        if isinstance(error, MemoryError) or "out of memory" in text or "allocate memory" in text:
            raise ModelError(
                "not enough memory for this run",
                "lower --packing or --micro-batch-size, which leaves the result as it is, or --cutoff-len",
            ) from error
        # How torch.save and safetensors word a full disk.
        full = "PytorchStreamWriter" in text or ("inline_container" in text and "unexpected pos" in text)
        if full or (isinstance(error, SafetensorError) and "I/O error" in text):
            raise StellarError(f"cannot write a checkpoint to {run.checkpoints}", "free some space there") from error
        if "PytorchStreamReader" in text or isinstance(error, SafetensorError):
            raise damaged from error
        if "parameter group" in text:
            raise UsageError(
                "the checkpoint is of a run with another optimizer", "give its own --loraplus-ratio"
            ) from error
        raise
