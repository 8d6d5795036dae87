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


LONG = int("9" * 400)  # whole numbers of JSON may be longer than any float
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


ADAPTER_CONFIG, ADAPTER = "adapter_config.json", "adapter_model.safetensors"
FIRST = "base_model.model.model.layers.0.self_attn.q_proj"
EMBED = "base_model.model.model.embed_tokens"


def add(data: dict, name: str, *shape: int) -> None:
    """Add a tensor of ones."""
    import torch

    data[name] = torch.ones(shape)


ADAPTERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, "adapter not found"),
    "no config": (lambda lora: (lora / ADAPTER_CONFIG).unlink(), "holds no adapter_config.json"),
    "no weights": (lambda lora: (lora / ADAPTER).unlink(), "holds no adapter_model.safetensors"),
    "truncated": (lambda lora: cut(lora / ADAPTER, -10), "truncated safetensors"),
    "another kind": (lambda lora: edit(lora / ADAPTER_CONFIG, peft_type="IA3"), "is a IA3 adapter"),
    "no rank": (lambda lora: edit(lora / ADAPTER_CONFIG, r=None), "no usable r"),
    "another rank": (lambda lora: edit(lora / ADAPTER_CONFIG, r=8), "which is not rank 8"),
    "DoRA without magnitudes": (lambda lora: edit(lora / ADAPTER_CONFIG, use_dora=True), "without DoRA's magnitude"),
    "lost modules": (
        lambda lora: edit(lora / ADAPTER_CONFIG, modules_to_save=["lm_head"]),
        "its modules_to_save do not agree about lm_head",
    ),
    "lost tokens": (
        lambda lora: edit(lora / ADAPTER_CONFIG, trainable_token_indices=[3]),
        "its trainable_token_indices do not agree about model.embed_tokens",
    ),
    "a lost module": (
        lambda lora: change_tensors(
            lora / ADAPTER, lambda data: [data.pop(name) for name in list(data) if name.startswith(FIRST)]
        ),
        "its target_modules do not agree about model.layers.0.self_attn.q_proj",
    ),
    "an odd bias": (lambda lora: edit(lora / ADAPTER_CONFIG, bias="some"), "unknown kind of bias: 'some'"),
    "ranks of their own": (
        lambda lora: edit(lora / ADAPTER_CONFIG, rank_pattern={"q_proj": 2}),
        "q_proj has A [4, 64] and B [64, 4], which is not rank 2",
    ),
    "a rank of nothing": (
        lambda lora: edit(lora / ADAPTER_CONFIG, rank_pattern={"q_proj": 0}),
        "no usable rank_pattern",
    ),
    "no pattern": (lambda lora: edit(lora / ADAPTER_CONFIG, alpha_pattern={"(": 2}), "no usable alpha_pattern: '('"),
    **{
        f"the pattern {key[:12]}": (
            lambda lora, key=key: edit(lora / ADAPTER_CONFIG, alpha_pattern={key: 2}),
            f"no usable alpha_pattern: {key!r}"[:60],
        )
        # The first is a regular expression, but not where PEFT builds it in; the others are more than Python can build.
        for key in ("(?i)Q_proj", "q{99999999999999}", "(" * 5000 + ")" * 5000)
    },
    "a long rank": (lambda lora: edit(lora / ADAPTER_CONFIG, r=LONG), "no usable r: 999"),
    "a long alpha": (lambda lora: edit(lora / ADAPTER_CONFIG, lora_alpha=LONG), "no usable lora_alpha: 999"),
    "a large alpha": (lambda lora: edit(lora / ADAPTER_CONFIG, lora_alpha=1e300), "no usable lora_alpha: 1e+300"),
    "a long alpha of its own": (
        lambda lora: edit(lora / ADAPTER_CONFIG, alpha_pattern={"q_proj": LONG}),
        "no usable alpha_pattern: 999",
    ),
    "a long token": (
        lambda lora: edit(lora / ADAPTER_CONFIG, trainable_token_indices=[LONG]),
        "do not agree about model.embed_tokens",
    ),
    "an endless alpha": (
        lambda lora: edit(lora / ADAPTER_CONFIG, alpha_pattern={"q": float("inf")}),
        "no usable alpha_pattern",
    ),
    "a list of patterns": (lambda lora: edit(lora / ADAPTER_CONFIG, rank_pattern=[2]), "no usable rank_pattern"),
    "modules as text": (
        lambda lora: edit(lora / ADAPTER_CONFIG, modules_to_save="lm_head"),
        "no usable modules_to_save",
    ),
    "odd tokens": (
        lambda lora: edit(lora / ADAPTER_CONFIG, trainable_token_indices=[-1]),
        "no usable trainable_token_indices",
    ),
    "a token twice": (lambda lora: edit(lora / ADAPTER_CONFIG, trainable_token_indices=[3, 3]), "a token twice"),
    "Activated LoRA": (
        lambda lora: edit(lora / ADAPTER_CONFIG, alora_invocation_tokens=[5]),
        "works on a part of the text only (alora_invocation_tokens)",
    ),
    "QALoRA": (lambda lora: edit(lora / ADAPTER_CONFIG, use_qalora=True), "is a QALoRA adapter"),
    "repeated layers": (lambda lora: edit(lora / ADAPTER_CONFIG, layer_replication=[[0, 2]]), "repeats layers"),
    "parameters": (lambda lora: edit(lora / ADAPTER_CONFIG, target_parameters=["a"]), "targets parameters"),
    "Arrow": (lambda lora: edit(lora / ADAPTER_CONFIG, arrow_config={"top_k": 2}), "chooses among adapters"),
    "KaSA": (lambda lora: edit(lora / ADAPTER_CONFIG, kasa_config={"beta": 1e-4}), "uses kasa_config"),
    "VeLoRA": (lambda lora: edit(lora / ADAPTER_CONFIG, velora_config={"rank": 2}), "uses velora_config"),
    "MonteCLoRA": (lambda lora: edit(lora / ADAPTER_CONFIG, monteclora_config={"a": 1}), "uses monteclora_config"),
    "a flag in words": (
        lambda lora: edit(lora / ADAPTER_CONFIG, use_rslora="false"),
        "no usable use_rslora",
    ),
    "BD-LoRA": (lambda lora: edit(lora / ADAPTER_CONFIG, use_bdlora={"nblocks": 2}), "uses use_bdlora"),
    **{
        start: (
            lambda lora, start=start: edit(lora / ADAPTER_CONFIG, init_lora_weights=start),
            f"was started with {start}, which changes the base itself",
        )
        for start in ("pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga", "a novel start")
    },
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
        lambda lora: change_tensors(lora / ADAPTER, lambda data: add(data, f"{FIRST}.lora_magnitude_vector", 64)),
        "without DoRA's magnitude",
    ),
    "magnitudes of nowhere": (
        lambda lora: change_tensors(
            lora / ADAPTER,
            lambda data: [
                add(data, name.replace("lora_A.weight", "lora_magnitude_vector"), 64)
                for name in list(data)
                if "lora_A" in name
            ],
        ),
        "does not say use_dora",
    ),
    "half an embedding": (
        lambda lora: change_tensors(lora / ADAPTER, lambda data: add(data, f"{EMBED}.lora_embedding_A", 4, 480)),
        "lacks lora_embedding_B of model.embed_tokens",
    ),
    "LoRA of a linear layer on embeddings": (
        lambda lora: change_tensors(lora / ADAPTER, lambda data: add(data, f"{EMBED}.lora_A.weight", 4, 480)),
        "a kind of LoRA that does not fit there",
    ),
    "LoRA on more tokens": (
        lambda lora: change_tensors(
            lora / ADAPTER,
            lambda data: (
                add(data, "base_model.model.lm_head.lora_A.weight", 4, 64),
                add(data, "base_model.model.lm_head.lora_B.weight", 490, 4),
            ),
        ),
        "it changes lm_head.weight as [490, 64], which is [480, 64] here",
    ),
    "embeddings of another size": (
        lambda lora: change_tensors(lora / ADAPTER, lambda data: add(data, f"{EMBED}.weight", 470, 64)),
        "it changes model.embed_tokens.weight as [470, 64], which is [480, 64] here",
    ),
    "more embeddings than outputs": (
        lambda lora: change_tensors(lora / ADAPTER, lambda data: add(data, f"{EMBED}.weight", 490, 64)),
        "has 490 tokens in embed_tokens and 480 in lm_head",
    ),
    "another norm": (
        lambda lora: change_tensors(lora / ADAPTER, lambda data: add(data, "base_model.model.model.norm.weight", 65)),
        "changes model.norm.weight as [65], which is [64] here",
    ),
    "LoRA on a norm": (
        lambda lora: change_tensors(
            lora / ADAPTER,
            lambda data: (
                add(data, "base_model.model.model.norm.lora_A.weight", 4, 64),
                add(data, "base_model.model.model.norm.lora_B.weight", 64, 4),
            ),
        ),
        "changes model.norm.weight as [64, 64], which is [64] here",
    ),
    "tokens without indices": (
        lambda lora: change_tensors(
            lora / ADAPTER, lambda data: add(data, f"{EMBED}.token_adapter.trainable_tokens_delta", 2, 64)
        ),
        "trained tokens of model.embed_tokens, but adapter_config.json does not say which",
    ),
    "tokens beyond the last": (
        lambda lora: (
            edit(lora / ADAPTER_CONFIG, trainable_token_indices=[3, 480]),
            change_tensors(
                lora / ADAPTER, lambda data: add(data, f"{EMBED}.token_adapter.trainable_tokens_delta", 2, 64)
            ),
        ),
        "trained token 480, but the base has 480 of them",
    ),
    "other tokens than named": (
        lambda lora: (
            edit(lora / ADAPTER_CONFIG, trainable_token_indices=[3, 4, 5]),
            change_tensors(
                lora / ADAPTER, lambda data: add(data, f"{EMBED}.token_adapter.trainable_tokens_delta", 2, 64)
            ),
        ),
        "it changes model.embed_tokens.weight as [2, 64], which is [3, 64] here",
    ),
    "tokens of whole embeddings": (
        lambda lora: (
            edit(lora / ADAPTER_CONFIG, trainable_token_indices=[3, 4]),
            change_tensors(
                lora / ADAPTER,
                lambda data: (
                    add(data, f"{EMBED}.token_adapter.trainable_tokens_delta", 2, 64),
                    add(data, f"{EMBED}.weight", 480, 64),
                ),
            ),
        ),
        "in ways that do not go together",
    ),
    "a bias": (
        lambda lora: change_tensors(lora / ADAPTER, lambda data: add(data, f"{FIRST}.base_layer.bias", 64)),
        "trained model.layers.0.self_attn.q_proj.bias, but this base has no biases",
    ),
    "a LoRA bias": (
        lambda lora: change_tensors(lora / ADAPTER, lambda data: add(data, f"{FIRST}.lora_B.bias", 64)),
        "trained model.layers.0.self_attn.q_proj.bias, but this base has no biases",
    ),
    "a LoRA bias alone": (
        lambda lora: change_tensors(
            lora / ADAPTER, lambda data: add(data, "base_model.model.lm_head.lora_B.bias", 480)
        ),
        "in ways that do not go together",
    ),
    "a diagonal": (
        lambda lora: change_tensors(lora / ADAPTER, lambda data: add(data, f"{FIRST}.lora_diag", 4)),
        "has a kind of LoRA weight that is not known here (" + FIRST,
    ),
    "an optimizer's state": (
        lambda lora: change_tensors(lora / ADAPTER, lambda data: add(data, "exp_avg.weight", 4)),
        "holds what PEFT does not save (exp_avg.weight)",
    ),
    "a classifier": (
        lambda lora: change_tensors(lora / ADAPTER, lambda data: add(data, "base_model.model.score.weight", 2, 64)),
        "changes score.weight, which the base does not have",
    ),
    "two values": (
        lambda lora: change_tensors(
            lora / ADAPTER,
            lambda data: (
                add(data, f"{FIRST}.lora_A.default.weight", 4, 64),
                data[f"{FIRST}.lora_A.default.weight"].mul_(2),
            ),
        ),
        "twice, with different values",
    ),
    "not gathered": (
        lambda lora: change_tensors(
            lora / ADAPTER, lambda data: data.update({f"{FIRST}.lora_A.weight": data[f"{FIRST}.lora_A.weight"][:0]})
        ),
        "without its values, as DeepSpeed ZeRO-3 saves it",
    ),
    "LoRA lost beside a module": (
        lambda lora: change_tensors(
            lora / ADAPTER, lambda data: (data.clear(), add(data, "base_model.model.model.norm.weight", 64))
        ),
        "is empty of LoRA",
    ),
    "another base's copy": (
        lambda lora: change_tensors(
            lora / ADAPTER,
            lambda data: add(data, f"{FIRST}.base_layer.weight", 64, 64),
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


def test_an_empty_pickled_adapter(bases: Callable[[str], Path], adapter: Path, tmp_path: Path) -> None:
    """What alpaca-lora's finetune.py writes with a newer PEFT: torch.save of a state dict that lost everything."""
    import torch

    lora = tmp_path / "lora"
    lora.mkdir()
    shutil.copy(adapter / ADAPTER_CONFIG, lora)
    torch.save({}, lora / "adapter_model.bin")
    with pytest.raises(StellarError, match="is empty: it changes no weight") as caught:
        export(bases("spm-gqa-64"), [(lora, 1.0)], tmp_path / "out", [LEVELS["F16"]])
    assert "alpaca-lora" in caught.value.hint


def test_an_adapter_that_only_repeats_its_base(bases: Callable[[str], Path], tmp_path: Path) -> None:
    """Every lora_B is zero, and the module trained whole is still the base's: nothing was trained."""
    from safetensors.torch import load_file
    from tiny import write_adapter

    base = bases("spm-gqa-64")
    lora = write_adapter(base, tmp_path / "lora", modules_to_save=["lm_head"])
    change_tensors(lora / ADAPTER, no_b)
    export(base, [(lora, 1.0)], tmp_path / "trained", [LEVELS["F16"]])
    output = load_file(base / MODEL)["lm_head.weight"]
    change_tensors(lora / ADAPTER, lambda data: data.update({"base_model.model.lm_head.weight": output.clone()}))
    with pytest.raises(StellarError, match="changes nothing"):
        export(base, [(lora, 1.0)], tmp_path / "out", [LEVELS["F16"]])


def test_adapters_that_do_not_go_together(bases: Callable[[str], Path], tmp_path: Path) -> None:
    from tiny import write_adapter

    base, whole = bases("spm-gqa-64"), ["embed_tokens", "lm_head"]
    sizes = [
        write_adapter(base, tmp_path / f"{count}", seed=count, resize=count, modules_to_save=whole)
        for count in (490, 500)
    ]
    with pytest.raises(StellarError, match="resize the vocabulary differently: .* to 490 and .* to 500 tokens"):
        export(base, [(folder, 0.5) for folder in sizes], tmp_path / "out", [LEVELS["F16"]])
    with pytest.raises(StellarError, match="several of these adapters add tokens"):
        export(base, [(sizes[0], 1.0), (sizes[0], -1.0)], tmp_path / "out", [LEVELS["F16"]])
    assert not (tmp_path / "out").exists()


def test_shared_outputs_that_cannot_be_known(bases: Callable[[str], Path], tmp_path: Path) -> None:
    from tiny import write_adapter

    base = bases("bpe-tied-576")
    tying = write_adapter(base, tmp_path / "a", target_modules=["q_proj", "lm_head"], ensure_weight_tying=True)
    change_tensors(
        tying / ADAPTER, lambda data: [data.pop(name) for name in list(data) if name.startswith("base_model.model.lm")]
    )
    tokens = write_adapter(base, tmp_path / "b", trainable_token_indices=[3])
    change_tensors(tokens / ADAPTER, lambda data: add(data, "base_model.model.lm_head.weight", 485, 576))
    grown = write_adapter(base, tmp_path / "c", resize=490, modules_to_save=["embed_tokens"])
    change_tensors(
        grown / ADAPTER,
        lambda data: [data.pop(name) for name in list(data) if "lora_" not in name and name != f"{EMBED}.weight"],
    )
    for lora, expected in ((tying, "lacks lm_head's half"), (tokens, "cannot be told"), (grown, "has 490 tokens in")):
        with pytest.raises(StellarError, match=expected):
            export(base, [(lora, 1.0)], tmp_path / "out", [LEVELS["F16"]])


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
