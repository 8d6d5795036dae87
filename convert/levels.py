"""The levels a model can be exported at, the type that llama.cpp gives each tensor at each of them, and their sizes.

Source: llama.cpp's src/llama-quant.cpp, for the architecture "llama", with and without an importance matrix; the mixes
themselves are in mix.py. Knows which level needs an importance matrix, not how to read one. A test compares every byte
with llama.cpp's own quantizer.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from stellar_local.errors import ModelError, UsageError
from stellar_local.native.ggml import NEED_IMPORTANCE, GgmlType, block_size, row_size

from .llama import ARCHITECTURE, Shape, Tensor
from .mix import mixed_type


@dataclass(frozen=True)
class Level:
    """A level: llama.cpp's name and file type number, the type most tensors get, and what it is for."""

    name: str
    ftype: int
    type: GgmlType
    purpose: str
    needs_importance: bool = False  # llama.cpp refuses it without an importance matrix

    @property
    def quantized(self) -> bool:
        """Whether weights are stored in blocks of small integers."""
        return block_size(self.type) > 1


# Names and numbers: enum llama_ftype in llama.h; types: llama_ftype_get_default_type in llama-quant.cpp.
_ALL = (
    Level("F32", 0, GgmlType.F32, "every weight exactly as merged; for comparing and for making other levels"),
    Level("F16", 1, GgmlType.F16, "half precision; twice Q8_0's size and no better answers"),
    Level("BF16", 32, GgmlType.BF16, "the precision most models were trained in"),
    Level("Q8_0", 7, GgmlType.Q8_0, "indistinguishable from F16 at half its size"),
    Level("Q6_K", 18, GgmlType.Q6_K, "hardly any loss"),
    Level("Q5_K_M", 17, GgmlType.Q5_K, "very little loss"),
    Level("Q5_K_S", 16, GgmlType.Q5_K, "a little smaller than Q5_K_M"),
    Level("Q5_1", 9, GgmlType.Q5_1, "the older kind, and larger; prefer Q5_K_M"),
    Level("Q5_0", 8, GgmlType.Q5_0, "the older kind; prefer Q5_K_M"),
    Level("Q4_K_M", 15, GgmlType.Q4_K, "the usual choice for a personal computer"),
    Level("Q4_K_S", 14, GgmlType.Q4_K, "a little smaller than Q4_K_M"),
    Level("Q4_1", 3, GgmlType.Q4_1, "the older kind, and larger; prefer Q4_K_M"),
    Level("Q4_0", 2, GgmlType.Q4_0, "the older kind; fast on some processors"),
    Level("IQ4_NL", 25, GgmlType.IQ4_NL, "for rows that are no multiple of 256; else prefer IQ4_XS"),
    Level("IQ4_XS", 30, GgmlType.IQ4_XS, "nearly Q4_K_S in less space; slower without a graphics card"),
    Level("Q3_K_L", 13, GgmlType.Q3_K, "some loss; IQ4_XS is about as small and better"),
    Level("Q3_K_M", 12, GgmlType.Q3_K, "noticeable loss, for when memory is short"),
    Level("Q3_K_S", 11, GgmlType.Q3_K, "more loss than Q3_K_M; prefer IQ3_S or IQ3_M"),
    Level("IQ3_M", 27, GgmlType.IQ3_S, "as good as Q3_K_M in less space; slower without a graphics card"),
    Level("IQ3_S", 26, GgmlType.IQ3_S, "Q3_K_S's size with less loss; slower without a graphics card"),
    Level("IQ3_XS", 22, GgmlType.IQ3_S, "between IQ3_S and IQ3_XXS", True),
    Level("IQ3_XXS", 23, GgmlType.IQ3_XXS, "strong loss, though less than Q2_K's at about its size", True),
    Level("Q2_K", 10, GgmlType.Q2_K, "strong loss, the last resort without an importance matrix"),
    Level("Q2_K_S", 21, GgmlType.Q2_K, "a little smaller than Q2_K", True),
    Level("IQ2_M", 29, GgmlType.IQ2_S, "very strong loss; the best of the 2-bit levels", True),
    Level("IQ2_S", 28, GgmlType.IQ2_XS, "very strong loss; a little smaller than IQ2_M", True),
    Level("IQ2_XS", 20, GgmlType.IQ2_XS, "very strong loss; for models of 13B and more", True),
    Level("IQ2_XXS", 19, GgmlType.IQ2_XXS, "very strong loss; a little smaller than IQ2_XS", True),
    Level("IQ1_M", 31, GgmlType.IQ1_M, "hardly usable; for experiments with very large models", True),
    Level("IQ1_S", 24, GgmlType.IQ1_S, "hardly usable; the smallest there is", True),
)
LEVELS = {level.name: level for level in _ALL}


