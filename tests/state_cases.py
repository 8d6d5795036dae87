"""What the tests of kept and saved memory share: tiny models whose KV cache may be quantized."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import write_adapter, write_base

KV_TYPES = ["f16", "q8_0", "q4_0"]
# Heads as wide as real ones: a quantized cache has rows of whole blocks of 32, and is rotated in blocks of 64.
WIDE = {"hidden_size": 128, "num_attention_heads": 2, "num_key_value_heads": 1}


@pytest.fixture(scope="session")
def wide_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("bases") / "wide", "spm", **WIDE)


@pytest.fixture(scope="session")
def wide_model(wide_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _converted(wide_base, tmp_path_factory.mktemp("converted") / "wide")


@pytest.fixture(scope="session")
def shallow_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of one layer: what it keeps of a token depends on no other token."""
    root = tmp_path_factory.mktemp("shallow")
    return _converted(write_base(root / "base", "spm", num_hidden_layers=1, **WIDE), root / "out")


@pytest.fixture(scope="session")
def wide_lora(wide_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter of the wide model, in GGUF."""
    from convert.adapter import Adapter
    from convert.checkpoint import Checkpoint
    from convert.llama import Shape
    from convert.lora_gguf import write_lora_gguf

    root = tmp_path_factory.mktemp("loras")
    trained = Adapter.open(write_adapter(wide_base, root / "astro"))
    write_lora_gguf(trained, 1.0, Shape.from_config(Checkpoint.open(wide_base).config), "astro", root / "astro.gguf")
    return root / "astro.gguf"


def _converted(base: Path, out: Path) -> Path:
    from exporting import export

    from convert.levels import parse_levels

    export(base, [], out, parse_levels(["F32"]), name="tiny", template="bayling")
    return out / "tiny-F32.gguf"
