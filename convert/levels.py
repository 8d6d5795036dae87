"""The levels a model can be exported at, and the type that llama.cpp gives each tensor at each of them.

Source: llama.cpp's src/llama-quant.cpp (llama_tensor_get_type_impl and its fallback), for the architecture "llama"
without an importance matrix. A test compares every byte with llama.cpp's own quantizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stellar_local.errors import UsageError
from stellar_local.native.ggml import GgmlType, block_size

from .llama import Shape, Tensor


@dataclass(frozen=True)
class Level:
    """A level: llama.cpp's name and file type number, the type most tensors get, and what it is for."""

    name: str
    ftype: int
    type: GgmlType
    purpose: str

    @property
    def quantized(self) -> bool:
        """Whether weights are stored in blocks of small integers."""
        return block_size(self.type) > 1


_ALL = (
    Level("F32", 0, GgmlType.F32, "every weight exactly as merged; for comparing and for making other levels"),
    Level("F16", 1, GgmlType.F16, "half precision; twice Q8_0's size and no better answers"),
    Level("BF16", 32, GgmlType.BF16, "the precision most models were trained in"),
    Level("Q8_0", 7, GgmlType.Q8_0, "8 bits; indistinguishable from F16 at half its size"),
    Level("Q6_K", 18, GgmlType.Q6_K, "6.6 bits; hardly any loss"),
    Level("Q5_K_M", 17, GgmlType.Q5_K, "5.7 bits; very little loss"),
    Level("Q5_K_S", 16, GgmlType.Q5_K, "5.5 bits; a little smaller than Q5_K_M"),
    Level("Q5_0", 8, GgmlType.Q5_0, "5.5 bits, the older kind; prefer Q5_K_M"),
    Level("Q4_K_M", 15, GgmlType.Q4_K, "4.8 bits; the usual choice for a personal computer"),
    Level("Q4_K_S", 14, GgmlType.Q4_K, "4.6 bits; a little smaller than Q4_K_M"),
    Level("Q4_0", 2, GgmlType.Q4_0, "4.5 bits, the older kind; fast on some processors"),
    Level("Q3_K_M", 12, GgmlType.Q3_K, "3.9 bits; noticeable loss, for when memory is short"),
    Level("Q2_K", 10, GgmlType.Q2_K, "3 bits; strong loss, the last resort"),
)
LEVELS = {level.name: level for level in _ALL}

# Where a row is no whole number of 256-blocks, llama.cpp takes the nearest type of 32-blocks.
_FALLBACK = {
    GgmlType.Q2_K: GgmlType.Q4_0,
    GgmlType.Q3_K: GgmlType.Q4_0,
    GgmlType.Q4_K: GgmlType.Q5_0,
    GgmlType.Q5_K: GgmlType.Q5_1,
    GgmlType.Q6_K: GgmlType.Q8_0,
}


def parse_levels(names: Sequence[str] | str) -> list[Level]:
    """Levels by name, in any case, from a list or a text with commas; each once. Raises UsageError listing them all."""
    items = names.split(",") if isinstance(names, str) else names
    found: dict[str, Level] = {}
    for item in items:
        name = item.strip().upper().replace("-", "_")
        if name not in LEVELS:
            raise UsageError(f"unknown level: {item.strip() or '(empty)'}", f"the levels are {', '.join(LEVELS)}")
        found[name] = LEVELS[name]
    return list(found.values())


def tensor_type(level: Level, tensor: Tensor, shape: Shape) -> GgmlType:
    """The type of one tensor at a level."""
    if len(tensor.shape) < 2 or tensor.rows == 1:  # norms, biases, frequency divisors
        return GgmlType.F32
    if not level.quantized:
        return level.type
    chosen = _mixed(level, tensor, shape)
    if tensor.columns % block_size(chosen):
        chosen = _FALLBACK.get(chosen, chosen)
    return chosen if tensor.columns % block_size(chosen) == 0 else GgmlType.F16


def _mixed(level: Level, tensor: Tensor, shape: Shape) -> GgmlType:
    """llama.cpp's mix: more bits for the tensors, and in some levels the layers, that lose most."""
    name, plain = level.name, level.type
    place = tensor.gguf.split(".")
    if place[0] == "output" or (place[0] == "token_embd" and shape.tied):
        return GgmlType.Q8_0 if tensor.columns % block_size(plain) or plain is GgmlType.Q8_0 else GgmlType.Q6_K
    if place[0] != "blk":
        return plain
    layer, layers, kind = int(place[1]), shape.layers, place[2]
    more = layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2
    if kind == "attn_v":
        return _attn_v(name, plain, shape, layer, more)
    if kind == "attn_output":
        return {"Q2_K": GgmlType.Q3_K, "Q3_K_M": GgmlType.Q4_K}.get(name, plain)
    if kind == "ffn_down":
        if name == "Q2_K":
            return GgmlType.Q3_K
        if name == "Q3_K_M":
            return GgmlType.Q5_K if layer < layers // 16 else GgmlType.Q4_K
        if name in ("Q4_K_M", "Q5_K_M") and more:
            return GgmlType.Q6_K
        if name == "Q4_K_S" and layer < layers // 8:
            return GgmlType.Q5_K
    return plain


def _attn_v(name: str, plain: GgmlType, shape: Shape, layer: int, more: bool) -> GgmlType:
    chosen = plain
    if name == "Q2_K":
        chosen = GgmlType.Q4_K if shape.heads // shape.kv_heads >= 4 else GgmlType.Q3_K
    elif name == "Q3_K_M":
        chosen = GgmlType.Q5_K if layer < 2 else GgmlType.Q4_K
    elif name in ("Q4_K_M", "Q5_K_M") and more:
        chosen = GgmlType.Q6_K
    elif name == "Q4_K_S" and layer < 4:
        chosen = GgmlType.Q5_K
    # A 70B shares each value head among eight query heads, so that more bits cost next to nothing.
    if shape.layers == 80 and shape.heads != shape.kv_heads and chosen in (GgmlType.Q3_K, GgmlType.Q4_K):
        chosen = GgmlType.Q5_K
    return chosen
