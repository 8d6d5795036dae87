"""MODEL → file: levels by name, the best that fits, and clear refusals."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from exporting import export
from tiny import write_adapter

from stellar_local.errors import ModelError, UsageError
from stellar_local.native.header import read_header
from stellar_local.plan.choose import choose_model, level_of, needed_memory
from stellar_local.plan.hardware import available_memory


def test_level_by_name(spm_folder: Path) -> None:
    assert choose_model(spm_folder, "q8_0").name == "tiny-Q8_0.gguf"
    assert level_of(Path("stellarspeak-13b-Q4_K_M.gguf")) == "Q4_K_M"
    with pytest.raises(UsageError, match="level Q2_K is not in") as caught:
        choose_model(spm_folder, "Q2_K")
    assert "F32" in caught.value.hint
    assert "Q8_0" in caught.value.hint


def test_the_largest_that_fits(spm_folder: Path) -> None:
    big, small = spm_folder / "tiny-F32.gguf", spm_folder / "tiny-Q8_0.gguf"
    assert choose_model(spm_folder, memory=1 << 40) == big
    enough = needed_memory(read_header(big), 512)
    assert choose_model(spm_folder, memory=enough) == big
    assert choose_model(spm_folder, memory=enough - 1) == small
    assert choose_model(spm_folder, memory=0) == small


def test_needed_memory_by_hand(spm_model: Path) -> None:
    header = read_header(spm_model)
    kv = 2 * 2 * 512 * 2 * 16 * 2  # keys and values, layers, tokens, heads, width, bytes
    assert needed_memory(header, 512) == spm_model.stat().st_size + kv + (512 << 20)


def test_refusals(tmp_path: Path, spm_base: Path, spm_model: Path) -> None:
    with pytest.raises(ModelError, match="model not found"):
        choose_model(tmp_path / "no")
    with pytest.raises(ModelError, match="no .gguf file"):
        choose_model(tmp_path)
    with pytest.raises(ModelError, match="Hugging Face folder"):
        choose_model(spm_base)
    with pytest.raises(UsageError, match="--level chooses within a folder"):
        choose_model(spm_model, "Q8_0")


def test_available_memory_is_plausible() -> None:
    memory = available_memory()
    assert memory is None or 100 << 20 < memory < 1 << 50


def test_an_adapter_beside_the_levels_is_no_level(spm_base: Path, spm_model: Path, tmp_path: Path) -> None:
    adapter = write_adapter(spm_base, tmp_path / "lora")
    folder = tmp_path / "model"
    export(spm_base, [(adapter, 1.0)], lora_gguf=folder / "a-LORA.gguf")
    with pytest.raises(ModelError, match="no .gguf file"):
        choose_model(folder)
    shutil.copy(spm_model, folder / "a-F32.gguf")
    assert choose_model(folder, memory=0).name == "a-F32.gguf"
