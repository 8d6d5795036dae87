"""The names of an adapter's tensors: what each one is, and to which tensor of the base it belongs.

Source: peft 0.21's save format and those before it. Anything that is not understood is refused by name: a part that
is skipped gives a model that looks right and answers wrong. Knows names; knows nothing of values or shapes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stellar_local.errors import ModelError

from .adapter_config import MERGE_WITH_PEFT
from .safetensors import RowSource, same_values

_PREFIX = "base_model.model."
# Kind of tensor, and how its name ends. ".default" is the adapter's own name, which old PEFT and alpaca-lora keep.
_ENDINGS = tuple(
    (kind, re.compile(rf"(?P<module>.+?){ending}"))
    for kind, ending in (
        ("a", r"\.lora_A(\.default)?\.weight"),
        ("b", r"\.lora_B(\.default)?\.weight"),
        ("bias_change", r"\.lora_B(\.default)?\.(?P<part>bias)"),
        ("embedding_a", r"\.lora_embedding_A(\.default)?"),
        ("embedding_b", r"\.lora_embedding_B(\.default)?"),
        ("magnitude", r"\.lora_magnitude_vector(\.default)?(\.weight)?"),
        ("tokens", r"\.token_adapter\.trainable_tokens_delta(\.default)?"),
        # Saved beside what was trained on a module (LoRA, tokens, a trained copy): the module as it was.
        ("copy", r"(\.token_adapter)?\.base_layer\.weight"),
        ("copy", r"\.original_module\.(?P<part>weight|bias)"),
        ("whole", r"\.base_layer\.(?P<part>bias)"),
        ("whole", r"(\.modules_to_save)?(\.default)?\.(?P<part>weight|bias)"),
    )
)
_PEFTS_OWN = ("lora_", "base_layer", "original_module", "modules_to_save", "token_adapter")


@dataclass(frozen=True)
class Transposed:
    """A matrix seen with rows and columns exchanged; it is small, and read whole for each block."""

    source: RowSource

    @property
    def shape(self) -> tuple[int, ...]:
        """The dimensions, exchanged."""
        return self.source.shape[::-1]

    @property
    def dtype(self) -> str:
        """The stored type."""
        return self.source.dtype

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows `start` to `stop` (columns of the stored matrix) as a contiguous float32 array of their own."""
        return np.array(self.source.read(0, self.source.shape[0])[:, start:stop].T, np.float32, order="C")


@dataclass
class Found:
    """An adapter's tensors by kind, each under the name of the base's tensor that it belongs to.

    `halves` holds A and B so that B·A has the tensor's shape: for embeddings they are the stored lora_embedding_B
    and _A, transposed.
    """

    halves: dict[str, dict[str, RowSource]] = field(default_factory=dict)
    magnitudes: dict[str, RowSource] = field(default_factory=dict)
    replaced: dict[str, RowSource] = field(default_factory=dict)
    tokens: dict[str, RowSource] = field(default_factory=dict)
    bias_changes: dict[str, RowSource] = field(default_factory=dict)
    copies: dict[str, RowSource] = field(default_factory=dict)


def sort_tensors(folder: Path, tensors: Mapping[str, RowSource], embedding: str) -> Found:
    """Sort an adapter's tensors. `embedding` names the base's token embeddings, whose LoRA is stored differently.

    Raises ModelError for a name that is not understood, a tensor without values, and one that is there twice with
    different ones.
    """
    found = Found()
    for key, tensor in tensors.items():
        kind, name = _kind_of(folder, key)
        if 0 in tensor.shape or not tensor.shape:
            raise ModelError(
                f"{folder} holds {key} without its values, as DeepSpeed ZeRO-3 saves it",
                "save it again with the weights gathered",
            )
        if kind in ("a", "b", "embedding_a", "embedding_b"):
            if kind.startswith("embedding") != (name == embedding):
                raise ModelError(f"{folder} holds {key}, a kind of LoRA that does not fit there", MERGE_WITH_PEFT)
            half = {"a": "A", "b": "B", "embedding_a": "B", "embedding_b": "A"}[kind]
            source = Transposed(tensor) if kind.startswith("embedding") and len(tensor.shape) == 2 else tensor
            _put(folder, found.halves.setdefault(name, {}), half, source, key)
            continue
        groups = {
            "magnitude": found.magnitudes,
            "whole": found.replaced,
            "tokens": found.tokens,
            "bias_change": found.bias_changes,
            "copy": found.copies,
        }
        _put(folder, groups[kind], name, tensor, key)
    # Before PEFT 0.6 the module that carries LoRA kept its own weight's name: what lies there is a copy, too.
    for name in set(found.replaced) & set(found.halves):
        _put(folder, found.copies, name, found.replaced.pop(name), name)
    return found


def _kind_of(folder: Path, key: str) -> tuple[str, str]:
    """What a tensor is, and the base's tensor that it belongs to. Raises ModelError."""
    for kind, ending in _ENDINGS:
        match = ending.fullmatch(key.removeprefix(_PREFIX)) if key.startswith(_PREFIX) else None
        if match and not any(word in match["module"] for word in _PEFTS_OWN):
            return kind, f"{match['module']}.{match.groupdict().get('part') or 'weight'}"
    reason = "has a kind of LoRA weight that is not known here" if "lora_" in key else "holds what PEFT does not save"
    raise ModelError(f"{folder} {reason} ({key})", MERGE_WITH_PEFT)


def _put(folder: Path, group: dict[str, RowSource], name: str, tensor: RowSource, key: str) -> None:
    """Add a tensor. PEFT saves some twice under two names, with the same values; raises ModelError for others."""
    known = group.setdefault(name, tensor)
    if known is not tensor and not same_values(known, tensor):
        raise ModelError(f"{folder} holds {key} twice, with different values", "save the adapter again")
