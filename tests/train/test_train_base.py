"""Bases that are not as they should be, each with a sentence of its own; and that a base keeps its precision."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from train_runs import WEIGHTS, settings

from stellar_local.errors import ModelError
from train.adapter import add_lora
from train.base import load_base
from train.run import train


def damaged(base: Path, folder: Path, what: str) -> Path:
    """A copy of the base with one thing wrong."""
    shutil.copytree(base, folder)
    weights = folder / "model.safetensors"
    config = json.loads((folder / "config.json").read_text())
    if what == "no config":
        (folder / "config.json").unlink()
    elif what == "broken config":
        (folder / "config.json").write_text("{")
    elif what == "gpt2":
        (folder / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))
    elif what == "no weights":
        weights.unlink()
    elif what == "cut weights":
        weights.write_bytes(weights.read_bytes()[:5000])
    elif what == "a missing weight":
        tensors = load_file(weights)
        tensors.pop("model.layers.1.mlp.up_proj.weight")
        save_file(tensors, weights, metadata={"format": "pt"})
    elif what == "a missing shard":
        weights.unlink()
        index = {"weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    elif what == "no tokenizer":
        (folder / "tokenizer.model").unlink()
    elif what == "foreign tokenizer":
        (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 100}))
    return folder


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no config", "lacks config.json"),
        ("broken config", "config.json is damaged"),
        ("gpt2", "not a LLaMA: its config.json says 'gpt2'"),
        ("no weights", "has no weights"),
        ("cut weights", "cannot be loaded"),
        ("a missing weight", "lack 1 weights: model.layers.1.mlp.up_proj.weight"),
        ("a missing shard", "lacks 1 of its weight files: model-00001-of-00002"),
        ("no tokenizer", "no tokenizer in"),
        ("foreign tokenizer", "the tokenizer gives id"),
    ],
)
def test_damaged_bases(what: str, message: str, spm_base: Path, train_rows: Path, tmp_path: Path) -> None:
    base = damaged(spm_base, tmp_path / "base", what)
    with pytest.raises(ModelError) as caught:
        train(settings(base, train_rows, tmp_path / "out"))
    assert message in caught.value.message
    assert caught.value.hint
    assert not (tmp_path / "out" / WEIGHTS).exists()


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_base_stays_in_its_precision_and_the_adapter_is_float32(dtype: str, spm_base: Path, tmp_path: Path) -> None:
    """PEFT's preparation turns norms, embedding and head into float32: nothing here may."""
    model = load_base(spm_base, dtype, torch.device("cpu"))
    adapted, _ = add_lora(model, settings(spm_base, spm_base / "rows.json", tmp_path / "out"))
    kinds = {(weight.dtype, weight.requires_grad) for weight in adapted.parameters()}
    assert kinds == {(getattr(torch, dtype), False), (torch.float32, True)}
