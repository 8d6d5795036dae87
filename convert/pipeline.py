"""The one pass over a model: pieces of rows are read, merged and brought into every form that an output asks for.

Worker threads take a piece from the checkpoint to its stored bytes; ctypes and NumPy free the GIL meanwhile. The main
thread writes the pieces in order. Little more than two pieces a thread is in memory, whatever the model's size.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stellar_local.console import Progress
from stellar_local.errors import ModelError
from stellar_local.native import ggml
from stellar_local.native.ggml import GgmlType

from .llama import ROPE_FREQS, Shape, Tensor, head_order
from .merge import Merger
from .safetensors import from_float32, pieces

Form = GgmlType | str  # a GGUF's type, or the dtype of a checkpoint ("BF16" …)


class Output(Protocol):
    """Something that tensors are written to, in order."""

    @property
    def done(self) -> int:
        """How many of its tensors are there already."""

    def form(self, tensor: Tensor) -> Form | None:
        """What it stores a tensor as; None if the tensor is none of its own."""

    def write(self, data: memoryview) -> None:
        """Append the next rows of the current tensor."""

    def end_tensor(self) -> None:
        """Say that the current tensor is complete."""


@dataclass(frozen=True)
class _Piece:
    """Rows `start` to `stop` of a tensor, and the outputs they go to."""

    tensor: Tensor
    start: int
    stop: int
    outputs: Sequence[Output]

    @property
    def last(self) -> bool:
        return self.stop == self.tensor.rows


def cut(tensor: Tensor, head_dim: int) -> Iterator[tuple[int, int]]:
    """Ranges of a tensor's rows of about PIECE weights each; those of q and k hold whole heads."""
    return pieces(tensor.rows, tensor.columns, head_dim if tensor.heads and len(tensor.shape) > 1 else 1)


def run(
    tensors: Sequence[Tensor],
    merger: Merger,
    outputs: Sequence[Output],
    importance: Mapping[str, NDArray[np.float32]],
    threads: int,
    bar: Progress,
    label: str = "",
) -> None:
    """Write all `tensors` to all `outputs`. Raises StellarError: ModelError for broken weights, else for the disk."""
    pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="convert")
    waiting: deque[tuple[_Piece, Future[dict[Form, memoryview]]]] = deque()
    try:
        plan = _plan(tensors, merger.shape, outputs)
        if skipped := sum(piece.tensor.size for piece in plan if not piece.outputs):
            bar.advance(skipped)  # at once and first, since it tells nothing of the speed
        for piece in plan:
            if not piece.outputs:
                continue
            waiting.append((piece, pool.submit(_make, piece, merger, importance.get(piece.tensor.gguf))))
            if len(waiting) > threads + 2:
                _write(waiting, bar, label)
        while waiting:
            _write(waiting, bar, label)
    finally:
        pool.shutdown(cancel_futures=True)


def _plan(tensors: Sequence[Tensor], shape: Shape, outputs: Sequence[Output]) -> list[_Piece]:
    """Every piece to be made, in order; a tensor that all outputs have already comes as one without outputs."""
    left = [output.done for output in outputs]
    plan = []
    for tensor in tensors:
        takers = []
        for number, output in enumerate(outputs):
            if output.form(tensor) is None:
                continue
            if left[number]:
                left[number] -= 1
            else:
                takers.append(output)
        if not takers:
            plan.append(_Piece(tensor, 0, tensor.rows, ()))
            continue
        plan += [_Piece(tensor, start, stop, takers) for start, stop in cut(tensor, shape.head_dim)]
    return plan


def _make(piece: _Piece, merger: Merger, importance: NDArray[np.float32] | None) -> dict[Form, memoryview]:
    """A piece's bytes in every form that is asked for. Raises ModelError naming the tensor."""
    tensor, forms = piece.tensor, {output.form(piece.tensor) for output in piece.outputs}
    made: dict[Form, memoryview] = {}
    try:
        with np.errstate(all="ignore"):  # what comes of an overflow is refused below
            rows = _rows(piece, merger)
        for dtype in [form for form in forms if isinstance(form, str)]:
            made[dtype] = np.ascontiguousarray(from_float32(rows, dtype)).data.cast("B")
        types = [form for form in forms if isinstance(form, GgmlType)]
        ordered = reordered(rows, tensor, merger.shape) if types else rows
        for type in types:
            made[type] = ggml.quantize(type, ordered, importance).data.cast("B")
    except ModelError as error:
        raise ModelError(f"{tensor.gguf}: {error.message}", error.hint) from error
    return made


def _rows(piece: _Piece, merger: Merger) -> NDArray[np.float32]:
    """The piece's merged rows in the checkpoint's order, float32 [n, columns]."""
    if piece.tensor.gguf == ROPE_FREQS:  # computed, not stored in a checkpoint
        factors = merger.shape.rope_factors()
        assert factors is not None
        return factors.reshape(1, -1)
    return merger.rows(piece.tensor.name, piece.start, piece.stop)


def reordered(rows: NDArray[np.float32], tensor: Tensor, shape: Shape) -> NDArray[np.float32]:
    """The same rows in the GGUF's order; a bias is one row, reordered within."""
    if not tensor.heads:
        return rows
    if len(tensor.shape) == 1:
        return np.ascontiguousarray(rows[:, head_order(rows.shape[1], tensor.heads)])
    return rows[head_order(rows.shape[0], rows.shape[0] // shape.head_dim)]


def _write(waiting: deque[tuple[_Piece, Future[dict[Form, memoryview]]]], bar: Progress, label: str) -> None:
    """Write the oldest piece, when it is ready."""
    piece, future = waiting.popleft()
    bar.describe(f"{label} {piece.tensor.gguf}".strip())
    made = future.result()
    for output in piece.outputs:
        form = output.form(piece.tensor)
        assert form is not None
        output.write(made[form])
        if piece.last:
            output.end_tensor()
    bar.advance((piece.stop - piece.start) * piece.tensor.columns)
