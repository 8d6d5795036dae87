"""One setting measured in a process of its own, which defaults.py starts: what came before leaves no trace.

Tokens go straight to the context, without an engine and sampling. Prints one JSON object.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from stellar_local.errors import StellarError
from stellar_local.native.context import Chunk, Context
from stellar_local.native.devices import gpus
from stellar_local.native.library import api
from stellar_local.native.model import Model

_WARM_UP = 32  # tokens of a prompt
MIB = 1 << 20


@dataclass(frozen=True)
class Setting:
    """How to run a model, and how many tokens of prompt and answer, each of `sequences` has of them."""

    model: str
    threads: int
    prompt_threads: int
    batch_size: int
    flash_attn: str
    kv: str
    mmap: str
    mlock: str
    gpu_layers: int
    tensor_split: tuple[float, ...]
    sequences: int
    prompt: int
    tokens: int
    cold: bool = False
    processor: bool = False  # measure the processor's time, not the clock's


@dataclass(frozen=True)
class Measured:
    """Tokens a second, of all sequences together; seconds from opening the file to the first token; MiB of memory: the
    process's own, pages of files (the model's, where it is mapped) and the GPUs'. None: not measured.
    """

    prompt: float | None = None
    generation: float | None = None
    load: float | None = None
    own: float | None = None
    mapped: float | None = None
    gpu: float | None = None
    error: str = ""


def measure(setting: Setting) -> Measured:
    """Load the model, compute a prompt for each sequence, and generate. Raises StellarError."""
    if setting.cold and not dropped(Path(setting.model)):
        return Measured(error="the file stays in memory")
    clock = time.process_time if setting.processor else time.perf_counter
    before = sum(device.free for device in gpus())
    started = time.perf_counter()
    with Model(
        Path(setting.model),
        setting.gpu_layers,
        mmap=setting.mmap,
        mlock=setting.mlock == "on",
        tensor_split=setting.tensor_split,
    ) as model:
        if model.notes:
            raise StellarError(model.notes[0])
        cells = setting.sequences * (setting.prompt + setting.tokens)
        with Context(
            model,
            max(cells, 256),
            setting.sequences,
            n_batch=setting.batch_size,
            threads=setting.threads,
            kv_type=setting.kv,
            flash_attn=setting.flash_attn,
        ) as context:
            api().llama_set_n_threads(context.handle, setting.threads, setting.prompt_threads)
            context.decode([Chunk(0, 0, [1], 1)])
            _ = context.logits  # a GPU may have been computing until here
            load = time.perf_counter() - started
            if setting.cold:
                return Measured(load=load)
            numbers = random.Random(0)
            prompt = [numbers.randrange(3, model.n_vocab) for _ in range(setting.prompt)]
            _empty(context)
            _read(context, prompt[:_WARM_UP], 1, clock)
            _empty(context)
            reading = _read(context, prompt, setting.sequences, clock)
            _step(context, 1, clock)
            generating = _step(context, setting.tokens - 1, clock)
            own, mapped = resident()
            return Measured(
                setting.sequences * setting.prompt / reading,
                setting.sequences * (setting.tokens - 1) / generating,
                load,
                own,
                mapped,
                (before - sum(device.free for device in gpus())) / MIB if before else None,
            )


def _empty(context: Context) -> None:
    for sequence in range(context.sequences):
        context.truncate(sequence, 0)


def _read(context: Context, prompt: list[int], sequences: int, clock: Callable[[], float]) -> float:
    """Seconds to compute a prompt in each of the first sequences, in batches as full as they can be."""
    size = len(prompt)
    due = [(sequence, at) for sequence in range(sequences) for at in range(size)]
    batches = []
    for first in range(0, len(due), context.n_batch):
        places: dict[int, list[int]] = {}
        for sequence, at in due[first : first + context.n_batch]:
            places.setdefault(sequence, []).append(at)
        batches.append(
            [
                Chunk(sequence, at[0], prompt[at[0] : at[-1] + 1], int(at[-1] == size - 1))
                for sequence, at in places.items()
            ]
        )
    started = clock()
    for chunks in batches:
        context.decode(chunks)
        _ = context.logits
    return clock() - started


def _step(context: Context, tokens: int, clock: Callable[[], float]) -> float:
    """Seconds to generate so many tokens in each sequence."""
    started = clock()
    for number in range(tokens):
        context.decode([Chunk(one, context.length(one), [3 + number], 1) for one in range(context.sequences)])
        _ = context.logits
    return clock() - started


def resident() -> tuple[float | None, float | None]:
    """MiB of memory that this process has to itself, and of files' pages that it sees; None where that is not told."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        sizes = {line.partition(":")[0]: int(line.split()[1]) / 1024 for line in lines if line.startswith("Rss")}
        return sizes["RssAnon"], sizes["RssFile"]
    except (OSError, KeyError):
        return None, None


def dropped(path: Path) -> bool:
    """Drop a file from the system's cache; whether it is gone (not if another process has it mapped, nor on macOS)."""
    if not hasattr(os, "posix_fadvise"):
        return False
    import ctypes

    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            pages = np.zeros(-(-len(data) // mmap.PAGESIZE), np.uint8)
            view = np.frombuffer(data, np.uint8)
            size, libc = ctypes.c_size_t(len(data)), ctypes.CDLL(None)
            failed = libc.mincore(ctypes.c_void_p(view.ctypes.data), size, ctypes.c_void_p(pages.ctypes.data))
            del view  # or the mapping could not be closed
    return not failed and float((pages & 1).mean()) < 0.02


if __name__ == "__main__":
    wanted = json.loads(sys.argv[1])
    try:
        found = measure(Setting(**{**wanted, "tensor_split": tuple(wanted["tensor_split"])}))
    except StellarError as error:
        found = Measured(error=error.message)
    print(json.dumps(asdict(found)))
