"""Every level against llama.cpp's own quantizer, byte for byte, with and without an importance matrix."""

from __future__ import annotations

import ctypes
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
import pytest
from exporting import export
from gguf_facts import KINDS, metadata, tensors
from numpy.typing import NDArray

from convert.levels import LEVELS, check_importance, level_table, parse_levels, tensor_type
from convert.llama import Shape
from stellar_local.errors import ModelError, UsageError
from stellar_local.native import ggml, library
from stellar_local.native.ggml import GgmlType

Matrix = Mapping[str, NDArray[np.float32]]
ROWS = 4  # of each matrix: types depend on names and row lengths, and rows are independent (see test_ggml)


def llama_quantize_with(
    source: Path, target: Path, ftype: int, matrix: Matrix | None = None, dry_run: bool = False
) -> bool:
    """llama.cpp's own quantizer with an importance matrix; False if it refuses. A dry run only chooses the types."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread, params.dry_run = ftype, 2, dry_run
    if matrix is not None:
        entries = (llama_cpp.llama_model_imatrix_data * (len(matrix) + 1))()
        for entry, (name, values) in zip(entries, matrix.items(), strict=False):
            entry.name, entry.size = name.encode(), values.size
            entry.data = values.ctypes.data_as(type(entry.data))
        params.imatrix = ctypes.pointer(entries[0])
    done = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
    return bool(done == 0)


class Small:
    """A kind of base with the first rows of each matrix only: its F32 GGUF, its weights, and importance for them."""

    def __init__(self, base: Path, folder: Path) -> None:
        self.folder, self.file = folder, folder / "small.gguf"
        self.shape = Shape.from_config(json.loads((base / "config.json").read_text()))
        export(base, out=folder, levels=[LEVELS["F32"]], name="m")
        reader = gguf.GGUFReader(folder / "m-F32.gguf")
        writer = gguf.GGUFWriter(self.file, "llama")
        for key, field in reader.fields.items():
            if key.startswith("llama."):
                writer.add_key_value(key, field.contents(), field.types[0])
        writer.add_array("tokenizer.ggml.tokens", reader.fields["tokenizer.ggml.tokens"].contents())
        self.weights = {}
        for item in reader.tensors:
            self.weights[item.name] = np.array(item.data[:ROWS] if item.data.ndim > 1 else item.data)
            writer.add_tensor(item.name, self.weights[item.name])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        random = np.random.default_rng(0)
        # Mean squares of activations: spread over orders of magnitude, and some columns that are never used.
        self.matrix = {
            name: (random.chisquare(1, rows.shape[1]) * 10 ** random.normal(-2, 1, rows.shape[1])).astype(np.float32)
            for name, rows in self.weights.items()
            if name.startswith("blk.") and rows.ndim > 1
        }
        for entry in self.matrix.values():
            entry[::61] = 0.0
        self._made: dict[tuple[str, GgmlType, bool], bytes] = {}

    def ours(self, level: str, importance: bool) -> dict[str, tuple[tuple[int, ...], str, bytes]]:
        """Each tensor as `tensor_type` and `ggml.quantize` make it; the same tensor and type once only."""
        found = {}
        types = {
            tensor.gguf: tensor_type(LEVELS[level], tensor, self.shape, importance) for tensor in self.shape.tensors()
        }
        for name, rows in self.weights.items():
            type = types.get(name, GgmlType.F32)
            key = (name, type, importance)
            if key not in self._made:
                matrix = self.matrix.get(name) if importance else None
                self._made[key] = ggml.quantize(type, np.atleast_2d(rows), matrix).tobytes()
            found[name] = (rows.shape[::-1], type.name, self._made[key])
        return found


@pytest.fixture(scope="module")
def small(
    bases: Callable[[str], Path], silence: None, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Small]:
    made: dict[str, Small] = {}

    def get(kind: str) -> Small:
        if kind not in made:
            made[kind] = Small(bases(kind), tmp_path_factory.mktemp("small") / kind)
        return made[kind]

    return get


@pytest.mark.parametrize("importance", [False, True], ids=["plain", "importance"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_level_equals_llama_cpp(kind: str, importance: bool, small: Callable[[str], Small]) -> None:
    model = small(kind)
    refused = set()
    for name, level in LEVELS.items():
        reference = model.folder / "reference.gguf"
        if not llama_quantize_with(model.file, reference, level.ftype, model.matrix if importance else None):
            refused.add(name)
            continue
        theirs, ours = tensors(reference), model.ours(name, importance)
        assert {key: item[:2] for key, item in ours.items()} == {key: item[:2] for key, item in theirs.items()}, name
        assert [key for key in theirs if ours[key][2] != theirs[key][2]] == [], name
    needing = {name for name, level in LEVELS.items() if level.needs_importance}
    if importance:
        assert not refused
    elif model.shape.width % 256 == 0:
        assert refused == needing
    else:  # narrow rows fall back to types that can do without
        assert refused < needing


@pytest.mark.parametrize("kind", ["spm-mha-256-deep", "spm-like-70b"])
def test_types_without_a_matrix_where_one_is_needed(kind: str, small: Callable[[str], Small]) -> None:
    """llama.cpp writes no such file, but says which types it would take: the last branches of its mix."""
    model, lines = small(kind), []
    listen = llama_cpp.llama_log_callback(lambda level, text, data: lines.append(text.decode()))
    llama_cpp.llama_log_set(listen, None)
    try:
        assert llama_quantize_with(model.file, model.folder / "none.gguf", LEVELS["IQ3_XXS"].ftype, dry_run=True)
    finally:
        llama_cpp.llama_log_set(library._state["log"], None)
    said = dict(re.findall(r"\] +(\S+) +- \[.* MiB \((\w+)\)$", "".join(lines), re.MULTILINE))
    types = {
        item.gguf: tensor_type(LEVELS["IQ3_XXS"], item, model.shape, importance=False) for item in model.shape.tensors()
    }
    # ggml spells a K in capitals: q4_K.
    assert {name: type.upper() for name, type in said.items()} == {
        name: type.name for name, type in types.items() if type is not GgmlType.F32
    }


@pytest.mark.parametrize("kind", KINDS)
def test_whole_files_equal_llama_cpp(
    kind: str, bases: Callable[[str], Path], llama_quantize: Callable[[Path, Path, int], None], tmp_path: Path
) -> None:
    levels = [LEVELS[name] for name in ("F32", "BF16", "Q8_0", "Q4_K_M", "Q3_K_L")]
    export(bases(kind), out=tmp_path, levels=levels, name="m", threads=2)
    for level in levels:
        reference = tmp_path / "reference.gguf"
        llama_quantize(tmp_path / "m-F32.gguf", reference, level.ftype)
        ours, theirs = tensors(tmp_path / f"m-{level.name}.gguf"), tensors(reference)
        assert {name: item[:2] for name, item in ours.items()} == {name: item[:2] for name, item in theirs.items()}
        assert [name for name in theirs if ours[name][2] != theirs[name][2]] == []
        assert metadata(tmp_path / f"m-{level.name}.gguf") == metadata(reference)


@pytest.mark.parametrize(
    ("level", "missing", "refused"),
    [
        ("Q2_K_S", "blk.1.attn_q.weight", True),  # Q2_K there, which only this level does not have without
        ("Q2_K", "blk.1.attn_q.weight", False),
        ("IQ3_XS", "blk.2.attn_k.weight", True),
        ("IQ3_XS", "blk.2.attn_v.weight", False),  # Q4_K
        ("IQ2_XXS", "blk.0.ffn_down.weight", False),  # Q2_K in the first eighth of the layers
        ("IQ2_XXS", "blk.2.ffn_down.weight", True),
        ("IQ4_XS", "blk.0.ffn_down.weight", False),
    ],
)
def test_a_matrix_with_a_hole(level: str, missing: str, refused: bool, small: Callable[[str], Small]) -> None:
    """We refuse what llama.cpp refuses, by the tensor's name; it has no entry for embeddings and output anyway."""
    model = small("bpe-gqa4-256-tied-biased")
    holed = {name: entry for name, entry in model.matrix.items() if name != missing}
    done = llama_quantize_with(model.file, model.folder / "holed.gguf", LEVELS[level].ftype, holed)
    assert done is not refused
    if refused:
        with pytest.raises(ModelError, match=f"no entry for {missing}, which {level} needs"):
            check_importance([LEVELS["F16"], LEVELS[level]], model.shape, holed)
    else:
        check_importance([LEVELS["F16"], LEVELS[level]], model.shape, holed)


