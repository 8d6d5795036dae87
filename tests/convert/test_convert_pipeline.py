"""The pass: its pieces are bounded and whole, and their cut and the number of threads change no byte."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from exporting import export

from convert.levels import LEVELS
from convert.llama import Tensor
from convert.pipeline import PIECE, cut


@pytest.mark.parametrize("piece", [1, 64 * 16, 64 * 40])
def test_the_cut_into_pieces_changes_nothing(
    bases: Callable[[str], Path], piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = bases("spm-gqa-64")
    export(base, out=tmp_path / "whole", levels=[LEVELS["Q4_K_M"]], name="m")
    monkeypatch.setattr("convert.pipeline.PIECE", piece)
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
