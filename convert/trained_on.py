"""Whether an adapter was trained on the base that it is now given: the evidence that its folder holds.

In this order: the folder of the base that it names, if it is still on this machine, is compared by shape and by a
sample of its numbers; then the hash of the base's config.json that `stellar train` recorded; then mere names, which
only warn, since folders get renamed. Knows two checkpoints and the records of training; knows nothing of LoRA.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from stellar_local.console import warn
from stellar_local.errors import ModelError, StellarError
from stellar_local.files import sha256

from .checkpoint import Checkpoint, read_json
from .compare import same_numbers
from .llama import Shape
from .safetensors import RowSource

RECORD = "training.json"  # what `stellar train` leaves beside an adapter: {"run": {"base", "base_config", …}, …}
_TENSORS, _ROWS = 16, 3  # how much of two bases is compared
_NETWORK = ("//", "/??/")  # Windows, to which both slashes are one, would log in to any server that an adapter names
_DIMENSIONS = ("layers", "width", "feed_forward", "heads", "kv_heads", "head_dim")


def check_trained_on(adapter: Path, named: str, base: Checkpoint) -> None:
    """Raise ModelError if `adapter` was trained on another base than `base`, warn where only names differ.

    `named` is what its configuration calls its base, a folder or a name on a hub; "" if it names none. A base that
    was copied, renamed or saved again in another float type is the same base.
    """
    run = _recorded_run(adapter)
    folders = [name for name in (run.get("base"), named) if isinstance(name, str) and name]
    for folder in [Path(name) for name in folders if not name.replace("\\", "/").startswith(_NETWORK)]:
        difference = _difference(folder, base)
        if difference:
            raise ModelError(
                f"{adapter} was trained on {folder}, {difference} those of {base.folder}",
                "give the base that it was trained on; to add up several adapters of one base, repeat --adapter",
            )
        if difference is not None:
            return
    recorded = run.get("base_config")
    if recorded and recorded == sha256(base.folder / "config.json"):
        return
    if folders and (recorded or not _same_name(folders[-1], base)):
        warn(
            f"{adapter} says that it was trained on {folders[-1]}; the base given is {base.folder}, and whether "
            "that is the same model cannot be checked"
        )


def _recorded_run(adapter: Path) -> dict[str, Any]:
    """What our own training recorded about the run, {} where there is nothing to read."""
    if (adapter / RECORD).is_file():
        with suppress(StellarError):  # another program's file of that name
            run = read_json(adapter / RECORD, RECORD).get("run")
            return run if isinstance(run, dict) else {}
    return {}


def _difference(folder: Path, base: Checkpoint) -> str | None:
    """How the base in `folder` differs from `base`, "" if it does not, None if it is not there to be compared."""
    try:
        if not (folder / "config.json").is_file():
            return None
        if folder.resolve() == base.folder.resolve():
            return ""
        other = Checkpoint.open(folder)
        shapes = [Shape.from_config(checkpoint.config) for checkpoint in (other, base)]
    except (StellarError, OSError, ValueError):  # a quantized or damaged base, or a name that is no path
        return None
    for dimension in _DIMENSIONS:
        if getattr(shapes[0], dimension) != getattr(shapes[1], dimension):
            return f"whose {dimension.replace('_', ' ')} are not"
    shared = [name for name in base.tensors if name in other.tensors and ".rotary_emb." not in name]
    for name in shared[:: max(1, -(-len(shared) // _TENSORS))]:
        if not _alike(other.tensors[name], base.tensors[name]):
            return f"whose weights ({name}) are not"
    return ""


def _alike(one: RowSource, other: RowSource) -> bool:
    """Whether a few rows that both tensors have are the same; either may have more rows, for added tokens."""
    count = min(one.shape[0], other.shape[0])
    if one.shape[1:] != other.shape[1:]:
        return False
    if len(one.shape) == 1:
        return one.shape == other.shape and same_numbers(one.read(0, count), other.read(0, count))
    rows = np.linspace(0, count - 1, _ROWS).astype(int).tolist()
    return all(same_numbers(one.read(row, row + 1), other.read(row, row + 1)) for row in rows)


def _same_name(named: str, base: Checkpoint) -> bool:
    """Whether a base's recorded name is that of the folder, or of what its config.json says that it was."""
    own = [part.rpartition("--")[2] for part in base.folder.resolve().parts[-3:]]  # a hub's cache: models--org--name
    stated = base.config.get("_name_or_path")
    return _letters(named) in map(_letters, [*own, *([stated] if isinstance(stated, str) else [])])


def _letters(name: str) -> str:
    """The last part of a name or path, letters and digits only, without case."""
    return re.sub(r"[\W_]", "", re.split(r"[/\\]", name.rstrip("/\\"))[-1].casefold())
