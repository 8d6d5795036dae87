"""A GGUF's metadata: keys, types and order of llama.cpp's converter; no path and no date."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from exporting import export

from convert.about import About, Source, read_about
from convert.checkpoint import Checkpoint
from convert.levels import LEVELS
from convert.llama import Shape
from convert.metadata import metadata
from convert.vocab import read_vocabulary
from stellar_local.prompts import load_template

ABOUT = About(
    author="星语",
    version="2.0",
    organization="Org",
    finetune="chat",
    basename="bay",
    license="other",
    license_name="l",
    license_link="https://example.org/l",
    base_models=(Source("Llama 2 7b", "Meta Llama", "v1", "https://huggingface.co/meta-llama/Llama-2-7b"), Source("X")),
    datasets=(Source("Astro"),),
    tags=("a", "b"),
    languages=("zh", "en"),
    sampling={"temp": 0.6, "top_k": -1, "top_p": 0.9, "penalty_repeat": 1.1, "mirostat": 2},
)


def written(path: Path) -> list[tuple[str, str, object]]:
    """Keys with their types and values, in the file's order."""
    fields = gguf.GGUFReader(path).fields.values()
    return [(item.name, "/".join(kind.name for kind in item.types), item.contents()) for item in fields]


def test_general_keys_are_gguf_pys_own(bases: Callable[[str], Path], tmp_path: Path) -> None:
    """The same description through gguf-py's Metadata: same keys, types, values and order."""
    base = bases("spm-gqa-64")
    shape = Shape.from_config(Checkpoint.open(base).config)
    fields = metadata("m", shape, LEVELS["F16"], read_vocabulary(base, {}, shape.vocabulary), None, 1000, ABOUT)
    theirs = gguf.Metadata(name="m", size_label=gguf.size_label(1000, 1000, 0, 0))
    for key in ("author", "version", "organization", "finetune", "basename", "license", "license_name", "license_link"):
        setattr(theirs, key, getattr(ABOUT, key))
    for key, value in ABOUT.sampling.items():
        setattr(theirs, f"sampling_{key}", value)
    theirs.tags, theirs.languages = list(ABOUT.tags), list(ABOUT.languages)
    for kind in ("base_models", "datasets"):
        entries = [{key: value for key, value in vars(item).items() if value} for item in getattr(ABOUT, kind)]
        setattr(theirs, kind, entries)
    writers = [gguf.GGUFWriter(tmp_path / name, "llama") for name in ("ours", "theirs")]
    theirs.set_gguf_meta_model(writers[1])
    from convert import gguf_out

    for key, value in fields.items():
        if key.startswith("general.") and key not in (
            "general.type",
            "general.file_type",
            "general.quantization_version",
        ):
            gguf_out._add(writers[0], key, value)
    for writer in writers:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
    assert written(tmp_path / "ours") == written(tmp_path / "theirs")
    assert len(written(tmp_path / "ours")) > 25


@pytest.mark.parametrize("kind", ["spm-gqa-64", "bpe-gqa4-256-tied-biased", "spm-like-70b"])
def test_the_models_own_keys(kind: str, bases: Callable[[str], Path]) -> None:
    base = bases(kind)
    shape = Shape.from_config(Checkpoint.open(base).config)
    vocabulary = read_vocabulary(base, {}, shape.vocabulary)
    plain = metadata("m", shape, LEVELS["Q4_K_M"], vocabulary, None, 1000, About())
    assert [key for key in plain if key.startswith("general.")] == [
        "general.type",
        "general.name",
        "general.size_label",
        "general.file_type",
        "general.quantization_version",
    ]
    assert plain["general.file_type"] == 15
    assert plain["llama.vocab_size"] == shape.vocabulary
    assert ("llama.rope.scaling.type" in plain) == (kind == "spm-like-70b")
    template = load_template("bayling")
    assert (
        metadata("m", shape, LEVELS["F16"], vocabulary, template, 1000, About())["stellar.template.name"] == "bayling"
    )
    larger = replace(shape, vocabulary=shape.vocabulary + 8)
    assert (
        metadata("m", larger, LEVELS["F16"], vocabulary, None, 1, About())["llama.vocab_size"] == shape.vocabulary + 8
    )


def test_a_file_carries_it_and_the_same_inputs_give_the_same_bytes(
    bases: Callable[[str], Path], adapter: Path, tmp_path: Path
) -> None:
    made = []
    for place in ("here", "there"):
        base, lora = tmp_path / place / "bayling-7b", tmp_path / place / "lora"
        shutil.copytree(bases("spm-gqa-64"), base)
        shutil.copytree(adapter, lora)  # with the README.md that PEFT writes, which names the base's path
        (base / "README.md").write_text("---\nlicense: llama2\nlanguage: [zh, en]\n---\n")
        (base / "generation_config.json").write_text(json.dumps({"temperature": 0.6, "top_k": 30}))
        export(base, [(lora, 1.0)], tmp_path / place / "out", [LEVELS["Q8_0"]], name="m")
        made.append({path.name: path.read_bytes() for path in (tmp_path / place / "out").iterdir()})
    assert made[0] == made[1]
    assert set(made[0]) == {"m-Q8_0.gguf", "manifest.json", "README.md", "Modelfile"}
    assert not [name for name, data in made[0].items() if b"/tmp" in data or str(tmp_path).encode() in data]
    fields = {key: (kind, value) for key, kind, value in written(tmp_path / "here/out/m-Q8_0.gguf")}
    assert fields["general.license"] == ("STRING", "llama2")
    assert fields["general.base_model.0.name"] == ("STRING", "Bayling 7b")
    assert fields["general.languages"] == ("ARRAY/STRING", ["zh", "en"])
    assert fields["general.sampling.temp"] == ("FLOAT32", np.float32(0.6))
    assert fields["general.sampling.top_k"] == ("INT32", 30)
    assert b'"license": "llama2"' in made[0]["manifest.json"]
    assert read_about(tmp_path / "here/bayling-7b").license == "llama2"
