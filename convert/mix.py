"""llama.cpp's mixes: at each level, more bits for the kinds of tensor, and in some levels the layers, that lose most.

Source: llama.cpp's src/llama-quant.cpp (llama_tensor_get_type_impl, tensor_type_fallback) for the architecture "llama"
without experts. Knows levels by name only, and no bytes: a test compares both with llama.cpp's own quantizer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from stellar_local.native.ggml import GgmlType, block_size

from .llama import Shape, Tensor

T = GgmlType


@dataclass(frozen=True)
class Place:
    """Where a tensor is: its layer of how many (0 outside the layers), in what kind of model, with an importance?"""

    layer: int
    layers: int
    grouped: bool  # four or more heads share a key-value head, so that more bits for attn_v cost little
    importance: bool


Condition = Callable[[Place], bool]
Rules = tuple[tuple[Condition, GgmlType], ...]


def _always(place: Place) -> bool:
    return True


def _grouped(place: Place) -> bool:
    return place.grouped


def _first_two(place: Place) -> bool:
    return place.layer < 2


def _first_four(place: Place) -> bool:
    return place.layer < 4


def _first_sixteenth(place: Place) -> bool:
    return place.layer < place.layers // 16


def _first_eighth(place: Place) -> bool:
    return place.layer < place.layers // 8


def _middle(place: Place) -> bool:
    return place.layers // 8 <= place.layer < 7 * place.layers // 8


def _more_bits(place: Place) -> bool:
    return not _middle(place) or (place.layer - place.layers // 8) % 3 == 2


def _unmeasured(place: Place) -> bool:
    return not place.importance


def _measured_first_eighth(place: Place) -> bool:
    return place.importance and _first_eighth(place)


def _unmeasured_first_eighth(place: Place) -> bool:
    return not place.importance and _first_eighth(place)


# Level → kind of tensor → rules: the first whose condition holds gives the type; if none does, the level's own type.
_ONE_OR_TWO_BITS: Mapping[str, Rules] = {
    "token_embd": ((_always, T.Q2_K),),
    "attn_v": ((_grouped, T.Q4_K), (_always, T.Q2_K)),
    "ffn_down": ((_first_eighth, T.Q2_K),),
}
_ONE_BIT: Mapping[str, Rules] = {**_ONE_OR_TWO_BITS, "attn_output": ((_always, T.IQ2_XXS),)}
_ABOVE_TWO_BITS: Mapping[str, Rules] = {
    "token_embd": ((_always, T.IQ3_S),),
    "attn_v": ((_grouped, T.Q4_K), (_always, T.IQ3_S)),
    "attn_output": ((_always, T.IQ3_S),),
    "ffn_down": ((_first_eighth, T.IQ3_S),),
}
_FOUR_BITS_UNEVEN: Mapping[str, Rules] = {
    "attn_v": ((_grouped, T.Q5_K),),
    "ffn_down": ((_unmeasured_first_eighth, T.Q5_K),),
}
_MEDIUM: Mapping[str, Rules] = {"attn_v": ((_more_bits, T.Q6_K),), "ffn_down": ((_more_bits, T.Q6_K),)}
_MIXES: Mapping[str, Mapping[str, Rules]] = {
    "IQ1_S": _ONE_BIT,
    "IQ1_M": _ONE_BIT,
    "IQ2_XXS": _ONE_OR_TWO_BITS,
    "IQ2_XS": _ONE_OR_TWO_BITS,
    "IQ2_S": _ABOVE_TWO_BITS,
    "IQ2_M": _ABOVE_TWO_BITS,
    "Q2_K_S": {"attn_v": ((_grouped, T.Q4_K),), "ffn_down": ((_first_eighth, T.Q4_K),)},
    "Q2_K": {
        "attn_v": ((_grouped, T.Q4_K), (_always, T.Q3_K)),
        "attn_output": ((_always, T.Q3_K),),
        "ffn_down": ((_always, T.Q3_K),),
    },
    "IQ3_XXS": {
        "token_embd": ((_always, T.IQ3_S),),
        "attn_q": ((_always, T.IQ2_S),),
        "attn_k": ((_always, T.IQ2_S),),
        "attn_v": ((_grouped, T.Q4_K), (_unmeasured, T.IQ3_S)),
        "attn_output": ((_always, T.IQ3_S),),
        "ffn_down": ((_unmeasured_first_eighth, T.Q4_K), (_unmeasured, T.Q3_K)),
    },
    "IQ3_XS": {
        "attn_q": ((_always, T.IQ3_XXS),),
        "attn_k": ((_always, T.IQ3_XXS),),
        "attn_v": ((_grouped, T.Q4_K),),
        "ffn_gate": ((_middle, T.IQ3_XXS),),
        "ffn_up": ((_middle, T.IQ3_XXS),),
    },
    "IQ3_S": {"attn_v": ((_grouped, T.Q4_K),)},
    "IQ3_M": {
        "attn_v": ((_always, T.Q4_K),),
        "attn_output": ((_always, T.Q4_K),),
        "ffn_down": ((_first_eighth, T.Q4_K),),
    },
    "Q3_K_M": {
        "attn_v": ((_first_two, T.Q5_K), (_always, T.Q4_K)),
        "attn_output": ((_always, T.Q4_K),),
        "ffn_down": ((_first_sixteenth, T.Q5_K), (_always, T.Q4_K)),
    },
    "Q3_K_L": {
        "attn_v": ((_always, T.Q5_K),),
        "attn_output": ((_always, T.Q5_K),),
        "ffn_down": ((_always, T.Q5_K),),
    },
    "IQ4_XS": _FOUR_BITS_UNEVEN,
    "IQ4_NL": _FOUR_BITS_UNEVEN,
    "Q4_0": {"ffn_down": ((_measured_first_eighth, T.Q4_1),)},
    "Q5_0": {"ffn_down": ((_measured_first_eighth, T.Q5_1),)},
    "Q4_K_S": {"attn_v": ((_first_four, T.Q5_K),), "ffn_down": ((_first_eighth, T.Q5_K),)},
    "Q4_K_M": _MEDIUM,
    "Q5_K_M": _MEDIUM,
}

# llama.cpp's first branch: these have a Q5_K output, and no rule for the 70B.
_LOWEST = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M")
_Q5_OUTPUT = (*_LOWEST, "IQ3_XXS")

# Where a row is no whole number of 256-blocks, llama.cpp takes the nearest type of 32-blocks.
_FALLBACK = {
    **dict.fromkeys((T.IQ1_S, T.IQ1_M, T.IQ2_XXS, T.IQ2_XS, T.IQ2_S, T.IQ3_XXS, T.IQ3_S, T.IQ4_XS), T.IQ4_NL),
    T.Q2_K: T.Q4_0,
    T.Q3_K: T.Q4_0,
    T.Q4_K: T.Q5_0,
    T.Q5_K: T.Q5_1,
    T.Q6_K: T.Q8_0,
}


def mixed_type(level: str, plain: GgmlType, tensor: Tensor, shape: Shape, importance: bool) -> GgmlType:
    """The type of a matrix at a level of blocks whose own type is `plain`; F16 where not even 32-blocks fit a row."""
    chosen = _wanted(level, plain, tensor, shape, importance)
    if tensor.columns % block_size(chosen):
        chosen = _FALLBACK.get(chosen, chosen)
    return chosen if tensor.columns % block_size(chosen) == 0 else T.F16


def _wanted(level: str, plain: GgmlType, tensor: Tensor, shape: Shape, importance: bool) -> GgmlType:
    """The type by the mix alone, whatever the length of the rows."""
    parts = tensor.gguf.split(".")
    layer, kind = (int(parts[1]), parts[2]) if parts[0] == "blk" else (0, parts[0])
    if kind == "output" or (kind == "token_embd" and shape.tied):
        if tensor.columns % block_size(plain) or plain is T.Q8_0:
            return T.Q8_0
        return T.Q5_K if level in _Q5_OUTPUT else T.Q6_K
    place = Place(layer, shape.layers, shape.heads // shape.kv_heads >= 4, importance)
    rules = _MIXES.get(level, {}).get(kind, ())
    chosen = next((type for holds, type in rules if holds(place)), plain)
    # A 70B shares each value head among eight query heads, so that more bits cost next to nothing.
    large = shape.layers == 80 and shape.heads != shape.kv_heads and level not in _LOWEST
    return T.Q5_K if large and kind == "attn_v" and chosen in (T.Q3_K, T.Q4_K) else chosen
