"""Writes a LLaMA model of a real one's shape with random weights, in 4 bits, for measuring: its answers are noise.

How fast a model is, and how much memory it takes, depends on its shape and its types alone. As in Q4_K_M, most matrices
are Q4_K and the last one is Q6_K. The blocks are made directly, as random bytes under scales that keep the weights
small; nothing is quantized, so that 7 billion weights take as long as their 4 GB need to be written.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from made_vocabulary import BOS, EOS, made_vocabulary

SHAPES = {  # width, feed-forward width, layers, heads, KV heads, vocabulary, context
    "tiny": (256, 512, 2, 4, 2, 512, 2048),
    "1b": (2048, 5632, 22, 32, 4, 32000, 2048),
    "7b": (4096, 11008, 32, 32, 32, 32000, 4096),  # BayLing-2-7B
    "8b": (4096, 14336, 32, 32, 8, 128256, 8192),  # BayLing-2-Llama-3-8B
    "13b": (5120, 13824, 40, 40, 40, 32000, 4096),  # BayLing-13B
}
_TILE = 4096  # blocks, which repeat
_VALUES = 256  # of a block


def write(shape: str, path: Path, layers: int | None = None) -> None:
    """Write the model of a shape, or its first layers alone."""
    width, inner, all_layers, heads, kv_heads, vocabulary, context = SHAPES[shape]
    layers = layers or all_layers
    kv = width // heads * kv_heads
    matrices = {"token_embd.weight": (vocabulary, width, Type.Q4_K)}
    for layer in range(layers):
        for name, rows, columns in (
            ("attn_q", width, width),
            ("attn_k", kv, width),
            ("attn_v", kv, width),
            ("attn_output", width, width),
            ("ffn_gate", inner, width),
            ("ffn_up", inner, width),
            ("ffn_down", width, inner),
        ):
            matrices[f"blk.{layer}.{name}.weight"] = (rows, columns, Type.Q4_K)
    matrices["output.weight"] = (vocabulary, width, Type.Q6_K)
    norms = [f"blk.{layer}.{name}_norm.weight" for layer in range(layers) for name in ("attn", "ffn")]

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(f"random-{shape}")
    writer.add_block_count(layers)
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // heads)
    writer.add_vocab_size(vocabulary)
    tokens = made_vocabulary(vocabulary)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([text for text, _ in tokens])
    writer.add_token_scores([0.0] * vocabulary)
    writer.add_token_types([kind for _, kind in tokens])
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)

    blocks = {Type.Q4_K: _q4_k(), Type.Q6_K: _q6_k()}
    ones = np.ones(width, np.float32)
    for name in [*norms, "output_norm.weight"]:
        writer.add_tensor_info(name, ones.shape, ones.dtype, ones.nbytes)
    for name, (rows, columns, kind) in matrices.items():
        bytes_a_row = columns // _VALUES * blocks[kind].shape[1]
        writer.add_tensor_info(name, (rows, bytes_a_row), np.dtype(np.uint8), rows * bytes_a_row, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _ in range(len(norms) + 1):
        writer.write_tensor_data(ones)
    for rows, columns, kind in matrices.values():
        writer.write_tensor_data(np.resize(blocks[kind], (rows * columns // _VALUES, blocks[kind].shape[1])))
    writer.close()


def _q4_k() -> np.ndarray:
    """Blocks of a scale and a minimum, 12 bytes of scales of 6 bits, 128 bytes of weights of 4 bits (ggml-common.h)."""
    blocks = np.random.default_rng(0).integers(0, 256, (_TILE, 144), np.uint8)
    blocks[:, 0:4] = np.array([4e-5, 3e-4], np.float16).view(np.uint8)  # at most 63 * (15 * 4e-5 - 3e-4) = 0.02
    return blocks


def _q6_k() -> np.ndarray:
    """Blocks of 192 bytes of weights of 6 bits, 16 scales of 8 bits, and one of 16 bits over them."""
    blocks = np.random.default_rng(1).integers(0, 256, (_TILE, 210), np.uint8)
    blocks[:, 208:210] = np.array([1e-5], np.float16).view(np.uint8)  # at most 32 * 128 * 1e-5 = 0.04
    return blocks
