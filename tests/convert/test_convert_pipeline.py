"""The pass: its pieces are bounded and whole, and their cut and the number of threads change no byte."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from exporting import export
from gguf_facts import metadata, tensors
from test_convert_imatrix import write_gguf
from test_convert_levels import llama_quantize_with

from convert.levels import LEVELS
from convert.llama import Tensor
from convert.pipeline import cut
from convert.safetensors import PIECE
from stellar_local.errors import ModelError


@pytest.mark.parametrize("piece", [1, 64 * 16, 64 * 40])
def test_the_cut_into_pieces_changes_nothing(
    bases: Callable[[str], Path], piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = bases("spm-gqa-64")
    export(base, out=tmp_path / "whole", levels=[LEVELS["Q4_K_M"]], name="m")
    monkeypatch.setattr("convert.safetensors.PIECE", piece)
    export(base, out=tmp_path / "cut", levels=[LEVELS["Q4_K_M"]], name="m", threads=3)
    assert (tmp_path / "whole/m-Q4_K_M.gguf").read_bytes() == (tmp_path / "cut/m-Q4_K_M.gguf").read_bytes()


@pytest.mark.parametrize(
    ("shape", "heads"), [((128256, 4096), 0), ((5120, 5120), 40), ((5120, 13824), 0), ((4096,), 0), ((4096,), 32)]
)
def test_pieces_are_bounded_and_hold_whole_heads(shape: tuple[int, ...], heads: int) -> None:
    tensor = Tensor("a", "b", shape, heads)
    ranges = list(cut(tensor, 128))
    assert [start for start, _ in ranges] == [0, *(stop for _, stop in ranges[:-1])]
    assert ranges[-1][1] == tensor.rows
    assert max(stop - start for start, stop in ranges) * tensor.columns <= PIECE
    if heads and len(shape) == 2:
        assert all(stop % 128 == 0 for _, stop in ranges)


def test_threads_change_no_byte(bases: Callable[[str], Path], adapter: Path, tmp_path: Path) -> None:
    levels = [LEVELS["Q6_K"], LEVELS["F32"]]
    for threads in (1, 5):
        export(bases("spm-gqa-64"), [(adapter, 0.7)], tmp_path / str(threads), levels, name="m", threads=threads)
    for level in levels:
        one, five = (tmp_path / threads / f"m-{level.name}.gguf" for threads in ("1", "5"))
        assert one.read_bytes() == five.read_bytes()


@pytest.mark.parametrize("kind", ["spm-gqa-64", "bpe-gqa4-256-tied-biased"])
def test_an_importance_matrix_reaches_the_files(
    kind: str, bases: Callable[[str], Path], silence: None, tmp_path: Path
) -> None:
    """Whole files, metadata included, are what llama_model_quantize writes with the same matrix."""
    base = bases(kind)
    levels = [LEVELS[name] for name in ("F16", "Q4_K_M", "Q4_0", "IQ3_XXS", "IQ2_XXS")]
    export(base, out=tmp_path, levels=[LEVELS["F32"]], name="m")
    random = np.random.default_rng(0)
    matrix = {
        item.name: (random.chisquare(1, int(item.shape[0])) + 0.01).astype(np.float32)
        for item in gguf.GGUFReader(tmp_path / "m-F32.gguf").tensors
        if item.name.startswith("blk.") and len(item.shape) == 2
    }
    counts = {name: np.ones(1, np.float32) for name in matrix}
    file = write_gguf(tmp_path / "measured.gguf", sums=matrix, counts=counts)
    export(base, out=tmp_path / "out", levels=levels, name="m", imatrix=file)
    for level in levels:
        reference = tmp_path / "reference.gguf"
        assert llama_quantize_with(tmp_path / "m-F32.gguf", reference, level.ftype, matrix)
        ours = tmp_path / f"out/m-{level.name}.gguf"
        assert tensors(ours) == tensors(reference), level.name
        added = {key: value for key, value in metadata(ours).items() if key.startswith("quantize.imatrix.")}
        assert {key: value for key, value in metadata(ours).items() if key not in added} == metadata(reference)
        assert bool(added) == level.quantized
    assert added["quantize.imatrix.file"] == "measured.gguf"
    assert added["quantize.imatrix.entries_count"] == len(matrix)
    recorded = json.loads((tmp_path / "out/manifest.json").read_text())["imatrix"]
    assert recorded == {"name": "measured.gguf", "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}


def test_a_matrix_with_holes_serves_the_levels_that_can_do_without(
    bases: Callable[[str], Path], tmp_path: Path
) -> None:
    base, entry = bases("spm-mha-256-deep"), "blk.0.attn_q.weight"
    sums, counts = {entry: np.ones(256, np.float32)}, {entry: np.ones(1, np.float32)}
    file = write_gguf(tmp_path / "measured.gguf", sums=sums, counts=counts)
    with pytest.raises(ModelError, match=r"blk\.0\.attn_k\.weight"):
        export(base, out=tmp_path / "out", levels=[LEVELS["IQ2_XXS"]], imatrix=file)
    assert not (tmp_path / "out").exists()
    export(base, out=tmp_path / "out", levels=[LEVELS["Q3_K_M"]], imatrix=file)
