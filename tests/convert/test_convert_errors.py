"""Bad input: each case gives one sentence of ours before llama.cpp or ggml sees anything, and leaves no file."""

from __future__ import annotations

import json
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from exporting import export

from convert.checkpoint import Checkpoint
from convert.gguf_import import import_gguf
from convert.levels import LEVELS
from stellar_local.errors import ExitCode, MissingExtraError, StellarError


def edit(path: Path, **changes: object) -> None:
    """Change fields of a JSON file; None removes one."""
    data = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))


def cut(path: Path, size: int) -> None:
    """Keep the first `size` bytes, or all but the last -`size`."""
    path.write_bytes(path.read_bytes()[:size])


def rename_tensors(path: Path, old: str, new: str) -> None:
    """Rename tensors of a safetensors file; the names must be of one length."""
    assert len(old) == len(new)
    path.write_bytes(path.read_bytes().replace(old.encode(), new.encode()))


def change_tensors(path: Path, change: Callable[[dict], object]) -> None:
    """Load a safetensors file, change the mapping, save it."""
    from safetensors.torch import load_file, save_file

    data = load_file(path)
    change(data)
    save_file(data, path, {"format": "pt"})


def no_b(data: dict) -> None:
    for name in data:
        if "lora_B" in name:
            data[name] = data[name] * 0


CONFIG, MODEL, TOKENIZER = "config.json", "model.safetensors", "tokenizer.model"

