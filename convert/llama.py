"""The LLaMA architecture in both worlds: its shape from config.json, and each tensor's name and row order in a GGUF.

Source: llama.cpp's conversion/llama.py. Knows one architecture, LlamaForCausalLM; knows nothing of files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stellar_local.errors import ModelError

from .fields import Fields

ARCHITECTURE = "LlamaForCausalLM"
EMBEDDING, FINAL_NORM, OUTPUT = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
ROPE_FREQS = "rope_freqs.weight"
_MANY = 10_000  # layers, and values of a head: both are gone through before any weight has been looked at
_HINT = "compare it with the original model's"

# Module of a layer: (GGUF name, rows, columns, head count whose rows are reordered, kind of bias it may have)
_LAYER: tuple[tuple[str, str, str, str | None, str | None, str | None], ...] = (
    ("input_layernorm", "attn_norm", "width", None, None, None),
    ("self_attn.q_proj", "attn_q", "query", "width", "heads", "attention"),
    ("self_attn.k_proj", "attn_k", "key", "width", "kv_heads", "attention"),
    ("self_attn.v_proj", "attn_v", "key", "width", None, "attention"),
    ("self_attn.o_proj", "attn_output", "width", "query", None, "attention"),
    ("post_attention_layernorm", "ffn_norm", "width", None, None, None),
    ("mlp.gate_proj", "ffn_gate", "feed_forward", "width", None, "mlp"),
    ("mlp.up_proj", "ffn_up", "feed_forward", "width", None, "mlp"),
    ("mlp.down_proj", "ffn_down", "width", "feed_forward", None, "mlp"),
)


@dataclass(frozen=True)
class Tensor:
    """One tensor: its names in both worlds, its shape, and how many heads its rows are reordered in (0: none)."""

    name: str
    gguf: str
    shape: tuple[int, ...]
    heads: int = 0

    @property
    def columns(self) -> int:
        """The length of a row; a vector is one row."""
        return self.shape[-1]

    @property
    def rows(self) -> int:
        """How many rows of `columns` weights it has."""
        return math.prod(self.shape[:-1])

    @property
    def size(self) -> int:
        """How many weights it has."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Shape:
    """The sizes and constants of a LLaMA model. `rope` is {} or the scaling's own parameters with its "rope_type"."""

    layers: int
    width: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context: int
    rms_eps: float
    rope_theta: float
    rope: Mapping[str, Any]
    tied: bool
    attention_bias: bool
    mlp_bias: bool

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Shape:
        """Read config.json's fields, of Transformers 4 or 5. Raises ModelError for what is not a plain LLaMA."""
        names = config.get("architectures") or config.get("model_type") or "nothing named"
        names = names if isinstance(names, list) else [names]
        if names not in ([ARCHITECTURE], ["LLaMAForCausalLM"]):  # the second is the first LLaMA exports' spelling
            raise ModelError(
                f"this model's architecture is {', '.join(map(str, names))}; only {ARCHITECTURE} is supported",
                "LLaMA, LLaMA 2, LLaMA 3, Vicuna, BayLing and SmolLM2 are of this kind",
            )
        read = Fields(config, "config.json", _HINT)
        heads = read.count("num_attention_heads")
        width = read.count("hidden_size")
        theta, rope = _rope(config, read)
        shape = cls(
            layers=read.count("num_hidden_layers", most=_MANY),
            width=width,
            feed_forward=read.count("intermediate_size"),
            heads=heads,
            kv_heads=read.count("num_key_value_heads", heads),
            head_dim=read.count("head_dim", width // heads, _MANY),
            vocabulary=read.count("vocab_size", 32000),
            # The second is what the first LLaMA exports call it.
            context=read.count("max_position_embeddings", read.count("max_sequence_length", 2048)),
            rms_eps=read.number("rms_norm_eps", 1e-6),
            rope_theta=theta,
            rope=rope,
            tied=bool(config.get("tie_word_embeddings", False)),
            attention_bias=bool(config.get("attention_bias", False)),
            mlp_bias=bool(config.get("mlp_bias", False)),
        )
        if shape.heads % shape.kv_heads or shape.head_dim % 2:
            raise ModelError(
                f"inconsistent config.json: {shape.heads} heads, {shape.kv_heads} key-value heads of {shape.head_dim}",
                _HINT,
            )
        if config.get("hidden_act", "silu") != "silu":
            raise ModelError(f"this model's hidden_act is {config['hidden_act']}; llama.cpp computes silu", "")
        return shape

    def tensors(self) -> list[Tensor]:
        """Every tensor of the model, in the order in which we write them."""
        sizes = {
            "width": self.width,
            "query": self.heads * self.head_dim,
            "key": self.kv_heads * self.head_dim,
            "feed_forward": self.feed_forward,
        }
        heads = {"heads": self.heads, "kv_heads": self.kv_heads, None: 0}
        out = [Tensor(EMBEDDING, "token_embd.weight", (self.vocabulary, self.width))]
        for layer in range(self.layers):
            for module, name, rows, columns, reordered, bias in _LAYER:
                shape = (sizes[rows],) if columns is None else (sizes[rows], sizes[columns])
                place, target = f"model.layers.{layer}.{module}", f"blk.{layer}.{name}"
                out.append(Tensor(f"{place}.weight", f"{target}.weight", shape, heads[reordered]))
                if (bias == "attention" and self.attention_bias) or (bias == "mlp" and self.mlp_bias):
                    out.append(Tensor(f"{place}.bias", f"{target}.bias", shape[:1], heads[reordered]))
        out.append(Tensor(FINAL_NORM, "output_norm.weight", (self.width,)))
        if not self.tied:
            out.append(Tensor(OUTPUT, "output.weight", (self.vocabulary, self.width)))
        return out

    def rope_factors(self) -> NDArray[np.float32] | None:
        """LLaMA 3.1's frequency divisors, float32 [head_dim / 2], or None for models without them."""
        if self.rope.get("rope_type") != "llama3":
            return None
        factor, low, high = (self.rope[key] for key in ("factor", "low_freq_factor", "high_freq_factor"))
        original = self.rope["original_max_position_embeddings"]
        exponents = np.arange(0, self.head_dim, 2, dtype=np.float32) / np.float32(self.head_dim)
        out = []
        # A power rounded once, as torch's is: NumPy's in float32 is a bit off in some places.
        powers = (self.rope_theta ** exponents.astype(np.float64)).astype(np.float32)
        for frequency in np.float32(1.0) / powers:
            # torch divides a number by a tensor as reciprocal times number; so do we, to give the same bits.
            wavelength = np.float32(1.0) / frequency * np.float32(2 * math.pi)
            if wavelength < original / high:
                out.append(1.0)
            elif wavelength > original / low:
                out.append(factor)
            else:
                turns = np.float32(1.0) / wavelength * np.float32(original)
                smooth = (turns - np.float32(low)) / np.float32(high - low)
                out.append(float(1 / ((1 - smooth) / np.float32(factor) + smooth)))
        return np.array(out, np.float32)


def head_order(rows: int, heads: int) -> NDArray[np.int64]:
    """Which row of a checkpoint's q or k each row of the GGUF's is, for `rows` rows in `heads` heads.

    Transformers rotates halves of a head, llama.cpp rotates neighbours: row 2i + j is row i + j·half there.
    """
    order: NDArray[np.int64] = np.arange(rows).reshape(heads, 2, rows // heads // 2).swapaxes(1, 2).reshape(rows)
    return order


def check_tensors(shape: Shape, found: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Raise ModelError unless `found` (name → shape) is this model: nothing missing or unknown, all shapes right."""
    expected = {tensor.name: tensor for tensor in shape.tensors()}
    for name, tensor in expected.items():
        if name not in found:
            hint = "download it again: the copy is incomplete"
            if name == OUTPUT:
                hint = "if this model shares it with the embeddings, its config.json must say tie_word_embeddings: true"
            raise ModelError(f"{where} lacks the tensor {name}", hint)
        if found[name] != tensor.shape:
            raise ModelError(
                f"{where}: {name} is {list(found[name])}, but config.json makes it {list(tensor.shape)}",
                "config.json and the weights belong to different models",
            )
    if unknown := next((name for name in found if name not in expected), None):
        raise ModelError(
            f"{where} holds a tensor that a LLaMA does not have: {unknown}",
            "only plain, unquantized LLaMA models are supported",
        )


def _rope(config: Mapping[str, Any], read: Fields) -> tuple[float, dict[str, Any]]:
    """Base frequency and scaling, from Transformers 5's rope_parameters or Transformers 4's two fields."""
    stated = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(stated, Mapping):
        raise ModelError("config.json's rope_scaling is not an object", _HINT)
    if any(isinstance(value, Mapping) for value in stated.values()):
        raise ModelError(
            "this model turns positions differently in different layers (rope_parameters by kind of layer)",
            "only plain LLaMA models are supported",
        )
    inner = Fields(stated, "rope_scaling of config.json", _HINT)
    theta = inner.number("rope_theta", read.number("rope_theta", 10000.0))
    kind = stated.get("rope_type") or stated.get("type") or "default"
    if stated.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)) != 1.0:
        raise ModelError("this model rotates a part of each head only, which llama.cpp's LLaMA does not")
    if kind == "default":
        return theta, {}
    if kind == "linear":
        return theta, {"rope_type": kind, "factor": inner.number("factor")}
    if kind != "llama3":
        raise ModelError(
            f"this model's RoPE scaling is of the type {kind}; linear and llama3 are supported",
            "for contexts of the original length, remove rope_scaling from a copy of config.json",
        )
    original = read.number("original_max_position_embeddings", 8192)
    scaling = {
        "factor": inner.number("factor", 8.0),
        "low_freq_factor": inner.number("low_freq_factor", 1.0),
        "high_freq_factor": inner.number("high_freq_factor", 4.0),
        "original_max_position_embeddings": int(inner.number("original_max_position_embeddings", original)),
    }
    if scaling["low_freq_factor"] >= scaling["high_freq_factor"]:
        raise ModelError(
            "config.json's rope_scaling is inconsistent: its low_freq_factor is not below its high_freq_factor",
            _HINT,
        )
    return theta, {"rope_type": kind, **scaling}
