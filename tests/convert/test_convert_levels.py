"""Every level against llama.cpp's own quantizer, byte for byte."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from exporting import export
from gguf_facts import KINDS, metadata, tensors

from convert.levels import LEVELS, parse_levels
from stellar_local.errors import UsageError


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_equal_llama_cpp(
    kind: str, bases: Callable[[str], Path], llama_quantize: Callable[[Path, Path, int], None], tmp_path: Path
) -> None:
    export(bases(kind), out=tmp_path, levels=list(LEVELS.values()), name="m", threads=2)
    for level in LEVELS.values():
        reference = tmp_path / "reference.gguf"
        llama_quantize(tmp_path / "m-F32.gguf", reference, level.ftype)
        ours, theirs = tensors(tmp_path / f"m-{level.name}.gguf"), tensors(reference)
        assert {name: item[:2] for name, item in ours.items()} == {name: item[:2] for name, item in theirs.items()}
        assert [name for name in theirs if ours[name][2] != theirs[name][2]] == []
        assert metadata(tmp_path / f"m-{level.name}.gguf") == metadata(reference)


def test_levels_are_found_in_any_case_once() -> None:
    assert [level.name for level in parse_levels("q4_k_m, Q8-0,q8_0")] == ["Q4_K_M", "Q8_0"]


@pytest.mark.parametrize("text", ["Q7", "", "Q8_0,,"])
def test_an_unknown_level_lists_them(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_levels(text)
    assert "Q4_K_M" in caught.value.hint
