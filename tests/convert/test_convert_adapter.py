"""Every kind of PEFT adapter that can be merged: against PEFT's merge, and against the trained, unmerged model."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from tiny import write_adapter, write_base
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from convert.adapter import Adapter
from convert.checkpoint import Checkpoint
from convert.llama import EMBEDDING, OUTPUT, Shape
from convert.merge import Merger

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
IDS = torch.tensor([[1, *range(3, 60), 470, 479]])


@pytest.fixture(scope="module")
def plain(bases: Callable[[str], Path]) -> Path:
    return bases("spm-gqa-64")


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("tied") / "base", tie_word_embeddings=True)


@pytest.fixture(scope="module")
def biased(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_base(tmp_path_factory.mktemp("biased") / "base", attention_bias=True, mlp_bias=True)
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(".bias"):
                weight.normal_(std=0.1)
    model.save_pretrained(folder)
    return folder


def merger(base: Path, *adapters: tuple[Path, float]) -> Merger:
    checkpoint = Checkpoint.open(base)
    shape = Shape.from_config(checkpoint.config)
    opened = [(Adapter.open(folder), weight) for folder, weight in adapters]
    for adapter, _ in opened:
        adapter.check_fits(checkpoint, shape)
    return Merger(checkpoint, shape, opened)


def merged(base: Path, *adapters: tuple[Path, float]) -> dict[str, np.ndarray]:
    """All tensors of the merged model, lm_head always among them."""
    made = merger(base, *adapters)
    tensors = {tensor.name: tensor for tensor in replace(made.shape, tied=False).tensors()}
    out = {}
    for name, tensor in tensors.items():
        rows = made.rows(name, 0, tensor.rows)
        assert rows.dtype == np.float32
        assert rows.flags.c_contiguous
        assert rows.flags.writeable
        assert not np.may_share_memory(rows, made.rows(name, 0, 1))
        assert rows.shape == (tensor.rows, tensor.columns)
        out[name] = rows.reshape(tensor.shape)
    return out


def unmerged(base: Path, adapter: Path, resize: int | None = None) -> PeftModel:
    """The trained model, as PEFT loads it."""
    model = AutoModelForCausalLM.from_pretrained(base)
    if resize is not None:
        model.resize_token_embeddings(resize)
    return PeftModel.from_pretrained(model, adapter).eval()


def assert_equal(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert set(got) == set(expected)
    for name, tensor in expected.items():
        assert got[name].shape == tensor.shape, name
        assert np.abs(got[name] - tensor).max() <= 1e-6 * np.abs(tensor).max(), name


def state(model: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: value.detach().float().numpy().copy() for name, value in model.state_dict().items()}


PATTERNS = {
    "rank_pattern": {"q_proj": 2, r"layers\.1\.self_attn\.k_proj": 3, "^model.layers.0.self_attn.v_proj": 5},
    "alpha_pattern": {"layers.0.self_attn.q_proj": 3, "o_proj": 11.5, ".*proj": 1},
}
UNTIED = {
    "plain": {},
    "everything": {"target_modules": [*ALL, "lm_head"], "rank": 3},
    "rsLoRA": {"use_rslora": True, "rank": 7},
    "patterns": PATTERNS,
    "patterns with rsLoRA": {"use_rslora": True, **PATTERNS},
    "embeddings": {"target_modules": ["q_proj", "embed_tokens"]},
    "embeddings and output": {"target_modules": ["embed_tokens", "lm_head"], "use_rslora": True},
    "DoRA": {"use_dora": True, "target_modules": [*ALL, "lm_head"]},
    "DoRA on embeddings": {"use_dora": True, "target_modules": ["v_proj", "embed_tokens"]},
    "modules": {"modules_to_save": ["lm_head", "embed_tokens"]},
    "norms and a layer": {"target_modules": ["q_proj"], "modules_to_save": ["norm", "k_proj"]},
    "a block": {"target_modules": ["q_proj"], "modules_to_save": ["layers.1.mlp"]},
    "resized": {"resize": 490},
    "resized LoRA": {"resize": 490, "target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    "resized DoRA": {"resize": 490, "use_dora": True, "target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    "resized modules": {"resize": 490, "modules_to_save": ["embed_tokens", "lm_head"]},
    "resized tokens": {"resize": 490, "trainable_token_indices": [489, 3, 482]},
    "tokens": {"trainable_token_indices": [5, 9]},
    "tokens of both": {"trainable_token_indices": {"embed_tokens": [5, 9], "lm_head": [7, 5, 1]}},
    "some layers": {"layers_to_transform": [1]},
    "not all": {"target_modules": "all-linear", "exclude_modules": ["k_proj"]},
    "a pattern": {"target_modules": r".*layers\.1\..*proj"},
    "fan_in_fan_out": {"fan_in_fan_out": True},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "gaussian": {"init_lora_weights": "gaussian"},
    "MiCA": {"init_lora_weights": "mica"},
    "MiCA on embeddings": {"init_lora_weights": "mica", "target_modules": ["embed_tokens", "lm_head"]},
    "bias on a base without": {"bias": "all"},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", UNTIED)
def test_merged_as_peft_merges(case: str, plain: Path, tmp_path: Path) -> None:
    lora = write_adapter(plain, tmp_path / "lora", **UNTIED[case])
    expected = state(unmerged(plain, lora, UNTIED[case].get("resize")).merge_and_unload())
    assert_equal(merged(plain, (lora, 1.0)), expected)
    original = state(AutoModelForCausalLM.from_pretrained(plain))
    changed = {name for name in expected if not np.array_equal(expected[name], original[name])}
    made = merger(plain, (lora, 1.0))
    assert changed
    assert {name for name in expected if made.changes(name)} == changed


BIASED = {
    "all": {"bias": "all"},
    "of LoRA's modules": {"bias": "lora_only", "target_modules": ["q_proj", "down_proj"]},
    "lora_bias": {"lora_bias": True, "use_rslora": True},
    "both": {"lora_bias": True, "bias": "lora_only", "target_modules": ALL},
    "DoRA": {"use_dora": True, "bias": "all"},
    "a module": {"target_modules": ["q_proj"], "modules_to_save": ["k_proj"]},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", BIASED)
def test_biases(case: str, biased: Path, tmp_path: Path) -> None:
    lora = write_adapter(biased, tmp_path / "lora", **BIASED[case])
    expected = state(unmerged(biased, lora).merge_and_unload())
    assert_equal(merged(biased, (lora, 1.0)), expected)
    original = state(AutoModelForCausalLM.from_pretrained(biased))
    assert any(name.endswith(".bias") and not np.array_equal(expected[name], original[name]) for name in expected)


# Whether the output stays one tensor with the embeddings.
TIED: dict[str, tuple[dict, bool]] = {
    "plain": ({}, True),
    "LoRA on embeddings": ({"target_modules": ["q_proj", "embed_tokens"]}, False),
    "LoRA on the output": ({"target_modules": ["q_proj", "lm_head"]}, False),
    "LoRA on both": ({"target_modules": ["q_proj", "lm_head", "embed_tokens"]}, False),
    "LoRA tied": ({"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True}, True),
    "LoRA on the output, tied": ({"target_modules": ["q_proj", "lm_head"], "ensure_weight_tying": True}, True),
    "DoRA on embeddings": ({"use_dora": True, "target_modules": ["q_proj", "embed_tokens"]}, False),
    "DoRA on both": ({"use_dora": True, "target_modules": ["embed_tokens", "lm_head"]}, False),
    "embeddings whole": ({"modules_to_save": ["embed_tokens"]}, False),
    "output whole": ({"modules_to_save": ["lm_head"]}, False),
    "both whole": ({"modules_to_save": ["embed_tokens", "lm_head"]}, False),
    "whole, tied": ({"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, True),
    "tokens": ({"trainable_token_indices": [5, 9]}, True),
    "the same tokens": ({"trainable_token_indices": {"embed_tokens": [5, 9], "lm_head": [5, 9]}}, True),
    "other tokens": ({"trainable_token_indices": {"embed_tokens": [5, 9], "lm_head": [7, 5]}}, False),
    "tokens of the output": ({"trainable_token_indices": {"lm_head": [7, 5]}}, False),
    "resized": ({"resize": 490}, True),
    "resized LoRA": ({"resize": 490, "target_modules": ["q_proj", "embed_tokens"]}, False),
    "resized LoRA on the output": ({"resize": 490, "target_modules": ["q_proj", "lm_head"]}, False),
    "resized LoRA on both": ({"resize": 490, "target_modules": ["lm_head", "embed_tokens"]}, False),
    "resized whole": ({"resize": 490, "modules_to_save": ["embed_tokens", "lm_head"]}, False),
    "resized embeddings whole": ({"resize": 490, "modules_to_save": ["embed_tokens"]}, False),
    "resized output whole": ({"resize": 490, "modules_to_save": ["lm_head"]}, False),
    "resized tokens": ({"resize": 490, "trainable_token_indices": [485, 3]}, True),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", TIED)
def test_a_shared_output_is_what_was_trained(case: str, tied: Path, tmp_path: Path) -> None:
    """The merged tensors compute the logits of the trained model, where PEFT's own merge may not."""
    fields, stays = TIED[case]
    lora = write_adapter(tied, tmp_path / "lora", **fields)
    made = merger(tied, (lora, 1.0))
    assert made.shape.tied == stays
    assert made.shape.vocabulary == fields.get("resize", 480)
    tensors = merged(tied, (lora, 1.0))
    assert np.array_equal(tensors[EMBEDDING], tensors[OUTPUT]) == stays
    with torch.no_grad():
        expected = unmerged(tied, lora, fields.get("resize"))(IDS).logits.numpy()
        got = assembled(tied, tensors)(IDS).logits.numpy()
    assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()


