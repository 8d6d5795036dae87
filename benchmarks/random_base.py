"""Writes a LLaMA in Hugging Face format with random weights, of a real one's shape: its answers are noise.

Speed and memory do not depend on what the weights are. The same noise is used again and again, from another place each
time, so that 7 billion weights take as long as their 13 GB need to be written; NumPy alone is needed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from made_vocabulary import BOS, EOS, made_vocabulary

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a file here has the name of the package

from convert import spm
from convert.llama import Shape
from convert.safetensors import header_bytes

SHAPES = {  # hidden, intermediate, layers, heads, key-value heads: 1B is TinyLlama's, the larger ones are BayLing's
    "tiny": (256, 512, 2, 4, 4),
    "1b": (2048, 5632, 22, 32, 4),
    "7b": (4096, 11008, 32, 32, 32),
    "13b": (5120, 13824, 40, 40, 40),
}
VOCABULARY, SHARD = 32000, 4 << 30
_NOISE, _SPREAD = 1 << 24, 0.02
_NAMES = {"F16": "float16", "BF16": "bfloat16"}


def config_of(shape: str, dtype: str) -> dict[str, Any]:
    """The config.json of a shape. `dtype` is F16 or BF16."""
    hidden, inner, layers, heads, kv_heads = SHAPES[shape]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "tie_word_embeddings": False,
        "torch_dtype": _NAMES[dtype],
    }


def base_size(shape: str) -> int:
    """Bytes of all weights."""
    return 2 * sum(tensor.size for tensor in Shape.from_config(config_of(shape, "BF16")).tensors())


def write_base(out: Path, shape: str, tokenizer: Path | None = None, dtype: str = "BF16") -> None:
    """Write the base of a shape in shards, with a LLaMA tokenizer.model, or with a made one of numbers and bytes."""
    config = config_of(shape, dtype)
    out.mkdir(parents=True)
    (out / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (out / "tokenizer.model").write_bytes(tokenizer.read_bytes() if tokenizer else _made_tokenizer())
    shards: list[list[tuple[str, tuple[int, ...], str]]] = [[]]
    filled = 0
    for tensor in Shape.from_config(config).tensors():
        if filled + 2 * tensor.size > SHARD:
            shards.append([])
            filled = 0
        shards[-1].append((tensor.name, tensor.shape, dtype))
        filled += 2 * tensor.size
    where, noise = {}, _Noise(dtype)
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        with (out / name).open("wb") as file:
            file.write(header_bytes(shard, {"format": "pt"}))
            for tensor_name, dimensions, _ in shard:
                where[tensor_name] = name
                for part in noise.of(dimensions):
                    file.write(part)
    index = {"metadata": {}, "weight_map": where}
    (out / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def _made_tokenizer() -> bytes:
    pieces = [
        spm.Piece(text, -float(number) if kind == spm.NORMAL else 0, kind)
        for number, (text, kind) in enumerate(made_vocabulary(VOCABULARY))
    ]
    return spm.build(spm.SpmModel(pieces), {"unk": 0, "bos": BOS, "eos": EOS})


class _Noise:
    """Normal noise, and ones for norms, as 16-bit numbers."""

    def __init__(self, dtype: str) -> None:
        self._draw = np.random.default_rng(0)
        self._noise = _narrow(self._draw.standard_normal(_NOISE, np.float32) * np.float32(_SPREAD), dtype)
        self._one = _narrow(np.ones(1, np.float32), dtype)

    def of(self, dimensions: tuple[int, ...]) -> Iterator[memoryview]:
        """A tensor's bytes, piece by piece."""
        left = int(np.prod(dimensions))
        if len(dimensions) == 1:
            yield memoryview(np.repeat(self._one, left)).cast("B")
            return
        while left:
            start = int(self._draw.integers(0, _NOISE // 2))
            part = self._noise[start : start + left]
            yield memoryview(part).cast("B")
            left -= len(part)


def _narrow(values: np.ndarray, dtype: str) -> np.ndarray:
    """float32 as the bits of float16, or of bfloat16, cut off."""
    if dtype == "F16":
        return values.astype(np.float16).view(np.uint16)
    return (values.view(np.uint32) >> 16).astype(np.uint16)
