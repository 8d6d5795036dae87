"""The merged Hugging Face folder: complete, without code, and what PEFT's merge gives in every precision."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from exporting import export
from peft import LoraConfig, PeftModel, get_peft_model
from tiny import write_adapter, write_base
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from convert.checkpoint import Checkpoint
from convert.hf import write_surroundings
from convert.llama import Shape
from convert.weights_out import WeightsStream
from stellar_local.errors import StellarError

IDS = [[1, 300, 301, 305, 17, 99, 250, 411, 412, 77, 78, 79]]


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor(IDS)).logits[0].float()


def peft_merged(base: Path, adapter: Path) -> torch.nn.Module:
    """PEFT's own merge in float32."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return PeftModel.from_pretrained(model, adapter).merge_and_unload()


@pytest.mark.parametrize(("dtype", "allowed"), [("float32", 1e-5), ("bfloat16", 2e-2), ("float16", 2e-3)])
def test_logits_are_peft_merges(
    dtype: str, allowed: float, bases: Callable[[str], Path], adapter: Path, tmp_path: Path
) -> None:
    base = bases("spm-gqa-64")
    export(base, [(adapter, 1.0)], hf=tmp_path / "hf", hf_dtype=dtype)
    expected = peft_merged(base, adapter).to(getattr(torch, dtype))
    got = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype="auto")
    assert got.dtype == expected.dtype == getattr(torch, dtype)
    step = {"float32": 2**-22, "bfloat16": 2**-7, "float16": 2**-10}[dtype]  # one unit in the last place
    for (name, ours), theirs in zip(got.state_dict().items(), expected.state_dict().values(), strict=True):
        assert torch.allclose(ours.float(), theirs.float(), rtol=step, atol=1e-7), name
    assert (logits(got) - logits(expected)).abs().max() <= allowed * logits(expected).abs().max()
    assert AutoTokenizer.from_pretrained(tmp_path / "hf").encode("太阳")[0] == 1


def test_no_code_and_no_path_gets_in(bases: Callable[[str], Path], tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(bases("bpe-tied-576"), base)
    for name, settings in (
        ("config.json", {"auto_map": {"AutoModel": "evil.Model"}, "_name_or_path": "/home/someone/base"}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}),
    ):
        path = base / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    for name in ("evil.py", "LICENSE.py", "LICENSE", "NOTICE.txt", "USE_POLICY.md", "pytorch_model.bin.index.json"):
        (base / name).write_text("x")
    export(base, hf=tmp_path / "hf")
    names = {path.name for path in (tmp_path / "hf").iterdir()}
    assert not [name for name in names if name.endswith(".py")]
    assert {
        "LICENSE",
        "NOTICE.txt",
        "USE_POLICY.md",
        "generation_config.json",
        "tokenizer.json",
        "model.safetensors",
    } <= names
    for path in (tmp_path / "hf").glob("*.json"):
        assert "auto_map" not in path.read_text() and "/home/" not in path.read_text(), path.name
    assert AutoTokenizer.from_pretrained(tmp_path / "hf").eos_token == "<|eot_id|>"


@pytest.mark.parametrize("tokenizer", ["spm", "bpe"])
def test_added_tokens_come_with_the_adapter_that_added_them(tokenizer: str, tmp_path: Path) -> None:
    """A base whose tokenizer training enlarged: the merged folder has the larger one, and its rows."""
    base = write_base(tmp_path / "base", tokenizer, tie_word_embeddings=True)
    words = AutoTokenizer.from_pretrained(base)
    words.add_tokens(["<星>", "<pad>"])
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(len(words))
    lora = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))
    lora.save_pretrained(tmp_path / "lora")
    words.save_pretrained(tmp_path / "lora")
    checkpoint = Checkpoint.open(base)
    shape = replace(Shape.from_config(checkpoint.config), vocabulary=len(words), tied=False)
    out = tmp_path / "merged"
    out.mkdir()
    write_surroundings(out, checkpoint, "F32", None, True, shape, [tmp_path / "lora"])
    writer = WeightsStream(out, shape.tensors(), "F32")
    writer.open()
    state = {name: value.numpy() for name, value in lora.unload().state_dict().items()}
    for tensor in shape.tensors():
        writer.write(np.ascontiguousarray(state.get(tensor.name, state["model.embed_tokens.weight"])).data.cast("B"))
        writer.end_tensor()
    writer.finish()
    loaded, report = LlamaForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert (loaded.config.vocab_size, loaded.config.tie_word_embeddings) == (len(words), False)
    again, saved = AutoTokenizer.from_pretrained(out), AutoTokenizer.from_pretrained(tmp_path / "lora")
    assert again.encode("a<星>b 太阳") == saved.encode("a<星>b 太阳")
    assert len(words) - 2 in again.encode("<星>")


