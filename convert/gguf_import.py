"""A GGUF of a LLaMA, at any level, as a Hugging Face folder: a base for training and converting.

Each weight is exactly what the file's own numbers stand for. Streamed block by block; the folder appears whole or not
at all. Knows the architecture "llama" without experts; a file is checked before any of it is used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from stellar_local.console import progress
from stellar_local.errors import ModelError, UsageError
from stellar_local.files import atomic_folder, ensure_folder, exclusive
from stellar_local.native.header import Header, TensorInfo, check_runnable, read_header

from .hf import stored_dtype, write_json
from .llama import ARCHITECTURE, ROPE_FREQS, Shape, Tensor, head_order
from .pipeline import cut
from .safetensors import from_float32
from .space import check_space
from .tokenizer_files import special_ids, write_tokenizer
from .weights_out import WeightsStream

# LLaMA 3.1 and 3.2 store divisors of the frequencies; these are the parameters that any of them were made with.
_LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_FACTORS = (8.0, 32.0, 16.0, 4.0, 2.0)
_ORIGINALS = (8192, 4096, 2048, 512, 256)


def import_gguf(file: Path, out: Path, dtype: str = "float32") -> None:
    """Write the folder `out` from the GGUF `file`, weights in `dtype` (float32, float16, bfloat16).

    Raises UsageError for an unknown dtype or an `out` that holds other things; ModelError for a file that is
    missing, truncated, split, no GGUF, or no plain LLaMA; StellarError for a disk that is full.
    """
    stored = stored_dtype(dtype)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(f"{out} exists already", "choose another folder for --out, or remove it")
    header = read_header(file)
    _check(header)
    fields = _fields(file)
    shape = _shape(header, fields)
    infos = _match(header, shape)
    ensure_folder(out.absolute().parent)
    with exclusive(out.absolute().with_name(f".{out.name}.lock"), out), atomic_folder(out) as folder:
        config = _config(shape, fields, dtype)
        write_json(folder / "config.json", config)
        ids = {f"{name}_token_id": config[f"{name}_token_id"] for name in ("bos", "eos", "pad")}
        write_json(folder / "generation_config.json", {key: value for key, value in ids.items() if value is not None})
        write_tokenizer(folder, fields, shape.context, str(file))
        with (
            contextlib.closing(WeightsStream(folder, shape.tensors(), stored)) as weights,
            progress(f"importing {file.name}", sum(tensor.size for tensor in shape.tensors())) as bar,
        ):
            check_space({folder: weights.missing})
            weights.open()
            for tensor in shape.tensors():
                for rows in _rows(header, infos[tensor.gguf], tensor, shape):
                    weights.write(np.ascontiguousarray(from_float32(rows, stored)).data.cast("B"))
                    bar.advance(rows.size)
                weights.end_tensor()
            weights.finish()
            weights.forget()


def _check(header: Header) -> None:
    """Raise ModelError unless this is a whole, single, readable file of a LLaMA without experts."""
    where = header.path
    if int(header.metadata.get("split.count", 1)) > 1:
        raise ModelError(f"{where} is one part of a split model", "join its parts with llama-gguf-split first")
    if (header.architecture and header.architecture != "llama") or header.value("expert_count", 0):
        kind = header.architecture if header.architecture != "llama" else "llama with experts (Mixtral)"
        raise ModelError(
            f"{where} is of the architecture {kind}; only plain llama is supported",
            "LLaMA, LLaMA 2, LLaMA 3, Vicuna, BayLing and SmolLM2 are of this kind",
        )
    check_runnable(header)
    for tensor in header.tensors:
        if not _readable(tensor.type):
            raise ModelError(
                f"{where} stores {tensor.name} in a type (number {tensor.type}) that cannot be read back",
                "use another level of the same model, Q8_0 for example",
            )


def _readable(type: int) -> bool:
    """Whether gguf can turn a type into numbers, tried on one block of zeros."""
    try:
        kind = gguf.GGMLQuantizationType(type)
        gguf.dequantize(np.zeros((1, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except (ValueError, KeyError, NotImplementedError):
        return False
    return True


def _fields(file: Path) -> dict[str, Any]:
    """All metadata, vocabulary included. Raises ModelError if some of it is damaged."""
    return read_header(file, whole=True).metadata


def _shape(header: Header, fields: Mapping[str, Any]) -> Shape:
    """The model's shape, by way of the configuration that Transformers would have."""
    where, names = header.path, {tensor.name for tensor in header.tensors}

    def value(key: str, default: Any = None) -> Any:
        found = header.value(key, default)
        if found is None or isinstance(found, list):  # a list: layers of different sizes
            raise ModelError(f"{where} has no usable llama.{key}", "only plain LLaMA models are supported")
        return found

    heads, width = value("attention.head_count"), value("embedding_length")
    head_dim = value("attention.key_length", width // heads)
    if value("attention.value_length", head_dim) != head_dim or value("rope.dimension_count", head_dim) != head_dim:
        raise ModelError(f"{where} has heads of different sizes", "only plain LLaMA models are supported")
    embedding = next((tensor for tensor in header.tensors if tensor.name == "token_embd.weight"), None)
    if embedding is None or len(embedding.shape) != 2:
        raise ModelError(f"{where} holds no token_embd.weight", "it may hold a vocabulary only")
    if embedding.shape[1] != len(fields.get("tokenizer.ggml.tokens") or ()):
        raise ModelError(f"{where} has {embedding.shape[1]} embeddings for another number of tokens")
    config = {
        "architectures": [ARCHITECTURE],
        "num_hidden_layers": value("block_count"),
        "hidden_size": width,
        "intermediate_size": value("feed_forward_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": value("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "vocab_size": embedding.shape[1],
        "max_position_embeddings": value("context_length"),
        "rms_norm_eps": _short(value("attention.layer_norm_rms_epsilon")),
        "rope_theta": _short(value("rope.freq_base", 10000.0)),
        "rope_scaling": _linear(header),
        "tie_word_embeddings": "output.weight" not in names,
        "attention_bias": "blk.0.attn_q.bias" in names,
        "mlp_bias": "blk.0.ffn_up.bias" in names,
    }
    if ROPE_FREQS in names:
        config["rope_scaling"] = _llama3(header, config)
    return Shape.from_config(config)


def _short(value: float) -> float:
    """A stored 32-bit float as the shortest number that means it: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _linear(header: Header) -> dict[str, Any] | None:
    kind = header.value("rope.scaling.type", "none")
    factor = header.value("rope.scaling.factor", header.value("rope.scale_linear", 1.0))
    if kind not in ("none", "linear"):
        raise ModelError(f"{header.path} scales RoPE by {kind}; linear and llama3 are supported")
    return {"rope_type": "linear", "factor": _short(factor)} if factor not in (0.0, 1.0) else None


def _llama3(header: Header, config: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters whose frequency divisors are those in the file. Raises ModelError if none give them."""
    info = next(tensor for tensor in header.tensors if tensor.name == ROPE_FREQS)
    stored = _dequantized(header, info, 0, 1, info.shape[0]).reshape(-1)
    for factor in _FACTORS:
        for original in _ORIGINALS:
            scaling = {**_LLAMA3, "factor": factor, "original_max_position_embeddings": original}
            made = Shape.from_config({**config, "rope_scaling": scaling}).rope_factors()
            if made is not None and made.shape == stored.shape and np.allclose(made, stored, rtol=1e-5):
                return scaling
    raise ModelError(f"{header.path} scales RoPE in a way that config.json cannot say", "use the original checkpoint")


def _match(header: Header, shape: Shape) -> dict[str, TensorInfo]:
    """The file's tensors by name. Raises ModelError unless they are exactly this model's."""
    found = {tensor.name: tensor for tensor in header.tensors}
    expected = {tensor.gguf: tensor for tensor in shape.tensors()}
    for name, tensor in expected.items():
        if name not in found:
            raise ModelError(f"{header.path} lacks the tensor {name}", "download or convert it again")
        if found[name].shape != tensor.shape[::-1]:
            raise ModelError(
                f"{header.path}: {name} is {list(found[name].shape[::-1])}, but should be {list(tensor.shape)}",
                "download or convert it again",
            )
    if unknown := sorted(set(found) - set(expected) - {ROPE_FREQS}):
        raise ModelError(
            f"{header.path} holds a tensor that a LLaMA does not have: {unknown[0]}",
            "only plain LLaMA models are supported",
        )
    return found


def _config(shape: Shape, fields: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """config.json as Transformers 4 and 5 read it."""
    ids = special_ids(fields)
    return {
        "architectures": [ARCHITECTURE],
        "model_type": "llama",
        "attention_bias": shape.attention_bias,
        "attention_dropout": 0.0,
        "bos_token_id": ids.get("bos"),
        "eos_token_id": ids.get("eos"),
        "pad_token_id": ids.get("pad"),
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "hidden_size": shape.width,
        "intermediate_size": shape.feed_forward,
        "max_position_embeddings": shape.context,
        "mlp_bias": shape.mlp_bias,
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "rms_norm_eps": shape.rms_eps,
        "rope_scaling": dict(shape.rope) or None,
        "rope_theta": shape.rope_theta,
        "tie_word_embeddings": shape.tied,
        "torch_dtype": dtype,
        "vocab_size": shape.vocabulary,
    }


def _rows(header: Header, info: TensorInfo, tensor: Tensor, shape: Shape) -> Iterator[NDArray[np.float32]]:
    """A tensor's rows in a checkpoint's order, float32, in blocks; those of q and k hold whole heads."""
    for start, stop in cut(tensor, shape.head_dim):
        rows = _dequantized(header, info, start, stop, tensor.columns)
        if tensor.heads:
            back = np.empty_like(rows)
            if len(tensor.shape) == 1:  # a bias: one row, reordered within
                back[:, head_order(tensor.columns, tensor.heads)] = rows
            else:
                back[head_order(len(rows), len(rows) // shape.head_dim)] = rows
            rows = back
        yield rows


def _dequantized(header: Header, info: TensorInfo, start: int, stop: int, columns: int) -> NDArray[np.float32]:
    """Rows `start` to `stop` of a stored tensor as float32 [stop - start, columns]."""
    size = info.nbytes // (np.prod(info.shape, dtype=np.int64).item() // columns)
    begin = header.data_start + info.offset + start * size
    stored = np.memmap(header.path, np.uint8, "r", begin, (stop - start, size))
    rows = gguf.dequantize(np.array(stored), gguf.GGMLQuantizationType(info.type))
    return np.ascontiguousarray(rows.reshape(stop - start, columns), np.float32)
