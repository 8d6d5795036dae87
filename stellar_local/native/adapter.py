"""A LoRA adapter in GGUF, loaded beside its model. Knows the file's identity, not which requests use it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..errors import ModelError
from ..files import require_file
from .header import read_header
from .library import api, complaints, deferred_interrupt
from .model import Model


class Adapter:
    """An adapter in memory; freed with its model, or by `close` while no context uses it. Load it before a context is
    made.

    Raises ModelError if the file is missing, is no LoRA adapter in GGUF, or belongs to another architecture or shape.
    Format: llama.cpp's convert_lora_to_gguf.py, which `stellar convert --lora-gguf` follows.
    """

    def __init__(self, model: Model, path: Path) -> None:
        self.path = require_file(path, "adapter", "check the path given with --lora")
        self.header = read_header(path, whole=True)
        kind = tuple(self.header.metadata.get(key) for key in ("general.type", "adapter.type"))
        if kind != ("adapter", "lora"):
            raise ModelError(
                f"not a LoRA adapter: {path}",
                "give a file made by `stellar convert --lora-gguf`; a model is given as MODEL",
            )
        complaints()
        with deferred_interrupt():
            self.handle: Any = api().llama_adapter_lora_init(model.handle, os.fsencode(path))
        if not self.handle:
            raise ModelError(
                f"llama.cpp cannot use the adapter {path}: {complaints() or 'no reason given'}",
                "it must have been trained on this model",
            )

    def close(self) -> None:
        """Free the adapter's memory before its model's; safe to call twice."""
        if self.handle:
            api().llama_adapter_lora_free(self.handle)
            self.handle = None