def parse_levels(names: Sequence[str] | str, importance: bool = False) -> list[Level]:
    """Levels by name, in any case, from a list or a text with commas; each once.

    Raises UsageError for an unknown level, listing them all, and for one that needs an importance matrix unless there
    is one (`importance`).
    """
    items = names.split(",") if isinstance(names, str) else names
    found: dict[str, Level] = {}
    for item in items:
        name = item.strip().upper().replace("-", "_")
        if name not in LEVELS:
            raise UsageError(f"unknown level: {item.strip() or '(empty)'}", f"the levels are {', '.join(LEVELS)}")
        if LEVELS[name].needs_importance and not importance:
            raise UsageError(
                f"the level {name} needs an importance matrix", "give its file with --imatrix, or choose another level"
            )
        found[name] = LEVELS[name]
    return list(found.values())


def tensor_type(level: Level, tensor: Tensor, shape: Shape, importance: bool = False) -> GgmlType:
    """The type of one tensor at a level; `importance` says whether there is an importance matrix for the model."""
    if len(tensor.shape) < 2 or tensor.rows == 1:  # norms, biases, frequency divisors
        return GgmlType.F32
    return mixed_type(level.name, level.type, tensor, shape, importance) if level.quantized else level.type


def stored_size(tensor: Tensor, type: GgmlType) -> int:
    """The bytes of a tensor at a type, without padding."""
    return tensor.rows * row_size(type, tensor.columns)


def _needs_entry(level: Level, tensor: Tensor, shape: Shape) -> bool:
    """Whether llama.cpp, given an importance matrix, refuses to write a tensor at a level if it has no entry there.

    Source: tensor_requires_imatrix in llama-quant.cpp. Embeddings and output never need it.
    """
    if not tensor.gguf.startswith("blk."):
        return False
    type = tensor_type(level, tensor, shape, importance=True)
    return type in NEED_IMPORTANCE or (type is GgmlType.Q2_K and level.name == "Q2_K_S")


def check_importance(levels: Iterable[Level], shape: Shape, entries: Container[str]) -> None:
    """Raise ModelError if a level needs the importance of a tensor whose GGUF name is not in `entries`."""
    for level in levels:
        for tensor in shape.tensors():
            if _needs_entry(level, tensor, shape) and tensor.gguf not in entries:
                raise ModelError(
                    f"the importance matrix has no entry for {tensor.gguf}, which {level.name} needs",
                    "make it from all layers of this very model, or choose a level that needs none",
                )


@dataclass(frozen=True)
class LevelRow:
    """A line of the table of levels: sizes in GiB of the weights of LLaMA 2 7B, LLaMA 3 8B and LLaMA 2 13B."""

    level: Level
    bits_per_weight: float  # of LLaMA 2 7B
    size_7b: float
    size_8b: float
    size_13b: float


def level_table() -> list[LevelRow]:
    """What each level is: its sizes, computed from three models' true shapes.

    With an importance matrix where a level needs one, without where it can do without.
    """
    small, medium, large = _known_shapes()
    rows = []
    for level in LEVELS.values():
        sizes = [_size(level, shape) for shape in (small, medium, large)]
        bits = 8 * sizes[0] / sum(tensor.size for tensor in small.tensors())
        rows.append(LevelRow(level, bits, *(size / 2**30 for size in sizes)))
    return rows


def _size(level: Level, shape: Shape) -> int:
    """The bytes of all weights of a model at a level."""
    return sum(
        stored_size(tensor, tensor_type(level, tensor, shape, level.needs_importance)) for tensor in shape.tensors()
    )


@lru_cache(maxsize=1)
def _known_shapes() -> tuple[Shape, Shape, Shape]:
    """LLaMA 2 7B (BayLing-2-7B), LLaMA 3 8B (BayLing-2-Llama-3-8B) and LLaMA 2 13B (BayLing-13B)."""
    fields = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    models = (
        (4096, 11008, 32, 32, 32, 32000),
        (4096, 14336, 32, 32, 8, 128256),
        (5120, 13824, 40, 40, 40, 32000),
    )
    first, second, third = (
        Shape.from_config({"architectures": [ARCHITECTURE], **dict(zip((*fields, "vocab_size"), model, strict=True))})
        for model in models
    )
    return first, second, third
