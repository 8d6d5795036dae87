"""The headers of models that nobody has yet: BayLing's sizes at each level, for planning before a download.

shapes.json beside this module holds the sizes, and the type that llama.cpp gives each tensor at each level, as convert
knows them: tests/shape_mixes.py writes it, and a test compares. Knows no memory.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UsageError
from ..native.ggml import GgmlType
from ..native.header import Header, TensorInfo
from .sparse import ALIGNMENT, header_bytes

_DATA: dict[str, Any] = json.loads(Path(__file__).with_name("shapes.json").read_text(encoding="utf-8"))
_QUANTIZATION_VERSION = 2  # GGML_QNT_VERSION in ggml.h

SHAPES: tuple[str, ...] = tuple(_DATA["shapes"])


@dataclass(frozen=True)
class Level:
    """A level: llama.cpp's name and file type number, and whether it cannot be made without an importance matrix."""

    name: str
    file_type: int
    needs_importance: bool = False


LEVELS: dict[str, Level] = {name: Level(name, **fields) for name, fields in _DATA["levels"].items()}
"""All levels, the best first within each kind; those that need an importance matrix say so."""


def shape_header(name: str, level: str) -> Header:
    """The header that a model of a named shape has at a level, in any case: sizes, constants and tensor table.

    The types are those with an importance matrix where the level needs one, else those without. There is no
    vocabulary, which a real file holds in its header (0.7 MB of LLaMA 2, 8 MB of LLaMA 3): `file_size` leaves it out.
    Raises UsageError for an unknown shape or level.
    """
    if name.lower() not in SHAPES:
        raise UsageError(f"unknown model size: {name}", f"the sizes are {', '.join(SHAPES)}")
    found = LEVELS.get(level.upper().replace("-", "_"))
    if found is None:
        raise UsageError(f"unknown level: {level}", f"the levels are {', '.join(LEVELS)}")
    shape = _DATA["shapes"][name.lower()]
    tensors, size = _tensors(shape, shape["types"][found.name])
    metadata = _metadata(shape, found)
    start = len(header_bytes(metadata, tensors))
    return Header(Path(f"{name.lower()} {found.name}"), metadata, tensors, start, start + size, 0)


def _metadata(shape: dict[str, Any], level: Level) -> dict[str, Any]:
    """The keys that llama.cpp reads, in the order of its converter."""
    head = shape["width"] // shape["heads"]
    return {
        "general.architecture": "llama",
        "general.type": "model",
        "general.name": shape["model"],
        "llama.block_count": shape["layers"],
        "llama.context_length": shape["context"],
        "llama.embedding_length": shape["width"],
        "llama.feed_forward_length": shape["feed_forward"],
        "llama.attention.head_count": shape["heads"],
        "llama.attention.head_count_kv": shape["kv_heads"],
        "llama.rope.freq_base": shape["rope_theta"],
        "llama.attention.layer_norm_rms_epsilon": float(np.float32(shape["rms_eps"])),  # as it is read from a file
        "llama.attention.key_length": head,
        "llama.attention.value_length": head,
        "general.file_type": level.file_type,
        "llama.vocab_size": shape["vocabulary"],
        "llama.rope.dimension_count": head,
        "general.quantization_version": _QUANTIZATION_VERSION,
        "tokenizer.ggml.model": "no_vocab",
    }


def _tensors(shape: dict[str, Any], types: dict[str, Any]) -> tuple[list[TensorInfo], int]:
    """The tensor table in the order in which convert writes it, and the bytes of all tensors with their padding."""
    width, inner = shape["width"], shape["feed_forward"]
    key = width // shape["heads"] * shape["kv_heads"]
    layer = {
        "attn_norm": (width,),
        "attn_q": (width, width),
        "attn_k": (width, key),
        "attn_v": (width, key),
        "attn_output": (width, width),
        "ffn_norm": (width,),
        "ffn_gate": (width, inner),
        "ffn_up": (width, inner),
        "ffn_down": (inner, width),
    }
    vocabulary = (width, shape["vocabulary"])
    rows: list[tuple[str, str, int, tuple[int, ...]]] = [("token_embd", "token_embd", 0, vocabulary)]
    rows += [
        (f"blk.{number}.{kind}", kind, number, size)
        for number in range(shape["layers"])
        for kind, size in layer.items()
    ]
    rows += [("output_norm", "output_norm", 0, (width,)), ("output", "output", 0, vocabulary)]
    tensors, offset = [], 0
    for name, kind, number, size in rows:
        type = GgmlType.F32 if len(size) == 1 else _type(types, kind, number)
        tensor = TensorInfo(f"{name}.weight", size, int(type), offset)
        tensors.append(tensor)
        offset += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
    return tensors, offset


def _type(types: dict[str, Any], kind: str, layer: int) -> GgmlType:
    """The type of one matrix: its kind's, or that of the layers that it is in, or the level's own."""
    found = types.get(kind, {})
    if isinstance(found, str):
        return GgmlType[found]
    return GgmlType[next((type for type, layers in found.items() if _holds(layers, layer)), types["type"])]


def _holds(ranges: str, number: int) -> bool:
    """Whether a number is in ranges of the form 0-3,6,9."""
    ends = (part.partition("-") for part in ranges.split(","))
    return any(int(first) <= number <= int(last or first) for first, _, last in ends)
