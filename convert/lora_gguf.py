"""One adapter alone as a GGUF that llama.cpp adds to a model at run time (`--lora`), instead of merging it.

Names, row order and metadata as llama.cpp's convert_lora_to_gguf.py writes them; unlike it, every tensor gets its own
right scale. llama.cpp computes scale·alpha/rank, with one alpha a file and the rank of the tensor's own shape
(src/llama-adapter.h). Where that one alpha can say it all (plain LoRA, and rsLoRA of one rank, for which it is
alpha·√rank) A and B are stored as they were trained; else what is left of a tensor's scale is multiplied into its B.
A weight other than 1 goes the same way: at run time, scale 1 gives the model that merging with that weight gives.
What llama.cpp cannot apply at run time is refused by name, since it would skip it silently or stop the process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from stellar_local.errors import ModelError
from stellar_local.files import ensure_folder
from stellar_local.native import ggml
from stellar_local.native.ggml import GgmlType

from .adapter import Adapter, Pair, whole
from .gguf_out import GgufStream
from .llama import EMBEDDING, OUTPUT, Shape, Tensor, head_order

_REASONS = {
    "magnitudes": "is a DoRA adapter",
    "replaced": "replaces whole tensors",
    "token_rows": "trained new tokens",
    "bias_changes": "trained biases",
}
_MERGE = "merge it instead: stellar convert --adapter with --out"


@dataclass(frozen=True)
class _Part:
    """A pair with its place: the base's tensor, and what B is multiplied by."""

    tensor: Tensor
    pair: Pair
    factor: float

    @property
    def rank(self) -> int:
        return self.pair.a.shape[0]

    def stored(self) -> list[tuple[Tensor, bool]]:
        """The two tensors as they stand in the file, lora_a first, and whether each is B in PEFT's sense."""
        rows, columns, name = self.pair.b.shape[0], self.pair.a.shape[1], self.tensor.gguf
        if self.tensor.name == EMBEDDING:  # llama.cpp looks rows of lora_a up, then multiplies by lora_b
            return [
                (Tensor("", f"{name}.lora_a", (rows, self.rank)), True),
                (Tensor("", f"{name}.lora_b", (columns, self.rank)), False),
            ]
        return [
            (Tensor("", f"{name}.lora_a", (self.rank, columns)), False),
            (Tensor("", f"{name}.lora_b", (rows, self.rank)), True),
        ]

    def values(self, is_b: bool) -> NDArray[np.float32]:
        """One half as stored, float32 [rows, columns]: B scaled and in the GGUF's row order."""
        if not is_b:
            a = whole(self.pair.a)
            return np.ascontiguousarray(a.T) if self.tensor.name == EMBEDDING else a
        b = whole(self.pair.b)
        if self.factor != 1.0:
            with np.errstate(over="ignore"):  # refused when it is stored
                b = b * np.float32(self.factor)
        return b[head_order(b.shape[0], self.tensor.heads)] if self.tensor.heads else b


def write_lora_gguf(adapter: Adapter, weight: float, shape: Shape, name: str, path: Path, base_name: str = "") -> None:
    """Write `adapter` for a base of the shape `shape` to `path` in float32, whole or not at all.

    `weight` is the weight that scale 1 stands for at run time, `name` becomes general.name, `base_name` the base's name
    for people. Holds one half of a pair at a time. Raises ModelError for an adapter that does not fit the base, that
    llama.cpp cannot apply at run time, or whose scaled values float32 cannot hold; StellarError for a file that cannot
    be written.
    """
    _check_applicable(adapter, shape)
    alpha, parts = _scaled(adapter, weight, shape)
    fields: dict[str, Any] = {
        "general.type": "adapter",
        "adapter.type": "lora",
        "general.name": name,
        **({"general.base_model.count": 1, "general.base_model.0.name": base_name} if base_name else {}),
        "adapter.lora.alpha": float(alpha),  # llama.cpp aborts on a whole number
        "general.quantization_version": gguf.GGML_QUANT_VERSION,
    }
    tensors = [tensor for part in parts for tensor, _ in part.stored()]
    types = {tensor.gguf: GgmlType.F32 for tensor in tensors}
    ensure_folder(path.absolute().parent)
    stream = GgufStream(path, fields, tensors, types)
    try:
        stream.open()
        for part in parts:
            for _, is_b in part.stored():
                stream.write(ggml.quantize(GgmlType.F32, part.values(is_b)).data.cast("B"))
                stream.end_tensor()
        stream.finish()
    except BaseException:
        stream.discard()
        raise
    stream.forget()


def _check_applicable(adapter: Adapter, shape: Shape) -> None:
    """Raise ModelError for parts that llama.cpp would skip, refuse, or stop the process over."""
    for part, reason in _REASONS.items():
        found: Mapping[str, Any] = getattr(adapter, part)
        if found:
            raise ModelError(
                f"{adapter.folder} {reason} ({next(iter(found))}), which llama.cpp cannot apply at run time", _MERGE
            )
    if grown := next((name for name, copy in adapter.copies.items() if copy.shape[0] > shape.vocabulary), None):
        raise ModelError(f"{adapter.folder} adds tokens ({grown}), which llama.cpp cannot apply at run time", _MERGE)
    if shape.tied and (shared := next((name for name in (EMBEDDING, OUTPUT) if name in adapter.pairs), None)):
        # llama.cpp would take the embeddings' pair for the output too, and abort on its shape.
        raise ModelError(
            f"{adapter.folder} changes {shared}, which this base uses both for reading and for writing tokens: "
            "llama.cpp cannot apply that at run time",
            _MERGE,
        )


def _scaled(adapter: Adapter, weight: float, shape: Shape) -> tuple[float, list[_Part]]:
    """The file's alpha, and the pairs in the model's order with what remains of their scales."""
    known = {tensor.name: tensor for tensor in shape.tensors()}
    for name, pair in adapter.pairs.items():
        change = (pair.b.shape[0], pair.a.shape[1])
        if name not in known or known[name].shape != change:
            has = f"is {list(known[name].shape)} there" if name in known else "the base does not have"
            raise ModelError(
                f"{adapter.folder} was made for another base: it changes {name} as {list(change)}, which {has}",
                "give the base that it was trained on",
            )
    pairs = [(tensor, adapter.pairs[name]) for name, tensor in known.items() if name in adapter.pairs]
    wanted = {weight * pair.scale * pair.a.shape[0] for _, pair in pairs}  # what alpha would have to be
    # Equal but for the last bits of a root, where ranks differ, is not equal: then B takes up the rest.
    alpha = wanted.pop() if len(wanted) == 1 else adapter.alpha
    limits = np.finfo(np.float32)
    if not float(limits.tiny) <= abs(alpha) <= float(limits.max):
        raise ModelError(f"{adapter.folder} has an alpha of {alpha:g}, which a GGUF cannot hold", _MERGE)
    parts = [_Part(tensor, pair, weight * pair.scale * pair.a.shape[0] / alpha) for tensor, pair in pairs]
    return alpha, parts
