"""Writes a GGUF of a real model's shape and size at any level, all zeros, for measuring memory: it takes no disk.

What a model takes does not depend on its weights' values. The file is its header, with a made vocabulary, and a hole
as long as all tensors; reading it gives zeros, and computing with them gives zeros.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from made_vocabulary import BOS, EOS, made_vocabulary

from stellar_local.plan.shapes import shape_header
from stellar_local.plan.sparse import header_bytes, write_sparse


def write_zeros(shape: str, level: str, path: Path) -> None:
    """Write the model of a shape that plan knows, at a level. Raises UsageError for an unknown one, StellarError."""
    header = shape_header(shape, level)
    vocabulary = made_vocabulary(header.metadata["llama.vocab_size"])
    metadata = header.metadata | {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [text for text, _ in vocabulary],
        "tokenizer.ggml.scores": [0.0] * len(vocabulary),
        "tokenizer.ggml.token_type": [kind for _, kind in vocabulary],
        "tokenizer.ggml.bos_token_id": BOS,
        "tokenizer.ggml.eos_token_id": EOS,
    }
    start = len(header_bytes(metadata, header.tensors))
    whole = start + header.full_size - header.data_start
    write_sparse(replace(header, metadata=metadata, data_start=start, file_size=whole), None, path)
