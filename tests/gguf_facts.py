"""What a GGUF holds, read by gguf's own reader, and the kinds of tiny base that the conversion tests go through."""

from __future__ import annotations

from pathlib import Path

import gguf

# Kinds of base: (tokenizer, LlamaConfig's fields). Together they reach every branch of the type mix.
KINDS: dict[str, tuple[str, dict[str, object]]] = {
    "spm-gqa-64": ("spm", {}),
    "bpe-tied-576": (
        "bpe",
        {
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "tie_word_embeddings": True,
        },
    ),
    "spm-mha-256-deep": (
        "spm",
        {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 17, "num_key_value_heads": 4},
    ),
    "bpe-gqa4-256-tied-biased": (
        "bpe",
        {
            "hidden_size": 256,
            "intermediate_size": 512,
            "num_hidden_layers": 9,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
            "attention_bias": True,
            "mlp_bias": True,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 256,
            },
        },
    ),
    "spm-like-70b": (
        "spm",
        {
            "hidden_size": 256,
            "intermediate_size": 32,
            "num_hidden_layers": 80,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 2,
            "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
        },
    ),
}


def tensors(path: Path) -> dict[str, tuple[tuple[int, ...], str, bytes]]:
    """A GGUF's tensors: name → (shape, type, bytes)."""
    reader = gguf.GGUFReader(path)
    return {
        item.name: (tuple(int(n) for n in item.shape), item.tensor_type.name, item.data.tobytes())
        for item in reader.tensors
    }


def metadata(path: Path) -> dict[str, object]:
    """A GGUF's metadata."""
    reader = gguf.GGUFReader(path)
    return {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