# llama.cpp's tools/quantize/README.md, Llama-3.1-8B (bits per weight, GiB); IQ4_XS and IQ4_NL are without a matrix.
LLAMA_3_8B = {
    "IQ1_S": (2.0042, 1.87),
    "IQ1_M": (2.1460, 2.01),
    "IQ2_XXS": (2.3824, 2.23),
    "IQ2_XS": (2.5882, 2.42),
    "IQ2_S": (2.7403, 2.56),
    "IQ2_M": (2.9294, 2.74),
    "IQ3_XXS": (3.2548, 3.04),
    "IQ3_XS": (3.4977, 3.27),
    "IQ3_S": (3.6606, 3.42),
    "IQ3_M": (3.7628, 3.52),
    "IQ4_XS": (4.4597, 4.17),
    "IQ4_NL": (4.6818, 4.38),
    "Q2_K_S": (2.9697, 2.78),
    "Q2_K": (3.1593, 2.95),
    "Q3_K_S": (3.6429, 3.41),
    "Q3_K_M": (3.9960, 3.74),
    "Q3_K_L": (4.2979, 4.02),
    "Q4_K_S": (4.6672, 4.36),
    "Q4_K_M": (4.8944, 4.58),
    "Q5_K_S": (5.5704, 5.21),
    "Q5_K_M": (5.7036, 5.33),
    "Q6_K": (6.5633, 6.14),
    "Q8_0": (8.5008, 7.95),
}
# The bits per weight that llama.cpp's old README gave for LLaMA 2 7B and 13B, where the mix has not changed since,
# with the GiB that they come to; those levels with a matrix that need one, or of which one changes no type.
LLAMA_2 = {
    "F16": (16.0, 12.55, 24.24),
    "Q8_0": (8.50, 6.67, 12.88),
    "Q6_K": (6.56, 5.15, 9.95),
    "Q5_K_M": (5.68, 4.45, 8.60),
    "Q4_K_M": (4.84, 3.80, 7.33),
    "Q4_K_S": (4.58, 3.59, 6.91),
    "Q3_K_M": (3.91, 3.07, 5.90),
    "IQ3_M": (3.70, 2.90, 5.57),
    "IQ3_XXS": (3.07, 2.41, 4.62),
    "Q2_K": (3.01, 2.36, 4.52),
    "IQ2_M": (2.80, 2.20, 4.21),
    "IQ2_XS": (2.42, 1.89, 3.62),
    "IQ2_XXS": (2.20, 1.73, 3.29),
}