# What is done to a copy of the base → a part of the sentence.
BASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, "base model not found"),
    "no config": (lambda base: (base / CONFIG).unlink(), "holds no config.json"),
    "config is no JSON": (lambda base: (base / CONFIG).write_text("{"), "config.json is not JSON"),
    "config is a list": (lambda base: (base / CONFIG).write_text("[]"), "not a JSON object"),
    "config is no text": (lambda base: (base / CONFIG).write_bytes(b"\xff\xfe{"), "not UTF-8"),
    "another architecture": (
        lambda base: edit(base / CONFIG, architectures=["MixtralForCausalLM"]),
        "MixtralForCausalLM",
    ),
    "no architecture": (lambda base: edit(base / CONFIG, architectures=None, model_type=None), "only LlamaForCausalLM"),
    "no layers": (lambda base: edit(base / CONFIG, num_hidden_layers=None), "no usable num_hidden_layers"),
    "a text for a number": (lambda base: edit(base / CONFIG, hidden_size="64"), "no usable hidden_size"),
    "odd heads": (lambda base: edit(base / CONFIG, num_key_value_heads=3), "inconsistent config.json"),
    "another activation": (lambda base: edit(base / CONFIG, hidden_act="gelu"), "hidden_act is gelu"),
    "yarn": (
        lambda base: edit(base / CONFIG, rope_parameters={"rope_type": "yarn", "factor": 4.0}),
        "of the type yarn",
    ),
    "a factor in words": (
        lambda base: edit(base / CONFIG, rope_parameters={"rope_type": "llama3", "factor": "eight"}),
        "no usable factor",
    ),
    "scaling without a factor": (
        lambda base: edit(base / CONFIG, rope_parameters={"rope_type": "linear"}),
        "no usable factor",
    ),
    "quantized": (lambda base: edit(base / CONFIG, quantization_config={"quant_method": "gptq"}), "(gptq)"),
    "another width": (lambda base: edit(base / CONFIG, hidden_size=32, head_dim=16), "config.json makes it"),
    "more layers": (lambda base: edit(base / CONFIG, num_hidden_layers=3), "lacks the tensor model.layers.2"),
    "no weights": (lambda base: (base / MODEL).unlink(), "holds no weights"),
    "truncated": (lambda base: cut(base / MODEL, -100), "truncated safetensors"),
    "cut in the header": (lambda base: cut(base / MODEL, 100), "truncated safetensors"),
    "empty weights": (lambda base: cut(base / MODEL, 0), "damaged safetensors"),
    "a page of the web": (lambda base: (base / MODEL).write_text("<html>" * 9), "damaged safetensors"),
    "another tensor": (
        lambda base: rename_tensors(base / MODEL, "layers.0.mlp.up_proj", "layers.0.mlp.xx_proj"),
        "lacks the tensor model.layers.0.mlp.up_proj",
    ),
    "8-bit leftovers": (
        lambda base: change_tensors(
            base / MODEL, lambda data: data.update({"model.SCB": data["model.norm.weight"] + 1})
        ),
        "loaded in 8 bits (bitsandbytes)",
    ),
    "integers": (
        lambda base: change_tensors(base / MODEL, lambda data: data.update({"q": data["lm_head.weight"].int()})),
        "I32",
    ),
    "unmerged LoRA": (
        lambda base: change_tensors(
            base / MODEL, lambda data: data.update({"a.lora_A.weight": data["model.norm.weight"].clone()})
        ),
        "unmerged LoRA",
    ),
    "a lost shard": (
        lambda base: (
            (base / MODEL).rename(base / "model-00001-of-00002.safetensors"),
            (base / f"{MODEL}.index.json").write_text(
                json.dumps(
                    {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
                )
            ),
        ),
        "model-00002-of-00002.safetensors",
    ),
    "a lost tensor": (
        lambda base: (base / f"{MODEL}.index.json").write_text(json.dumps({"weight_map": {"lost": MODEL}})),
        "lacks lost",
    ),
    "an index that reaches outside": (
        lambda base: (base / f"{MODEL}.index.json").write_text(json.dumps({"weight_map": {"a": "../x.safetensors"}})),
        "outside its folder",
    ),
    "a broken index": (lambda base: (base / f"{MODEL}.index.json").write_text("{}"), "without a weight_map"),
    "no tokenizer": (lambda base: (base / TOKENIZER).unlink(), "holds no tokenizer"),
    "no scores": (
        lambda base: (
            (base / TOKENIZER).unlink(),
            (base / "tokenizer.json").write_text(
                json.dumps({"model": {"type": "BPE", "byte_fallback": True, "vocab": {}, "merges": []}})
            ),
        ),
        "lacks tokenizer.model",
    ),
    "a tokenizer of another model": (
        lambda base: (
            (base / CONFIG).write_text((base / CONFIG).read_text().replace("480", "400"))
            and change_tensors(
                base / MODEL,
                lambda data: data.update(
                    {name: data[name][:400].clone() for name in data if data[name].shape[0] == 480}
                ),
            )
        ),
        "480 tokens, but the model only 400",
    ),
    "a damaged tokenizer": (lambda base: cut(base / TOKENIZER, 1000), "not a SentencePiece model"),
    "a tokenizer of text": (lambda base: (base / TOKENIZER).write_text("IQ== 0\n" * 9), "not a SentencePiece model"),
    "a token twice": (
        lambda base: (base / "added_tokens.json").write_text(json.dumps({"</s>": 479})),
        "'</s>' twice",
    ),
    "odd added tokens": (
        lambda base: (base / "tokenizer_config.json").write_text('{"added_tokens_decoder": {"x": 1}}'),
        "tokenizer files",
    ),
}


@pytest.mark.parametrize("case", BASES)
def test_bases(case: str, bases: Callable[[str], Path], tmp_path: Path) -> None:
    change, expected = BASES[case]
    base = tmp_path / "base"
    shutil.copytree(bases("spm-gqa-64"), base)
    change(base)
    with pytest.raises(StellarError) as caught:
        export(base, out=tmp_path / "out", levels=[LEVELS["F16"]])
    assert expected in caught.value.message
    assert not (tmp_path / "out").exists()


