"""An adapter alone as a GGUF: llama.cpp with it computes what the merged model computes."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from exporting import export
from gguf_facts import metadata, tensors
from tiny import write_adapter, write_base
from transformers import AutoModelForCausalLM

from convert.adapter import Adapter, Pair
from convert.adapter_config import AdapterConfig
from convert.checkpoint import Checkpoint
from convert.levels import LEVELS
from convert.llama import EMBEDDING, OUTPUT, Shape
from convert.lora_gguf import write_lora_gguf
from stellar_local.errors import ModelError
from stellar_local.native.adapter import Adapter as NativeAdapter
from stellar_local.native.context import Chunk, Context
from stellar_local.native.model import Model

IDS = [1, 300, 301, 305, 17, 99, 250, 411, 412, 77, 78, 79, 300, 301]
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def logits(model: Path, lora: Path | None = None, scale: float = 1.0) -> np.ndarray:
    """llama.cpp's logits at every position of IDS, float32 [tokens, vocabulary]."""
    with Model(model, gpu_layers=0) as opened:
        adapters = {NativeAdapter(opened, lora): scale} if lora else {}
        with Context(opened, 64, threads=1, outputs=len(IDS)) as context:
            context.set_adapters(adapters)
            context.decode([Chunk(0, 0, IDS, len(IDS))])
            return context.logits.copy()


def distance(got: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def shape_of(base: Path) -> Shape:
    return Shape.from_config(Checkpoint.open(base).config)


@pytest.fixture(scope="module")
def untied_bpe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base") / "bpe", "bpe", num_attention_heads=8, num_key_value_heads=2)


@pytest.mark.parametrize("weight", [1.0, -0.5])
@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("spm-gqa-64", {}),
        ("spm-gqa-64", {"use_rslora": True, "rank": 3, "target_modules": ALL}),
        ("untied-bpe", {"target_modules": [*ALL, "lm_head"]}),
        ("bpe-gqa4-256-tied-biased", {"target_modules": ALL}),
        ("spm-gqa-64", {"rank_pattern": {"q_proj": 2, "v_proj": 6}, "alpha_pattern": {"v_proj": 20, "o_proj": 3}}),
    ],
    ids=["spm", "spm-rslora", "bpe-lm-head", "bpe-tied", "spm-patterns"],
)
def test_llama_cpp_with_it_equals_the_merged_model(
    kind: str, fields: dict[str, Any], weight: float, bases: Callable[[str], Path], untied_bpe: Path, tmp_path: Path
) -> None:
    base = untied_bpe if kind == "untied-bpe" else bases(kind)
    folder = write_adapter(base, tmp_path / "lora", **fields)
    export(base, out=tmp_path, levels=[LEVELS["F32"]], name="base")
    export(base, [(folder, weight)], tmp_path, [LEVELS["F32"]], name="merged")
    write_lora_gguf(Adapter.open(folder), weight, shape_of(base), "星", tmp_path / "lora.gguf")
    # As anything but a float32, llama.cpp would abort the process here.
    alpha = gguf.GGUFReader(tmp_path / "lora.gguf").fields["adapter.lora.alpha"]
    assert alpha.types == [gguf.GGUFValueType.FLOAT32]
    plain, merged = logits(tmp_path / "base-F32.gguf"), logits(tmp_path / "merged-F32.gguf")
    assert distance(logits(tmp_path / "base-F32.gguf", tmp_path / "lora.gguf"), merged) < 2e-3
    assert distance(plain, merged) > 0.05
    stored = metadata(tmp_path / "lora.gguf")
    assert stored["general.name"] == "星"
    if weight == 1.0:  # then nothing is folded in: the trained numbers themselves
        rank = fields.get("rank", 4)
        factor = math.sqrt(rank) if fields.get("use_rslora") else 1.0
        assert stored["adapter.lora.alpha"] == pytest.approx(8 * factor, rel=1e-7)


@dataclass
class Rows:
    """An array as a source of rows."""

    values: np.ndarray
    dtype: str = "F32"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def read(self, start: int, stop: int) -> np.ndarray:
        return np.array(self.values[start:stop])


def patterned(base: Path, names: list[str]) -> Adapter:
    """An adapter with another rank and scale for each of some tensors, embeddings among them."""
    sizes = {name: source.shape for name, source in Checkpoint.open(base).tensors.items()}
    random = np.random.default_rng(7)
    pairs = {}
    for number, name in enumerate(names):
        rows, columns = sizes[name]
        rank = 2 + number
        a, b = random.normal(size=(rank, columns)), random.normal(size=(rows, rank))
        pairs[name] = Pair(Rows(a.astype(np.float32) * 0.2), Rows(b.astype(np.float32) * 0.2), 0.3 + 0.4 * number)
    config = AdapterConfig(4, 8.0, False, False, False, "", {}, {}, (), (), {})
    return Adapter(base, base / "adapter_model.safetensors", config, pairs, {}, {}, {}, {}, {})


