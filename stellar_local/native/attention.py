"""How llama.cpp attends and keeps keys, where that is ours to know or to choose. Knows models, no contexts."""

from __future__ import annotations

import os
import re

from ..errors import UsageError
from .library import api
from .model import Model

_MOST_SCORES = 512 << 20  # bytes of attention's scores that are worth their memory


def check_attention(kv_type: str, flash_attn: str) -> None:
    """Raise UsageError for a quantized KV cache without flash attention, which llama.cpp refuses."""
    if flash_attn == "off" and kv_type != "f16":
        raise UsageError(
            f"--kv {kv_type} needs flash attention, which --flash-attn off forbids",
            "give --flash-attn auto, or --kv f16",
        )


def faster_without_flash(heads: int, offloaded: bool, n_ctx: int, sequences: int, n_batch: int, kv_type: str) -> bool:
    """Whether attention is faster on this device without llama.cpp's flash attention, which its "auto" always takes.

    On a processor one sequence generates up to three times as fast, the more so the longer it is, and reads prompts
    about as fast (docs/hardware.md). Many that share their memory gain less and read prompts more slowly, as flash
    attention passes over the others' cells. Without it all scores of a batch lie in memory, 4 bytes for each of its
    tokens, cells and heads, and half as much again while they are multiplied with the values.
    """
    scores = 4 * min(n_batch, n_ctx) * n_ctx * heads
    return not offloaded and sequences == 1 and kv_type == "f16" and scores <= _MOST_SCORES


def rotates(model: Model) -> bool:
    """Whether llama.cpp rotates the quantized keys of this model, for precision (llama-kv-cache.cpp, attn_rot_k)."""
    disabled = re.match(r"\s*[+-]?0*[1-9]", os.environ.get("LLAMA_ATTN_ROT_DISABLE", ""))  # as C's atoi has it
    heads = api().llama_model_n_head(model.handle)
    size = model.header.value("attention.key_length") or api().llama_model_n_embd(model.handle) // max(heads, 1)
    return not disabled and isinstance(size, int) and size % 64 == 0