def test_an_adapter_for_a_base_and_the_reverse(bases: Callable[[str], Path], adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(StellarError, match="is a LoRA adapter, not a base"):
        export(adapter, out=tmp_path / "out", levels=[LEVELS["F16"]])
    with pytest.raises(StellarError, match="is a whole model, not an adapter"):
        export(bases("spm-gqa-64"), [(bases("spm-gqa-64"), 1.0)], tmp_path / "out", [LEVELS["F16"]])
    with pytest.raises(StellarError, match="is not a folder") as caught:
        export(bases("spm-gqa-64") / CONFIG, out=tmp_path / "out", levels=[LEVELS["F16"]])
    assert caught.value.exit_code is ExitCode.USAGE


PRE = {"pre_tokenizer": {"type": "Whitespace"}}

BPE: dict[str, tuple[Callable[[Path], object], str]] = {
    "an unknown cut": (lambda base: edit(base / "tokenizer.json", **PRE), "does not know"),
    "a normalizer": (lambda base: edit(base / "tokenizer.json", normalizer={"type": "Lowercase"}), "rewrites text"),
    "a word-piece model": (lambda base: edit(base / "tokenizer.json", model={"type": "WordPiece"}), "not a BPE"),
    "no JSON": (lambda base: cut(base / "tokenizer.json", 500), "tokenizer.json is not JSON"),
    "added tokens without text": (
        lambda base: edit(base / "tokenizer.json", added_tokens=[{"id": 3}]),
        "tokenizer files",
    ),
    "a begin token without a name": (
        lambda base: (
            edit(base / "tokenizer_config.json", bos_token=None),
            edit(base / CONFIG, bos_token_id=None),
        ),
        "does not name",
    ),
}


@pytest.mark.parametrize("case", BPE)
def test_byte_level_tokenizers(case: str, bases: Callable[[str], Path], tmp_path: Path) -> None:
    change, expected = BPE[case]
    base = tmp_path / "base"
    shutil.copytree(bases("bpe-tied-576"), base)
    change(base)
    with pytest.raises(StellarError) as caught:
        export(base, out=tmp_path / "out", levels=[LEVELS["F16"]])
    assert expected in caught.value.message


ADAPTER_CONFIG, ADAPTER = "adapter_config.json", "adapter_model.safetensors"
FIRST = "base_model.model.model.layers.0.self_attn.q_proj"

ADAPTERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, "adapter not found"),
    "no config": (lambda lora: (lora / ADAPTER_CONFIG).unlink(), "holds no adapter_config.json"),
    "no weights": (lambda lora: (lora / ADAPTER).unlink(), "holds no adapter_model.safetensors"),
    "truncated": (lambda lora: cut(lora / ADAPTER, -10), "truncated safetensors"),
    "another kind": (lambda lora: edit(lora / ADAPTER_CONFIG, peft_type="IA3"), "is a IA3 adapter"),
    "no rank": (lambda lora: edit(lora / ADAPTER_CONFIG, r=None), "no usable r"),
    "another rank": (lambda lora: edit(lora / ADAPTER_CONFIG, r=8), "which is not rank 8"),
    "DoRA": (lambda lora: edit(lora / ADAPTER_CONFIG, use_dora=True), "is a DoRA adapter"),
    "transposed": (lambda lora: edit(lora / ADAPTER_CONFIG, fan_in_fan_out=True), "fan_in_fan_out"),
    "whole modules": (lambda lora: edit(lora / ADAPTER_CONFIG, modules_to_save=["lm_head"]), "modules_to_save"),
    "biases": (lambda lora: edit(lora / ADAPTER_CONFIG, bias="all"), "bias: all"),
    "ranks of their own": (lambda lora: edit(lora / ADAPTER_CONFIG, rank_pattern={"q_proj": 2}), "rank_pattern"),
    "PiSSA": (lambda lora: edit(lora / ADAPTER_CONFIG, init_lora_weights="pissa"), "started with pissa"),
    "a new field": (lambda lora: edit(lora / ADAPTER_CONFIG, use_novel_trick=True), "uses use_novel_trick"),
    "empty": (lambda lora: change_tensors(lora / ADAPTER, dict.clear), "is empty"),
    "untrained": (lambda lora: change_tensors(lora / ADAPTER, no_b), "every lora_B is zero"),
    "half a pair": (
        lambda lora: change_tensors(lora / ADAPTER, lambda data: data.pop(f"{FIRST}.lora_A.weight")),
        "lacks lora_A of model.layers.0.self_attn.q_proj",
    ),
    "an unknown module": (
        lambda lora: rename_tensors(lora / ADAPTER, "layers.0.self_attn.q_proj", "layers.7.self_attn.q_proj"),
        "model.layers.7.self_attn.q_proj.weight, which the base does not have",
    ),
    "a magnitude": (
        lambda lora: change_tensors(
            lora / ADAPTER,
            lambda data: data.update({f"{FIRST}.lora_magnitude_vector": data[f"{FIRST}.lora_B.weight"].clone()}),
        ),
        "is a DoRA adapter",
    ),
    "an embedding": (
        lambda lora: change_tensors(
            lora / ADAPTER,
            lambda data: data.update(
                {"base_model.model.model.embed_tokens.lora_embedding_A": data[f"{FIRST}.lora_A.weight"].clone()}
            ),
        ),
        "trained the embeddings",
    ),
    "a whole weight": (
        lambda lora: change_tensors(
            lora / ADAPTER,
            lambda data: data.update({"base_model.model.lm_head.weight": data[f"{FIRST}.lora_A.weight"].clone()}),
        ),
        "holds a whole module",
    ),
    "another base's copy": (
        lambda lora: change_tensors(
            lora / ADAPTER,
            lambda data: data.update({f"{FIRST}.base_layer.weight": data[f"{FIRST}.lora_A.weight"].clone()}),
        ),
        "brings a model.layers.0.self_attn.q_proj.weight of its own",
    ),
    "no numbers": (
        lambda lora: change_tensors(lora / ADAPTER, lambda data: data[f"{FIRST}.lora_A.weight"][0].fill_(float("nan"))),
        "NaN",
    ),
}


