"""Tensors that have no place in a plain checkpoint: constants to drop, and remains that tell what was done to it.

A model that was loaded in 8 or 4 bits and then saved looks whole, but its weights are rounded already, and some are
stored in a form that only one library reads. Sources: the state dicts of bitsandbytes, GPTQ, AWQ and
compressed-tensors, and PEFT's module names. Knows names of tensors; knows no model's shapes.
"""

from __future__ import annotations

import re
from pathlib import Path

from stellar_local.errors import ModelError

# Constants that old exports carry along; llama.cpp computes them.
_CONSTANTS = (".rotary_emb.inv_freq", ".attention.masked_bias", ".attention.bias")

# What a tensor's name ends with → how such a checkpoint came about.
_QUANTIZED = {
    r"\.(SCB|weight_format)": "was saved from a model loaded in 8 bits (bitsandbytes)",
    r"\.(nested_)?(absmax|quant_map)|\.quant_state\..*": "was saved from a model loaded in 4 bits (bitsandbytes)",
    r"\.(qweight|qzeros|g_idx|q?scales)": "is quantized (GPTQ or AWQ)",
    r"\.(weight_(packed|scale|shape|zero_point|g_idx)|input_scale)": "is quantized (compressed-tensors)",
    r"\.weight_scale_inv": "is quantized to 8-bit floats",
}


def is_constant(name: str) -> bool:
    """Whether a tensor is a constant that llama.cpp computes by itself; its converter drops the same ones."""
    return name.endswith(_CONSTANTS)


def check_leftover(name: str, where: Path) -> None:
    """Raise ModelError if a tensor's name tells of quantization, or of LoRA that was not merged."""
    if "lora_" in name or ".base_layer." in name:
        raise ModelError(
            f"{where} holds unmerged LoRA weights ({name})",
            "give the original base with --base, and the adapter's own folder with --adapter",
        )
    for ending, origin in _QUANTIZED.items():
        if re.search(f"(?:{ending})$", name):
            raise ModelError(
                f"{where} {origin}, so its weights are rounded already: it holds {name}",
                "use the original base in float16 or bfloat16, and merge the adapter onto that",
            )
