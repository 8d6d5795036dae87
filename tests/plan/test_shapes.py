"""The headers of models that nobody has yet: against convert's mix, llama.cpp's published sizes and a written file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import gguf
import pytest
import shape_mixes
from exporting import export
from tiny import write_base

from convert.levels import LEVELS as MADE
from convert.levels import level_table, tensor_type
from stellar_local.errors import UsageError
from stellar_local.native.header import check_runnable, read_header
from stellar_local.plan import shapes
from stellar_local.plan.shapes import LEVELS, SHAPES, shape_header

# llama.cpp's tools/quantize/README.md, Llama-3.1-8B, in GiB; its tensors are LLaMA 3 8B's and a vector of 64 floats.
# Those levels that can do without an importance matrix are the same with one.
PUBLISHED = {
    "IQ1_S": 1.87,
    "IQ1_M": 2.01,
    "IQ2_XXS": 2.23,
    "IQ2_XS": 2.42,
    "IQ2_S": 2.56,
    "IQ2_M": 2.74,
    "IQ3_XXS": 3.04,
    "IQ3_XS": 3.27,
    "IQ3_S": 3.42,
    "IQ3_M": 3.52,
    "IQ4_XS": 4.17,
    "IQ4_NL": 4.38,
    "Q2_K_S": 2.78,
    "Q2_K": 2.95,
    "Q3_K_S": 3.41,
    "Q3_K_M": 3.74,
    "Q3_K_L": 4.02,
    "Q4_K_S": 4.36,
    "Q4_K_M": 4.58,
    "Q5_K_S": 5.21,
    "Q5_K_M": 5.33,
    "Q6_K": 6.14,
    "Q8_0": 7.95,
    "F16": 14.96,
}


def test_the_file_is_what_convert_knows() -> None:
    assert shape_mixes.FILE.read_text(encoding="utf-8") == shape_mixes.text(), "run tests/shape_mixes.py"


@pytest.mark.parametrize("name", SHAPES)
def test_every_tensor_has_the_type_that_convert_gives_it(name: str) -> None:
    """Read back from the ranges: a mistake in writing or reading them is one here."""
    shape = shape_mixes.shape_of(name)
    for level in MADE.values():
        expected = [
            (item.gguf, item.shape[::-1], int(tensor_type(level, item, shape, level.needs_importance)))
            for item in shape.tensors()
        ]
        assert [(item.name, item.shape, item.type) for item in shape_header(name, level.name).tensors] == expected


def test_the_levels_are_converts() -> None:
    assert SHAPES == ("7b", "8b", "13b")
    assert [(one.name, one.file_type, one.needs_importance) for one in LEVELS.values()] == [
        (one.name, one.ftype, one.needs_importance) for one in MADE.values()
    ]


def weights(name: str, level: str) -> float:
    """GiB of all tensors, without header and padding."""
    return sum(tensor.nbytes for tensor in shape_header(name, level).tensors) / 2**30


@pytest.mark.parametrize("level", PUBLISHED)
def test_the_sizes_are_llama_cpps(level: str) -> None:
    assert weights("8b", level) == pytest.approx(PUBLISHED[level], abs=0.0051)


def test_the_sizes_are_those_of_converts_table() -> None:
    for row in level_table():
        found = tuple(weights(name, row.level.name) for name in ("7b", "8b", "13b"))
        assert found == (row.size_7b, row.size_8b, row.size_13b)


@pytest.mark.parametrize("level", ["F32", "Q8_0", "Q4_K_M", "Q3_K_M", "IQ4_XS"])
def test_a_file_that_convert_writes_has_this_table(level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small model of the same kind: names, order, types, offsets, constants and size are a written file's."""
    size = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 8, "num_key_value_heads": 4}
    base = write_base(tmp_path / "base", "spm", **size, vocab_size=487)  # odd: not all tensors end on a multiple of 32
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    export(base, out=tmp_path / "out", levels=[MADE[level]], name="m", template=None)
    written = read_header(tmp_path / "out" / f"m-{level}.gguf")
    shape = shape_mixes.Shape.from_config(config)
    entry = {
        "model": "m",
        "layers": 8,
        "width": 256,
        "feed_forward": 512,
        "heads": 4,
        "kv_heads": 4,
        "context": 512,
        "vocabulary": config["vocab_size"],
        "rope_theta": 10000.0,
        "rms_eps": shape.rms_eps,
        "types": {level: {"type": MADE[level].type.name, **shape_mixes.exceptions(MADE[level], shape)}},
    }
    monkeypatch.setitem(shapes._DATA["shapes"], "8b", entry)
    ours = shape_header("8b", level)
    assert ours.tensors == written.tensors
    assert ours.file_size - ours.data_start == written.file_size - written.data_start
    same = [key for key in ours.metadata if not key.startswith("tokenizer.")]
    assert {key: written.metadata[key] for key in same} == {key: ours.metadata[key] for key in same}
    assert same == [key for key in written.metadata if key in same]


@pytest.mark.parametrize("name", SHAPES)
def test_a_header_says_what_the_model_is(name: str) -> None:
    header = shape_header(name.upper(), "q4-k-m")
    check_runnable(header)
    assert str(header.path) == f"{name} Q4_K_M"
    assert header.full_size == header.file_size
    assert header.data_start % gguf.GGUF_DEFAULT_ALIGNMENT == 0
    expected = {
        "7b": (32, 4096, 11008, 32, 32, 32000, 4096),
        "8b": (32, 4096, 14336, 32, 8, 128256, 8192),
        "13b": (40, 5120, 13824, 40, 40, 32000, 4096),
    }
    keys = "block_count embedding_length feed_forward_length attention.head_count attention.head_count_kv vocab_size"
    assert tuple(header.value(key) for key in [*keys.split(), "context_length"]) == expected[name]
    assert header.value("rope.dimension_count") == 128
    assert header.metadata["tokenizer.ggml.model"] == "no_vocab"
    assert header.metadata["general.quantization_version"] == gguf.GGML_QUANT_VERSION


@pytest.mark.parametrize(("name", "level"), [("70b", "Q8_0"), ("7b", "Q9"), ("", "Q8_0"), ("7b", "")])
def test_what_is_not_known_is_a_sentence(name: str, level: str) -> None:
    with pytest.raises(UsageError, match=r"^unknown (model size|level): ") as caught:
        shape_header(name, level)
    assert re.search("Q4_K_M|13b", caught.value.hint)