@pytest.mark.parametrize("case", ADAPTERS)
def test_adapters(case: str, bases: Callable[[str], Path], adapter: Path, tmp_path: Path) -> None:
    change, expected = ADAPTERS[case]
    lora = tmp_path / "lora"
    shutil.copytree(adapter, lora)
    change(lora)
    with pytest.raises(StellarError) as caught:
        export(bases("spm-gqa-64"), [(lora, 1.0)], tmp_path / "out", [LEVELS["F16"]])
    assert expected in caught.value.message
    assert not (tmp_path / "out").exists()


def test_an_adapter_of_another_base(bases: Callable[[str], Path], adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(StellarError) as caught:
        export(bases("spm-mha-256-deep"), [(adapter, 1.0)], tmp_path / "out", [LEVELS["F16"]])
    assert "was made for another base" in caught.value.message
    assert "k_proj.weight as [32, 64], which is [256, 256] here" in caught.value.message


def test_lora_on_a_shared_output(bases: Callable[[str], Path], tmp_path: Path) -> None:
    from tiny import write_adapter

    lora = write_adapter(bases("bpe-tied-576"), tmp_path / "lora", target_modules=["q_proj", "lm_head"])
    with pytest.raises(StellarError, match="shares with its embeddings"):
        export(bases("bpe-tied-576"), [(lora, 1.0)], tmp_path / "out", [LEVELS["F16"]])


def test_adapters_that_disagree_on_the_template(bases: Callable[[str], Path], adapter: Path, tmp_path: Path) -> None:
    from stellar_local.prompts import load_template

    for name in ("bayling", "alpaca"):
        shutil.copytree(adapter, tmp_path / name)
        (tmp_path / name / "template.json").write_text(load_template(name).source, encoding="utf-8")
    both = [(tmp_path / "bayling", 0.5), (tmp_path / "alpaca", 0.5)]
    with pytest.raises(StellarError, match="different templates"):
        export(bases("spm-gqa-64"), both, tmp_path / "out", [LEVELS["F16"]])


def test_choices_that_make_no_sense(bases: Callable[[str], Path], tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "other").touch()
    for arguments, expected in (
        ({}, "nothing to write"),
        ({"out": tmp_path / "out", "name": "a/b"}, "not usable in a file name"),
        ({"out": tmp_path / "out", "template": "no-such"}, "unknown template"),
        ({"hf": full}, "exists already"),
        ({"hf": tmp_path / "hf", "hf_dtype": "int8"}, "unknown dtype"),
        ({"out": full / "other"}, "not a directory"),
    ):
        with pytest.raises(StellarError) as caught:
            export(bases("spm-gqa-64"), levels=[LEVELS["F16"]], **arguments)
        assert expected in caught.value.message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]


