"""Bad adapters: each case gives one sentence that names what is wrong, and leaves no file."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from damage import LONG, change_tensors, cut, edit, rename_tensors
from exporting import export

from convert.levels import LEVELS
from stellar_local.errors import StellarError

ADAPTER_CONFIG, ADAPTER = "adapter_config.json", "adapter_model.safetensors"
MODEL = "model.safetensors"


def no_b(data: dict) -> None:
    for name in data:
        if "lora_B" in name:
            data[name] = data[name] * 0


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