def assembled(base: Path, tensors: dict[str, np.ndarray]) -> LlamaForCausalLM:
    """A model of these tensors, with an output of its own."""
    config = LlamaConfig.from_pretrained(base)
    config.update({"tie_word_embeddings": False, "vocab_size": len(tensors[EMBEDDING])})
    model = LlamaForCausalLM(config).eval()
    model.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in tensors.items()})
    return model


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("fields", [{}, {"resize": 490}], ids=str)
def test_what_is_replaced_is_kept_bit_for_bit(fields: dict, plain: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    lora = write_adapter(plain, tmp_path / "lora", modules_to_save=["lm_head", "embed_tokens", "norm"], **fields)
    stored = load_file(lora / "adapter_model.safetensors")
    got = merged(plain, (lora, 1.0))
    for name in (EMBEDDING, OUTPUT, "model.norm.weight", "model.layers.1.input_layernorm.weight"):
        assert np.array_equal(got[name], stored[f"base_model.model.{name}"].numpy()), name
        assert len(got[name]) == (fields.get("resize", 480) if name in (EMBEDDING, OUTPUT) else 64)


def test_where_peft_merges_something_else(tied: Path, tmp_path: Path) -> None:
    """The reason for the test above: if this fails, PEFT has learned it, and parts.py's text is out of date."""
    lora = write_adapter(tied, tmp_path / "lora", target_modules=["q_proj", "lm_head"])
    with torch.no_grad():
        trained = unmerged(tied, lora)(IDS).logits
        by_peft = unmerged(tied, lora).merge_and_unload()(IDS).logits
    assert (trained - by_peft).abs().max() > 0.01 * trained.abs().max()


@pytest.mark.filterwarnings("ignore")
def test_weighted_adapters_of_every_kind(plain: Path, tmp_path: Path) -> None:
    kinds = [
        ({"target_modules": [*ALL, "lm_head", "embed_tokens"]}, 0.5),
        ({"use_dora": True, "target_modules": ["q_proj", "embed_tokens", "lm_head"]}, -0.25),
        ({"modules_to_save": ["lm_head", "norm"]}, 0.75),
        ({"trainable_token_indices": [3, 479]}, 1.0),
    ]
    adapters = [
        (write_adapter(plain, tmp_path / f"{number}", seed=number, **fields), weight)
        for number, (fields, weight) in enumerate(kinds)
    ]
    original = state(AutoModelForCausalLM.from_pretrained(plain))
    expected = {name: tensor.astype(np.float64) for name, tensor in original.items()}
    for folder, weight in adapters:
        for name, tensor in state(unmerged(plain, folder).merge_and_unload()).items():
            expected[name] += weight * (tensor.astype(np.float64) - original[name])
    assert_equal(merged(plain, *adapters), expected)


@pytest.mark.filterwarnings("ignore")
def test_adapters_that_add_tokens(plain: Path, tmp_path: Path) -> None:
    one = write_adapter(plain, tmp_path / "one", resize=490, modules_to_save=["embed_tokens", "lm_head"])
    two = write_adapter(plain, tmp_path / "two", seed=2, resize=490, modules_to_save=["embed_tokens", "lm_head"])
    small = write_adapter(plain, tmp_path / "small", seed=3, target_modules=["lm_head", "embed_tokens"])
    alone = [merged(plain, (folder, 1.0)) for folder in (one, two, small)]
    original = state(AutoModelForCausalLM.from_pretrained(plain))
    half = merged(plain, (one, 0.5), (small, 2.0))
    both = merged(plain, (one, 0.5), (two, 1.5))
    for name in (EMBEDDING, OUTPUT):
        base = original[name]
        assert np.array_equal(half[name][480:], alone[0][name][480:])
        expected = base + 0.5 * (alone[0][name][:480] - base) + 2 * (alone[2][name] - base)
        assert np.allclose(half[name][:480], expected, atol=1e-6)
        assert np.allclose(both[name][480:], (0.25 * alone[0][name] + 0.75 * alone[1][name])[480:], atol=1e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
        {"use_dora": True, "target_modules": ["q_proj", "embed_tokens"]},
        {"resize": 490, "trainable_token_indices": [485, 3, 100]},
    ],
    ids=str,
)
def test_any_rows_from_any_thread(fields: dict, plain: Path, tmp_path: Path) -> None:
    lora = write_adapter(plain, tmp_path / "lora", **fields)
    expected, made = merged(plain, (lora, 1.0)), merger(plain, (lora, 1.0))
    pieces = [
        (name, start, min(start + 37, len(tensor)))
        for start in range(0, 490, 37)
        for name, tensor in expected.items()
        if tensor.ndim == 2 and start < len(tensor)
    ]
    np.random.default_rng(0).shuffle(pieces)
    with ThreadPoolExecutor(8) as pool:
        rows = list(pool.map(lambda piece: made.rows(piece[0], int(piece[1]), int(piece[2])), pieces))
    for (name, start, stop), got in zip(pieces, rows, strict=True):
        tensor = expected[str(name)]
        assert np.abs(got - tensor[int(start) : int(stop)]).max() <= 1e-6 * np.abs(tensor).max(), (name, start)
    assert len(made._loaded) <= 4
    assert made.rows(EMBEDDING, 7, 7).shape == (0, 64)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_stored_in_half_precision(dtype: torch.dtype, plain: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    lora = write_adapter(plain, tmp_path / "lora", target_modules=["q_proj", "lm_head"])
    weights = lora / "adapter_model.safetensors"
    save_file({name: tensor.to(dtype) for name, tensor in load_file(weights).items()}, weights)
    # PEFT would take the rounded copy of lm_head for the base's own; we know that it is the same, and keep the base.
    rounded = {name: tensor for name, tensor in load_file(weights).items() if "base_layer" not in name}
    copied = tmp_path / "without"
    copied.mkdir()
    (copied / "adapter_config.json").write_text((lora / "adapter_config.json").read_text())
    save_file(rounded, copied / "adapter_model.safetensors")
    assert_equal(merged(plain, (lora, 1.0)), state(unmerged(plain, copied).merge_and_unload()))


def test_names_of_old(plain: Path, tmp_path: Path) -> None:
    """`.default` in the names, a `.bin`, the configuration of PEFT 0.2, and lm_head's copy under its old name."""
    from safetensors.torch import load_file

    lora = write_adapter(plain, tmp_path / "lora", target_modules=["q_proj", "lm_head"])
    expected = merged(plain, (lora, 1.0))
    tensors = load_file(lora / "adapter_model.safetensors")
    (lora / "adapter_model.safetensors").unlink()
    for ending in (".lora_A", ".lora_B"):
        tensors = {name.replace(f"{ending}.weight", f"{ending}.default.weight"): t for name, t in tensors.items()}
    assert any(".default." in name for name in tensors)
    tensors["base_model.model.lm_head.weight"] = tensors.pop("base_model.model.lm_head.base_layer.weight")
    torch.save(tensors, lora / "adapter_model.bin")
    old = {"bias": "none", "enable_lora": None, "fan_in_fan_out": False, "inference_mode": True, "merge_weights": False}
    config = {**old, "base_model_name_or_path": str(plain), "lora_alpha": 8, "lora_dropout": 0.05, "r": 4}
    config |= {"modules_to_save": None, "peft_type": "LORA", "target_modules": ["q_proj", "lm_head"]}
    (lora / "adapter_config.json").write_text(json.dumps(config))
    got = merged(plain, (lora, 1.0))
    assert all(np.array_equal(got[name], expected[name]) for name in expected)