def test_a_pickle_that_is_no_checkpoint(bases: Callable[[str], Path], tmp_path: Path) -> None:
    import pickle

    class Evil:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "owned",))

    base = tmp_path / "base"
    shutil.copytree(bases("spm-gqa-64"), base)
    (base / MODEL).unlink()
    (base / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Evil()}))
    with pytest.raises(StellarError, match="cannot read the PyTorch file"):
        Checkpoint.open(base)
    assert not (tmp_path / "owned").exists()


def test_a_pickled_checkpoint_without_torch(
    bases: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "base"
    shutil.copytree(bases("spm-gqa-64"), base)
    (base / MODEL).rename(base / "pytorch_model.bin")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError) as caught:
        Checkpoint.open(base)
    assert caught.value.hint == "pip install 'stellar-local[train]'"


def patched(data: bytes, key: str, old: bytes, new: bytes) -> bytes:
    """The GGUF with one value replaced: `old`, which follows `key`, becomes `new` of the same length."""
    at = data.index(key.encode())
    return data[:at] + data[at:].replace(old, new, 1)


GGUFS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "another file": (lambda data: b"PK" + data[2:], "not a GGUF file"),
    "empty": (lambda data: b"", "not a GGUF file"),
    "cut in the magic": (lambda data: data[:6], "truncated GGUF file"),
    "cut in the header": (lambda data: data[:3000], "truncated GGUF file"),
    "cut in the data": (lambda data: data[:-1000], "truncated GGUF file"),
    "an old version": (lambda data: data[:4] + struct.pack("<I", 1) + data[8:], "version 1"),
    "another architecture": (
        lambda data: patched(data, "general.architecture", b"llama", b"gemma"),
        "of the architecture gemma",
    ),
    "another tokenizer": (
        lambda data: patched(data, "tokenizer.ggml.model", b"llama", b"other"),
        "tokenizer of the kind other",
    ),
    "no width": (lambda data: data.replace(b"llama.embedding_length", b"llama.embedding_xxxxxx"), "embedding_length"),
    "another tensor": (
        lambda data: data.replace(b"blk.1.ffn_up.weight", b"blk.1.ffn_xx.weight"),
        "blk.1.ffn_up.weight",
    ),
    "other layers": (
        lambda data: patched(data, "llama.block_count", struct.pack("<I", 2), struct.pack("<I", 1)),
        "states 1 layers and holds 2",
    ),
    "an unknown type": (
        lambda data: patched(data, "blk.1.ffn_up.weight", struct.pack("<QI", 96, 1), struct.pack("<QI", 96, 99)),
        "does not know",
    ),
}


@pytest.mark.parametrize("case", GGUFS)
def test_ggufs(case: str, bases: Callable[[str], Path], tmp_path: Path) -> None:
    change, expected = GGUFS[case]
    export(bases("spm-gqa-64"), out=tmp_path, levels=[LEVELS["F16"]], name="m")
    original = (tmp_path / "m-F16.gguf").read_bytes()
    damaged = change(original)
    assert damaged != original
    (tmp_path / "bad.gguf").write_bytes(damaged)
    with pytest.raises(StellarError) as caught:
        import_gguf(tmp_path / "bad.gguf", tmp_path / "hf")
    assert expected in caught.value.message
    assert not list(tmp_path.glob("hf*"))


def test_where_an_import_goes(bases: Callable[[str], Path], tmp_path: Path) -> None:
    export(bases("spm-gqa-64"), out=tmp_path, levels=[LEVELS["F16"]], name="m")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/thing").touch()
    for out, dtype, expected in (
        ("taken", "float32", "exists already"),
        ("m-F16.gguf", "float32", "exists already"),
        ("hf", "int4", "unknown dtype"),
    ):
        with pytest.raises(StellarError, match=expected):
            import_gguf(tmp_path / "m-F16.gguf", tmp_path / out, dtype)
    with pytest.raises(StellarError, match="not found"):
        import_gguf(tmp_path / "none.gguf", tmp_path / "hf")
    (tmp_path / "empty").mkdir()
    import_gguf(tmp_path / "m-F16.gguf", tmp_path / "empty")
    assert (tmp_path / "empty/config.json").is_file()
