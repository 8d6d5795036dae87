"""Bad input: each case gives one sentence of ours before llama.cpp or ggml sees anything, and leaves no file."""

from __future__ import annotations

import json
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from damage import LONG, change_tensors, cut, edit, rename_tensors
from exporting import export

from convert.checkpoint import Checkpoint
from convert.gguf_import import import_gguf
from convert.levels import LEVELS
from stellar_local.errors import ExitCode, MissingExtraError, StellarError

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
    "a number for an architecture": (lambda base: edit(base / CONFIG, architectures=5), "architecture is 5; only"),
    "a text for architectures": (
        lambda base: edit(base / CONFIG, architectures="MixtralForCausalLM"),
        "architecture is MixtralForCausalLM; only",
    ),
    "no architecture": (lambda base: edit(base / CONFIG, architectures=None, model_type=None), "only LlamaForCausalLM"),
    "no layers": (lambda base: edit(base / CONFIG, num_hidden_layers=None), "no usable num_hidden_layers"),
    "a text for a number": (lambda base: edit(base / CONFIG, hidden_size="64"), "no usable hidden_size"),
    **{
        f"{key}: {str(value)[:12]}": (
            lambda base, key=key, value=value: edit(base / CONFIG, **{key: value}),
            f"config.json has no usable {key}: {str(value)[:12]}",
        )
        for key, value in (
            ("rms_norm_eps", LONG),
            ("rms_norm_eps", float("inf")),
            ("rms_norm_eps", float("nan")),
            ("rms_norm_eps", 1e300),
            ("rope_theta", float("inf")),
            ("max_position_embeddings", 1 << 32),
            ("vocab_size", LONG),
            ("num_hidden_layers", 10**12),
            ("num_hidden_layers", 10**9),
            ("head_dim", 1 << 32),
        )
    },
    **{
        f"a scaling of {value} positions": (
            lambda base, value=value: edit(
                base / CONFIG, rope_parameters={"rope_type": "llama3", "original_max_position_embeddings": value}
            ),
            f"rope_scaling of config.json has no usable original_max_position_embeddings: {value}",
        )
        for value in (float("inf"), float("nan"))
    },
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
    "half a character for a token": (
        lambda base: (base / "added_tokens.json").write_text('{"\\ud800": 479}'),
        "added_tokens.json holds half a character (a lone surrogate)",
    ),
    "half a character in a chat template": (
        lambda base: (base / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}\\uDFFF"}'),
        "tokenizer_config.json holds half a character (a lone surrogate)",
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


def edit_vocabulary(base: Path, **tokens: object) -> None:
    """Change a byte-level tokenizer's vocabulary: given tokens get other ids; none given, all are gone."""
    vocabulary = json.loads((base / "tokenizer.json").read_text())["model"]["vocab"]
    edit_model(base, vocab={**vocabulary, **tokens} if tokens else {})


def edit_model(base: Path, **changes: object) -> None:
    """Change parts of a tokenizer.json's model."""
    model = json.loads((base / "tokenizer.json").read_text())["model"]
    edit(base / "tokenizer.json", model={**model, **changes})


BPE: dict[str, tuple[Callable[[Path], object], str]] = {
    "an unknown cut": (lambda base: edit(base / "tokenizer.json", **PRE), "does not know"),
    "a normalizer": (lambda base: edit(base / "tokenizer.json", normalizer={"type": "Lowercase"}), "rewrites text"),
    "two tokens of one id": (lambda base: edit_vocabulary(base, a=5, b=5), "one id to two tokens"),
    "a merge of one part": (
        lambda base: edit_model(base, merges=["Ġt h", "alone"]),
        "no usable merges",
    ),
    "no tokens": (edit_vocabulary, "holds no tokens"),
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
