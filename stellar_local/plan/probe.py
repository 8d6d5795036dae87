"""What llama.cpp itself says it would allocate: a load without allocation, in a process of its own.

The child opens the file with the very classes that chat and batch use, so that its buffers are theirs; it reads no
weights and takes well below a second. Knows llama.cpp's log lines of the pinned release. A probe that fails says
nothing: the planner then has its formula.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..child import own_environment, own_python
from ..errors import StellarError
from .estimate import Buffers, Setup

if TYPE_CHECKING:
    from ..native.context import Context
    from ..native.model import Model

_SECONDS = 60  # for a driver that has to be woken
_BUFFER = re.compile(r"sched_reserve:\s+(\S+) compute buffer size =\s+([\d.]+) MiB")


def probe(path: Path, setups: Sequence[Setup], seconds: float = _SECONDS) -> list[Buffers | None]:
    """The compute buffers of each setup; None for one that llama.cpp refuses, and for all where the probe fails.

    `path` may be a file that is only a header, made as long as the whole.
    """
    if not setups:
        return []
    question = json.dumps({"path": str(path), "setups": [asdict(setup) for setup in setups]})
    try:
        child = subprocess.run(
            own_python(f"from {__name__} import main; main()"),
            env=own_environment(),
            input=question.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=seconds,
            check=True,
        )
        found = [None if one is None else _buffers(one) for one in json.loads(child.stdout)]
    except (OSError, subprocess.SubprocessError, ValueError, TypeError, AttributeError):
        found = []
    return found if len(found) == len(setups) else [None] * len(setups)


def _buffers(sizes: dict[str, Any]) -> Buffers | None:
    """What a child said; None where it found none, or no sizes. Raises TypeError, ValueError, AttributeError."""
    return Buffers({str(name): int(size) for name, size in sizes.items()}) if sizes else None


def buffers_in(log: str) -> dict[str, int]:
    """The compute buffers that a log of making a context names, in bytes by device; the last word of each counts."""
    return {name: int(float(size) * (1 << 20)) for name, size in _BUFFER.findall(log)}


def _answer(question: dict[str, Any]) -> list[dict[str, int] | None]:
    from ..native.library import recorded
    from ..native.model import Model

    found: list[dict[str, int] | None] = []
    models: dict[tuple[int, tuple[float, ...]], Model] = {}
    for values in question["setups"]:
        setup = Setup(**values | {"split": tuple(values["split"])})
        try:
            own = setup.gpu_layers, setup.split
            if own not in models:
                models[own] = Model(Path(question["path"]), setup.gpu_layers, no_alloc=True, tensor_split=setup.split)
            with recorded() as log:
                context_of(models[own], setup).close()
            found.append(buffers_in("".join(log)))
        except StellarError:
            found.append(None)
    return found


def context_of(model: Model, setup: Setup) -> Context:
    """The context of a setup, over a model that was opened with its layers and shares. Raises StellarError."""
    from ..native.context import Context

    return Context(
        model,
        setup.n_ctx,
        setup.sequences,
        setup.n_batch,
        kv_type=setup.kv,
        outputs=setup.outputs,
        unified=setup.unified,
        flash_attn=setup.flash_attn,
    )


def main() -> None:
    """The child's side: the question on stdin, the answer on stdout."""
    sys.stdout.write(json.dumps(_answer(json.load(sys.stdin))))
