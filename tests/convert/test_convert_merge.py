"""Merging against PEFT, and the merged folder and GGUF against Transformers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from exporting import export
from gguf_facts import tensors
from peft import PeftModel
from tiny import write_adapter, write_base
from transformers import AutoModelForCausalLM, AutoTokenizer

from convert.checkpoint import Checkpoint
from convert.levels import LEVELS
from convert.llama import Shape, head_order
from convert.weights_out import WeightsStream
from stellar_local.prompts import load_template

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"]


def largest_error(got: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def state(model: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: value.detach().float().numpy() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("fields", [{}, {"use_rslora": True}, {"rank": 3, "target_modules": ALL}], ids=str)
def test_the_merged_folder_equals_peft(bases: Callable[[str], Path], fields: dict, tmp_path: Path) -> None:
    base = bases("spm-gqa-64")
    adapter = write_adapter(base, tmp_path / "lora", **fields)
    export(base, [(adapter, 1.0)], hf=tmp_path / "merged")
    expected = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).merge_and_unload()
    merged = state(AutoModelForCausalLM.from_pretrained(tmp_path / "merged"))
    changed = 0
    for name, weight in state(expected).items():
        assert largest_error(merged[name], weight) < 1e-6, name
        changed += not np.array_equal(weight, state_of_base(base)[name])
    assert changed == (15 if "target_modules" in fields else 8)


def state_of_base(base: Path) -> dict[str, np.ndarray]:
    checkpoint = Checkpoint.open(base)
    return {name: source.read(0, source.shape[0]) for name, source in checkpoint.tensors.items()}


def test_weighted_adapters_add_up(bases: Callable[[str], Path], adapter: Path, tmp_path: Path) -> None:
    base = bases("spm-gqa-64")
    second = write_adapter(base, tmp_path / "second", seed=5, rank=2, target_modules=["q_proj", "up_proj"])
    export(base, [(adapter, 0.5), (second, -2.0)], hf=tmp_path / "both")
    alone = [state_after(base, folder, tmp_path / f"alone-{folder.name}") for folder in (adapter, second)]
    original, both = state_of_base(base), state_of_base(tmp_path / "both")
    for name, weight in original.items():
        expected = weight + 0.5 * (alone[0][name] - weight) - 2.0 * (alone[1][name] - weight)
        assert np.allclose(both[name], expected, atol=1e-5), name


def state_after(base: Path, adapter: Path, out: Path) -> dict[str, np.ndarray]:
    export(base, [(adapter, 1.0)], hf=out)
    return state_of_base(out)


def test_the_gguf_holds_the_merged_weights_in_llama_cpps_order(
    bases: Callable[[str], Path], adapter: Path, tmp_path: Path
) -> None:
    base = bases("spm-gqa-64")
    export(base, [(adapter, 1.0)], tmp_path, [LEVELS["F32"]], hf=tmp_path / "hf", name="m")
    merged = state_of_base(tmp_path / "hf")
    written = tensors(tmp_path / "m-F32.gguf")
    shape = Shape.from_config(Checkpoint.open(base).config)
    assert set(written) == {tensor.gguf for tensor in shape.tensors()}
    for tensor in shape.tensors():
        expected = merged[tensor.name]
        if tensor.heads:  # llama.cpp's own formula
            parts = (tensor.heads, 2, expected.shape[0] // tensor.heads // 2, *expected.shape[1:])
            expected = expected.reshape(parts).swapaxes(1, 2).reshape(expected.shape)
        assert written[tensor.gguf][2] == expected.tobytes(), tensor.name


def test_head_order_keeps_heads_together() -> None:
    order = head_order(8, 2)
    assert order.tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_half_precision_base(bases: Callable[[str], Path], dtype: str, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(bases("spm-gqa-64")).to(getattr(torch, dtype))
    shutil.copytree(bases("spm-gqa-64"), tmp_path / "base")
    model.save_pretrained(tmp_path / "base")
    export(tmp_path / "base", out=tmp_path, levels=[LEVELS["F32"]], name="m", hf=tmp_path / "hf")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype="auto")
    assert again.dtype == getattr(torch, dtype)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    embedding = gguf.GGUFReader(tmp_path / "m-F32.gguf").get_tensor(0)
    assert np.array_equal(embedding.data, model.state_dict()["model.embed_tokens.weight"].float().numpy())


def test_a_pickled_checkpoint_and_adapter(bases: Callable[[str], Path], adapter: Path, tmp_path: Path) -> None:
    base, lora = tmp_path / "base", tmp_path / "lora"
    shutil.copytree(bases("spm-gqa-64"), base)
    shutil.copytree(adapter, lora)
    for folder, old, new in (
        (base, "model.safetensors", "pytorch_model.bin"),
        (lora, "adapter_model.safetensors", "adapter_model.bin"),
    ):
        from safetensors.torch import load_file

        torch.save(load_file(folder / old), folder / new)
        (folder / old).unlink()
    export(base, [(lora, 1.0)], tmp_path / "out", [LEVELS["F32"]], name="m")
    export(bases("spm-gqa-64"), [(adapter, 1.0)], tmp_path / "same", [LEVELS["F32"]], name="m")
    assert tensors(tmp_path / "out/m-F32.gguf") == tensors(tmp_path / "same/m-F32.gguf")


def test_a_sharded_checkpoint(bases: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(bases("spm-gqa-64"), tmp_path / "base")
    (tmp_path / "base/model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(bases("spm-gqa-64")).save_pretrained(tmp_path / "base", max_shard_size="200KB")
    assert len(list((tmp_path / "base").glob("*.safetensors"))) > 1
    for folder, name in ((tmp_path / "base", "a"), (bases("spm-gqa-64"), "b")):
        export(folder, out=tmp_path, levels=[LEVELS["F32"]], name=name)
    assert tensors(tmp_path / "a-F32.gguf") == tensors(tmp_path / "b-F32.gguf")


def test_our_shards_load_in_transformers(
    bases: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WeightsStream.__init__, "__defaults__", ("", 200_000))
    export(bases("spm-gqa-64"), hf=tmp_path / "hf")
    assert (tmp_path / "hf/model.safetensors.index.json").is_file()
    original = state(AutoModelForCausalLM.from_pretrained(bases("spm-gqa-64")))
    again = state(AutoModelForCausalLM.from_pretrained(tmp_path / "hf"))
    assert all(np.array_equal(original[name], again[name]) for name in original)


@pytest.mark.parametrize("kind", ["spm-gqa-64", "bpe-gqa4-256-tied-biased", "linear"])
def test_llama_cpp_computes_what_transformers_does(
    kind: str, bases: Callable[[str], Path], silence: None, tmp_path: Path
) -> None:
    from llama_cpp import Llama

    if kind == "linear":
        rope = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
        base = write_base(tmp_path / "base", num_key_value_heads=4, rope_parameters=rope)
    else:
        base = bases(kind)
    export(base, out=tmp_path, levels=[LEVELS["F32"]], name="m")
    ids = [1, 300, 301, 305, 17, 99, 250, 411, 412, 77, 78, 79]
    ids = [*ids, *ids[1:]]
    expected = AutoModelForCausalLM.from_pretrained(base)(torch.tensor([ids])).logits[0].detach().numpy()
    model = Llama(str(tmp_path / "m-F32.gguf"), n_ctx=64, logits_all=True, verbose=False, n_gpu_layers=0)
    model.eval(ids)
    got = np.array(model.scores[: len(ids)])
    model.close()
    # llama.cpp's CPU code keeps keys and values in half precision.
    assert np.abs(got - expected).max() < 0.01 * np.abs(expected).max()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "fields",
    [
        {"use_dora": True, "target_modules": [*ALL, "embed_tokens"]},
        {"target_modules": ["q_proj", "lm_head"]},
        {"bias": "all", "lora_bias": True, "trainable_token_indices": [5, 9]},
        {"modules_to_save": ["embed_tokens", "norm"], "resize": 600},
    ],
    ids=str,
)
def test_llama_cpp_computes_what_was_trained(
    fields: dict, bases: Callable[[str], Path], silence: None, tmp_path: Path
) -> None:
    """A base that shares its output with its embeddings, against the model as it was trained, unmerged."""
    from llama_cpp import Llama

    base = bases("bpe-gqa4-256-tied-biased")
    lora = write_adapter(base, tmp_path / "lora", **fields)
    export(base, [(lora, 1.0)], tmp_path, [LEVELS["F32"]], name="m")
    original = AutoModelForCausalLM.from_pretrained(base)
    if "resize" in fields:
        original.resize_token_embeddings(fields["resize"])
    ids = [1, 300, 301, 305, 17, 99, 250, 411, 412, 5, 9, 79]
    with torch.no_grad():
        trained = PeftModel.from_pretrained(original, lora).eval()(torch.tensor([ids])).logits[0].numpy()
    model = Llama(str(tmp_path / "m-F32.gguf"), n_ctx=64, logits_all=True, verbose=False, n_gpu_layers=0)
    model.eval(ids)
    got = np.array(model.scores[: len(ids)])
    model.close()
    assert got.shape == trained.shape
    assert np.abs(got - trained).max() < 0.01 * np.abs(trained).max()


def test_the_merged_folder_prompts_as_the_template(bases: Callable[[str], Path], adapter: Path, tmp_path: Path) -> None:
    export(bases("spm-gqa-64"), [(adapter, 1.0)], hf=tmp_path / "hf", template="bayling")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "你是谁？"}], tokenize=False, add_generation_prompt=True
    )
    assert text == "<s>" + load_template("bayling").prompt("你是谁？")
