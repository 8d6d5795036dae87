"""MODEL → candidates: files and folders, levels by name and by type, what is left out, and sizes by name."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import gguf
import pytest
from exporting import export
from tiny import write_adapter

from stellar_local.errors import ModelError, UsageError
from stellar_local.native.header import read_header
from stellar_local.plan.models import USUAL, Candidate, candidates, is_size, level_of, named, openable
from stellar_local.plan.quality import loss
from stellar_local.plan.shapes import LEVELS

TWO = ["F32", "Q8_0"]


def test_levels_by_name(spm_folder: Path) -> None:
    assert [one.level for one in candidates(spm_folder)] == TWO
    (found,) = candidates(spm_folder, "q8_0")
    assert (found.path.name, found.level, found.named) == ("tiny-Q8_0.gguf", "Q8_0", False)
    assert level_of(Path("stellarspeak-13b-Q4_K_M.gguf")) == "Q4_K_M"
    with pytest.raises(UsageError, match="level Q2_K is not in") as caught:
        candidates(spm_folder, "Q2_K")
    assert caught.value.hint == "it holds F32, Q8_0"


def test_a_level_by_its_file_type(spm_folder: Path, tmp_path: Path) -> None:
    for name, level in [("model.gguf", "Q8_0"), ("a-Q4_K_M.gguf", "Q4_K_M"), ("tiny-latest.gguf", "Q8_0")]:
        shutil.copy(spm_folder / "tiny-Q8_0.gguf", tmp_path / name)
        assert candidates(tmp_path / name)[0].level == level  # a name that is a level is believed
    assert {one.file_type for one in LEVELS.values()} >= {int(gguf.LlamaFileType.MOSTLY_Q8_0)}


def test_a_file_whose_level_nobody_knows(spm_model: Path, tmp_path: Path) -> None:
    data = spm_model.read_bytes().replace(b"general.file_type", b"general.filetypes")
    (tmp_path / "model-v2.gguf").write_bytes(data)
    (found,) = candidates(tmp_path / "model-v2.gguf")
    assert found.level == "V2"
    assert found.loss("f16").percent is None


def test_the_loss_is_the_levels_and_the_kvs(spm_folder: Path) -> None:
    for one in candidates(spm_folder):
        assert [one.loss(kv) for kv in ("f16", "q4_0")] == [
            loss(one.level, kv, measured=one.measured) for kv in ("f16", "q4_0")
        ]


def test_refusals(tmp_path: Path, spm_base: Path, spm_model: Path) -> None:
    with pytest.raises(ModelError, match="model not found"):
        candidates(tmp_path / "no")
    with pytest.raises(ModelError, match="no .gguf file in"):
        candidates(tmp_path)
    with pytest.raises(ModelError, match="no .gguf file in .* \\(a Hugging Face folder\\)"):
        candidates(spm_base)
    with pytest.raises(UsageError, match="--level chooses within a folder"):
        candidates(spm_model, "Q8_0")


def test_a_damaged_file_beside_good_ones_is_left_out(spm_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(spm_folder, tmp_path / "model")
    (tmp_path / "model" / "tiny-Q2_K.gguf").write_bytes(b"GGUF")
    (tmp_path / "model" / "notes-Q6_K.gguf").write_bytes(b"no model at all, but larger")
    data = (spm_folder / "tiny-F32.gguf").read_bytes()
    (tmp_path / "model" / "tiny-BF16.gguf").write_bytes(data.replace(b"llama.block_count", b"llama.block_numbr"))
    problems: list[ModelError] = []
    assert [one.level for one in candidates(tmp_path / "model", problems=problems)] == TWO
    assert sorted(problem.message.partition(":")[0] for problem in problems) == [
        "damaged GGUF file",
        "not a GGUF file",
        "truncated GGUF file",
    ]
    assert [one.level for one in candidates(tmp_path / "model")] == TWO  # where nobody asks
    assert [one.level for one in candidates(tmp_path / "model", "Q8_0")] == ["Q8_0"]
    with pytest.raises(ModelError, match="truncated GGUF file"):
        candidates(tmp_path / "model", "Q2_K")
    for good in TWO:
        (tmp_path / "model" / f"tiny-{good}.gguf").unlink()
    with pytest.raises(ModelError, match=r"damaged GGUF|not a GGUF|truncated"):
        candidates(tmp_path / "model")


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_a_link_to_what_is_gone_is_no_file(spm_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny-F16.gguf").symlink_to(tmp_path / "gone.gguf")
    with pytest.raises(ModelError, match="no .gguf file in"):
        candidates(tmp_path)
    (tmp_path / "tiny-F32.gguf").symlink_to(spm_folder / "tiny-F32.gguf")
    assert [one.level for one in candidates(tmp_path)] == ["F32"]


def test_an_adapter_beside_the_levels_is_no_level(spm_base: Path, spm_model: Path, tmp_path: Path) -> None:
    adapter = write_adapter(spm_base, tmp_path / "lora")
    folder = tmp_path / "model"
    export(spm_base, [(adapter, 1.0)], lora_gguf=folder / "a-LORA.gguf")
    with pytest.raises(ModelError, match="no .gguf file"):
        candidates(folder)
    shutil.copy(spm_model, folder / "a-F32.gguf")
    problems: list[ModelError] = []
    assert [one.path.name for one in candidates(folder, problems=problems)] == ["a-F32.gguf"]
    assert not problems


@pytest.mark.parametrize("name", ["7b", "8B", "13b"])
def test_sizes_by_name(name: str) -> None:
    found = named(name)
    assert {one.level for one in found} == set(USUAL)
    sizes = [one.header.file_size for one in found]
    assert sizes == sorted(sizes, reverse=True)
    assert all(one.named for one in found)
    (one,) = named(name, "q4-k-m")
    assert one.weights.total == next(each for each in found if each.level == "Q4_K_M").weights.total
    assert one.level in LEVELS


def test_a_size_is_a_name_that_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert [is_size(name) for name in ("7b", "13B", "70b", "", "7b/")] == [True, True, False, False, False]
    (tmp_path / "7b").mkdir()
    assert not is_size("7b")
    with pytest.raises(UsageError, match="unknown level"):
        named("7b", "Q9")


def test_a_whole_file_is_opened_itself_and_others_by_a_stand_in(
    spm_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    (whole,) = candidates(spm_model)
    with openable(whole) as path:
        assert path == spm_model
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(spm_model.read_bytes()[: whole.header.data_start + 10])
    for one in (Candidate(read_header(cut), "F32"), *named("13b", "Q4_K_M")):
        with openable(one) as path:
            assert path.parent.parent == tmp_path / "temporary"
            assert path.stat().st_size == one.header.full_size
            assert read_header(path).tensors == one.header.tensors
        assert not list((tmp_path / "temporary").iterdir())
    with pytest.raises(RuntimeError), openable(one):
        raise RuntimeError
    assert not list((tmp_path / "temporary").iterdir())
