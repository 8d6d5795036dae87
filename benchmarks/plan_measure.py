"""One setup measured in a process of its own, which plan_accuracy.py starts: what it takes, step by step.

The process has loaded what chat and batch load, opens the model and a context as they do, computes a full batch, fills
the context, and generates with all sequences at once. Prints one JSON object; sizes in bytes.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from nvml import open_gpus
from readings import Peak, Watch, forget_peak, main_memory

from stellar_local.errors import StellarError
from stellar_local.native.context import Chunk, Context
from stellar_local.native.devices import gpus
from stellar_local.native.library import api
from stellar_local.native.model import Model
from stellar_local.plan.estimate import Setup
from stellar_local.plan.probe import context_of

_STRIDE = 40503  # from one token to the next, so that they lie all over the embedding


def describe() -> dict[str, Any]:
    """The GPUs as llama.cpp sees them, and what its first look at them costs: the driver's context."""
    nvidia = open_gpus()
    before = nvidia.used() if nvidia else 0
    api()
    main = main_memory()
    found = gpus()
    opened = Watch(nvidia, before).look()
    return {
        "gpus": [asdict(device) for device in found],
        "system": nvidia.names() if nvidia else [],
        "context": opened.gpu,
        "process": opened.process,
        "device": opened.device,
        "driver": opened.main.total - main.total if opened.main and main else None,
    }


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Run `job["setup"]` of the model at `job["path"]`. Raises StellarError."""
    setup = Setup(**{**job["setup"], "split": tuple(job["setup"]["split"])})
    nvidia = open_gpus() if setup.gpu_layers else None
    _load_all()
    stages: dict[str, Any] = {}
    began = time.perf_counter()
    loading, running = (Watch(nvidia, job["before"]) for _ in range(2))

    def stage(name: str, watch: Watch) -> None:
        now = watch.look()
        free = sum(device.free for device in gpus()) if setup.gpu_layers else None
        seconds = round(time.perf_counter() - began, 2)
        stages[name] = _values(now) | {"free": free, "seconds": seconds}

    with loading:
        api()
        stage("program", loading)
        model = Model(Path(job["path"]), setup.gpu_layers, tensor_split=setup.split)
        stage("model", loading)
    counted = forget_peak()
    with model, running, context_of(model, setup) as context:
        stage("context", running)
        context.warm()
        stage("warm", running)
        filled = _fill(context, job["steps"], job["seconds"])
        stage("filled", running)
        _generate(context, job["steps"])
        stage("generated", running)
    main, peak = running.peak.main, running.peak
    if counted and main and main.peak:  # the system looks at each page, we now and then
        last = main_memory()
        main = replace(main, peak=last.peak if last else main.peak)
    else:
        main = replace(main, peak=None) if main else None
    both = Peak(main, _most(loading.peak.process, peak.process), _most(loading.peak.device, peak.device))
    return {"stages": stages, "peak": _values(both), "filled": filled, "vocabulary": model.n_vocab}


def _load_all() -> None:
    """Load the modules of a chat in a terminal and of a batch: they take memory as well."""
    import stellar_local.batch.command
    import stellar_local.chat.loop
    import stellar_local.plan.opening
    import stellar_local.render.highlight
    import stellar_local.render.live
    import stellar_local.terminal.editing
    import stellar_local.terminal.terminal  # noqa: F401


def _fill(context: Context, steps: int, seconds: float) -> float:
    """Compute prompts until the context is full but for `steps` tokens a sequence, or time is up: the share filled."""
    each = max(min(context.n_ctx // context.sequences, context.capacity) - steps, 1)
    until, done = time.perf_counter() + seconds, 0
    for sequence in range(context.sequences):
        for start in range(0, each, context.n_batch):
            if time.perf_counter() > until:
                return done / (each * context.sequences)
            size = min(context.n_batch, each - start)
            tokens = [_token(context, done + number) for number in range(size)]
            context.decode([Chunk(sequence, start, tokens, 1)])
            _ = context.logits  # a GPU may have been computing until here
            done += size
    return 1.0


def _generate(context: Context, steps: int) -> None:
    for number in range(steps):
        token = _token(context, number)
        context.decode([Chunk(one, context.length(one), [token], 1) for one in range(context.sequences)])
        _ = context.logits


def _token(context: Context, number: int) -> int:
    return 3 + number * _STRIDE % (context.model.n_vocab - 3)


def _values(found: Peak) -> dict[str, Any]:
    main = found.main
    values: dict[str, Any] = {"process": found.process, "device": found.device, "main": None, "most": None}
    if main:
        values |= {"main": main.total, "most": max(main.total, main.peak or 0)}
        values |= {"own": main.own, "files": main.files, "shared": main.shared}
    return values


def _most(one: int | None, other: int | None) -> int | None:
    known = [size for size in (one, other) if size is not None]
    return max(known) if known else None


if __name__ == "__main__":
    wanted = json.loads(sys.argv[1])
    try:
        answer = measure(wanted) if wanted else describe()
    except StellarError as error:
        answer = {"error": error.message}
    answer["pid"] = os.getpid()
    print(json.dumps(answer))