def test_every_tensor_has_its_own_scale(untied_bpe: Path, tmp_path: Path) -> None:
    layer = "model.layers.1."
    names = [
        EMBEDDING,
        OUTPUT,
        *(f"{layer}self_attn.{part}_proj.weight" for part in "qko"),
        f"{layer}mlp.up_proj.weight",
    ]
    adapter = patterned(untied_bpe, names)
    model = AutoModelForCausalLM.from_pretrained(untied_bpe)
    state = model.state_dict()
    for name, pair in adapter.pairs.items():
        state[name] += torch.from_numpy(0.5 * pair.scale * pair.b.read(0, 1 << 20) @ pair.a.read(0, 1 << 20)).float()
    with torch.no_grad():
        expected = model(torch.tensor([IDS])).logits[0].numpy()
    export(untied_bpe, out=tmp_path, levels=[LEVELS["F32"]], name="base")
    # Half of the weight by the file, and the other way round by the run-time scale.
    for weight, scale, name in ((0.5, 1.0, "a"), (1.0, 0.5, "b")):
        write_lora_gguf(adapter, weight, shape_of(untied_bpe), "x", tmp_path / f"{name}.gguf")
        assert distance(logits(tmp_path / "base-F32.gguf", tmp_path / f"{name}.gguf", scale), expected) < 0.01
    assert distance(logits(tmp_path / "base-F32.gguf"), expected) > 0.1
    stored = tensors(tmp_path / "a.gguf")
    assert {kind for _, kind, _ in stored.values()} == {"F32"}
    assert stored["token_embd.weight.lora_a"][0] == (2, 485)  # rows of it are looked up, so it is not transposed


def test_tensors_and_metadata_are_the_converters(
    bases: Callable[[str], Path], adapter: Path, llama_cpp_source: Path, tmp_path: Path
) -> None:
    base = bases("spm-gqa-64")
    script = [sys.executable, str(llama_cpp_source / "convert_lora_to_gguf.py"), "--base", str(base), str(adapter)]
    done = subprocess.run([*script, "--outfile", str(tmp_path / "theirs.gguf")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    write_lora_gguf(Adapter.open(adapter), 1.0, shape_of(base), "lora", tmp_path / "ours.gguf")
    assert tensors(tmp_path / "ours.gguf") == tensors(tmp_path / "theirs.gguf")
    ours, theirs = metadata(tmp_path / "ours.gguf"), metadata(tmp_path / "theirs.gguf")
    keys = (
        "general.architecture",
        "general.type",
        "adapter.type",
        "adapter.lora.alpha",
        "general.quantization_version",
    )
    assert {key: ours[key] for key in keys} == {key: theirs[key] for key in keys}
    # Theirs adds what it reads from the adapter's model card, the path of the base among it.
    assert set(ours) <= set(theirs)


@pytest.mark.parametrize("part", ["magnitudes", "replaced", "token_rows", "bias_changes"])
def test_what_llama_cpp_cannot_apply_is_refused(
    part: str, bases: Callable[[str], Path], adapter: Path, tmp_path: Path
) -> None:
    opened = Adapter.open(adapter)
    object.__setattr__(opened, part, {"model.norm.weight": None})
    with pytest.raises(ModelError, match=r"model\.norm\.weight.*cannot apply at run time") as caught:
        write_lora_gguf(opened, 1.0, shape_of(bases("spm-gqa-64")), "x", tmp_path / "x.gguf")
    assert "merge it instead" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [EMBEDDING, OUTPUT])
def test_shared_embeddings_are_refused(name: str, untied_bpe: Path, tmp_path: Path) -> None:
    shape = replace(shape_of(untied_bpe), tied=True)
    with pytest.raises(ModelError, match="both for reading and for writing"):
        write_lora_gguf(patterned(untied_bpe, [name]), 1.0, shape, "x", tmp_path / "x.gguf")


def test_added_tokens_are_refused(bases: Callable[[str], Path], tmp_path: Path) -> None:
    base, modules = bases("spm-gqa-64"), ["q_proj", "embed_tokens", "lm_head"]
    lora = Adapter.open(write_adapter(base, tmp_path / "lora", resize=600, target_modules=modules))
    with pytest.raises(ModelError, match=r"adds tokens.*cannot apply at run time"):
        write_lora_gguf(lora, 1.0, shape_of(base), "x", tmp_path / "x.gguf")


def test_another_base_is_refused(bases: Callable[[str], Path], adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="made for another base"):
        write_lora_gguf(Adapter.open(adapter), 1.0, shape_of(bases("bpe-tied-576")), "x", tmp_path / "x.gguf")


def test_a_failure_leaves_the_old_file(untied_bpe: Path, tmp_path: Path) -> None:
    """Numbers that fit, which a scale of their own takes beyond float32."""
    names = [f"model.layers.{layer}.mlp.up_proj.weight" for layer in (0, 1)]
    opened = patterned(untied_bpe, names)
    huge = {
        name: replace(pair, b=Rows(np.full_like(pair.b.read(0, 1 << 20), 3e38))) for name, pair in opened.pairs.items()
    }
    huge[names[0]] = replace(huge[names[0]], scale=100.0)
    (tmp_path / "x.gguf").write_bytes(b"old")
    with pytest.raises(ModelError, match="NaN or infinite"):
        write_lora_gguf(replace(opened, pairs=huge), 1.0, shape_of(untied_bpe), "x", tmp_path / "x.gguf")
    with pytest.raises(ModelError, match=r"an alpha of .*, which a GGUF cannot hold"):
        write_lora_gguf(patterned(untied_bpe, names[:1]), 1e40, shape_of(untied_bpe), "x", tmp_path / "x.gguf")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_stellar_tells_it_from_a_model(bases: Callable[[str], Path], adapter: Path, tmp_path: Path) -> None:
    write_lora_gguf(Adapter.open(adapter), 1.0, shape_of(bases("spm-gqa-64")), "x", tmp_path / "x.gguf", base_name="B")
    with pytest.raises(ModelError, match="is a LoRA adapter"):
        Model(tmp_path / "x.gguf")
    assert metadata(tmp_path / "x.gguf")["general.base_model.0.name"] == "B"