def test_the_table_gives_the_published_sizes() -> None:
    weights = 8030261248  # of LLaMA 3 8B
    rows = {row.level.name: row for row in level_table()}
    assert list(rows) == list(LEVELS)
    for name, (bits, size) in LLAMA_3_8B.items():
        assert rows[name].size_8b == pytest.approx(size, abs=0.0051), name
        assert rows[name].size_8b * 2**33 / weights == pytest.approx(bits, abs=2e-4), name
    for name, (bits, small, large) in LLAMA_2.items():
        found = (rows[name].bits_per_weight, rows[name].size_7b, rows[name].size_13b)
        assert found == pytest.approx((bits, small, large), abs=0.0051), name


def test_levels_are_found_in_any_case_once() -> None:
    assert [level.name for level in parse_levels("q4_k_m, Q8-0,q8_0")] == ["Q4_K_M", "Q8_0"]


def test_a_level_that_needs_a_matrix() -> None:
    with pytest.raises(UsageError, match="the level IQ2_XS needs an importance matrix") as caught:
        parse_levels(["Q8_0", "iq2-xs"])
    assert "--imatrix" in caught.value.hint
    assert [level.name for level in parse_levels("Q8_0,iq2-xs", importance=True)] == ["Q8_0", "IQ2_XS"]


@pytest.mark.parametrize("text", ["Q7", "", "Q8_0,,"])
def test_an_unknown_level_lists_them(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_levels(text)
    assert "Q4_K_M" in caught.value.hint