@pytest.mark.parametrize("tokenizer", ["spm", "bpe"])
def test_a_plain_adapter_brings_no_tokenizer(tokenizer: str, tmp_path: Path) -> None:
    """Its re-saved copy lacks the tokens that another adapter added, and may lack what the base's own says."""
    base = write_base(tmp_path / "base", tokenizer)
    words = AutoTokenizer.from_pretrained(base)
    plain, size = write_adapter(base, tmp_path / "plain"), len(words)
    words.save_pretrained(plain)
    (plain / "chat_template.jinja").write_text("{{ 'plain' }}")
    words.add_tokens(["<星>", "<pad>"])
    growing = write_adapter(base, tmp_path / "growing", seed=2, resize=len(words))
    words.save_pretrained(growing)
    saved = AutoTokenizer.from_pretrained(growing)
    for name, order in (("one", [growing, plain]), ("two", [plain, growing])):
        export(base, [(folder, 0.5) for folder in order], hf=tmp_path / name)
        again = AutoTokenizer.from_pretrained(tmp_path / name)
        assert again.encode("a<星>b 太阳") == saved.encode("a<星>b 太阳")
        assert size in again.encode("<星>")
        assert AutoModelForCausalLM.from_pretrained(tmp_path / name).config.vocab_size == len(again) == size + 2
        assert not (tmp_path / name / "chat_template.jinja").exists()
    export(base, [(plain, 1.0)], hf=tmp_path / "same")
    assert len(AutoTokenizer.from_pretrained(tmp_path / "same")) == size
    assert not (tmp_path / "same/chat_template.jinja").exists()
    assert json.loads((tmp_path / "same/config.json").read_text())["vocab_size"] == size


def test_a_full_disk_is_told(bases: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(StellarError, match="no space left"):
        patch.setattr("convert.hf.shutil.copyfile", full)
        export(bases("spm-gqa-64"), hf=tmp_path / "hf")
    assert [path.name for path in tmp_path.iterdir()] == ["hf.partial"]
    with monkeypatch.context() as patch:  # the weights are kept
        patch.setattr("convert.tensor_file.TensorFile.write", full)
        export(bases("spm-gqa-64"), hf=tmp_path / "hf")
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]
    assert not list((tmp_path / "hf").glob(".*"))


def test_a_template_of_ours_takes_the_place_of_the_bases(bases: Callable[[str], Path], tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(bases("spm-gqa-64"), base)
    (base / "chat_template.jinja").write_text("{{ 'the base' }}")
    (base / "chat_template.json").write_text('{"chat_template": "an old form"}')
    chat = [{"role": "user", "content": "你好"}]
    export(base, hf=tmp_path / "kept")
    assert AutoTokenizer.from_pretrained(tmp_path / "kept").apply_chat_template(chat, tokenize=False) == "the base"
    assert (tmp_path / "kept/chat_template.json").read_bytes() == (base / "chat_template.json").read_bytes()
    export(base, [(write_adapter(base, tmp_path / "lora"), 1.0)], hf=tmp_path / "ours", template="bayling")
    assert "你好" in AutoTokenizer.from_pretrained(tmp_path / "ours").apply_chat_template(chat, tokenize=False)
    assert not list((tmp_path / "ours").glob("chat_template.*"))
