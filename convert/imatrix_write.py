"""Importance matrices as files: llama-imatrix's own form, and the state of one that is not finished.

The form is save_imatrix's in tools/imatrix/imatrix.cpp: a GGUF with NAME.in_sum2 and NAME.counts, float32, in order of
names. The state keeps the sums as they are, float64, so that a run that goes on ends as one that was never stopped.
Knows both forms; measures nothing.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from stellar_local.errors import ModelError
from stellar_local.files import atomic_file, explain

from .imatrix_collect import Sums
from .imatrix_loss import Loss

_FORM = 1  # of the state
_HEADER, _SQUARES, _COUNTS = "header", "/squares", "/counts"


@dataclass
class State:
    """How far a run is: `made_of` says of what (model, text, settings), by JSON values; `chunks` are done, with
    this `loss`.
    """

    made_of: Mapping[str, Any]
    chunks: int = 0
    loss: Loss = (0.0, 0.0, 0)
    sums: dict[str, Sums] = field(default_factory=dict)


def write_imatrix(path: Path, sums: Mapping[str, Sums], datasets: Sequence[str], chunks: int, size: int) -> None:
    """Write an importance matrix to `path`, whole or not at all: `chunks` chunks of `size` tokens of `datasets`.

    Raises ModelError for sums that float32 cannot hold, StellarError if the file cannot be written.
    """
    with atomic_file(path) as temporary:
        writer = gguf.GGUFWriter(temporary, "")
        writer.kv_data[0].clear()  # it is of no architecture
        writer.add_type("imatrix")
        writer.add_array("imatrix.datasets", list(datasets))
        writer.add_uint32("imatrix.chunk_count", chunks)
        writer.add_uint32("imatrix.chunk_size", size)
        for name in sorted(sums, key=lambda name: name.encode()):
            with np.errstate(over="ignore"):
                squares = sums[name].squares.astype(np.float32)
            if not np.isfinite(squares).all():
                raise ModelError(f"the sums of {name} are beyond what a file can hold", "take fewer chunks: --chunks")
            counts = sums[name].counts.astype(np.float32)
            many = len(counts) > 1  # as in ggml, what is one row has one dimension
            writer.add_tensor(f"{name}.in_sum2", squares.reshape((len(counts), -1) if many else -1))
            writer.add_tensor(f"{name}.counts", counts.reshape((-1, 1) if many else -1))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def state_path(path: Path) -> Path:
    """Where the state of an unfinished `path` lies."""
    return path.with_name(f"{path.name}.state")


def save_state(path: Path, state: State) -> None:
    """Write a state, whole or not at all. Raises StellarError."""
    header = {"form": _FORM, "made_of": state.made_of, "chunks": state.chunks, "loss": state.loss}
    arrays: dict[str, Any] = {_HEADER: np.frombuffer(json.dumps(header).encode(), np.uint8)}
    for name, sums in state.sums.items():
        arrays[name + _SQUARES], arrays[name + _COUNTS] = sums.squares, sums.counts
    with atomic_file(path) as temporary, temporary.open("wb") as handle:
        np.savez(handle, **arrays)


def is_state(path: Path) -> bool:
    """Whether a file begins as a state does, damaged or not."""
    try:
        with path.open("rb") as handle:
            return path.is_file() and handle.read(2) == b"PK"
    except OSError:
        return False


def load_state(path: Path) -> State | None:
    """The state that an earlier run left; None if there is none, or a damaged one. Raises StellarError."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            header = json.loads(arrays[_HEADER].tobytes())
            if header["form"] != _FORM:
                return None
            names = [name.removesuffix(_SQUARES) for name in arrays.files if name.endswith(_SQUARES)]
            sums = {name: Sums(arrays[name + _SQUARES], arrays[name + _COUNTS]) for name in names}
        nll, squares, count = header["loss"]
        return State(header["made_of"], int(header["chunks"]), (float(nll), float(squares), int(count)), sums)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None
    except OSError as error:
        raise explain(error, path, "read") from error
