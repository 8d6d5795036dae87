"""manifest.json: readable, complete, read back as it was written, and refused where it is damaged."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest

from convert.about import About, Source
from convert.manifest import (
    Divergence,
    Figures,
    LevelFile,
    Result,
    TensorRecord,
    manifest_of,
    parse_manifest,
    read_manifest,
)
from stellar_local.errors import ModelError, StellarError
from stellar_local.prompts import load_template

TENSORS = {"token_embd.weight": TensorRecord("Q6_K", "ab" * 32), "output_norm.weight": TensorRecord("F32", "cd" * 32)}
RESULT = Result(
    name="星语者",
    base="bayling-7b",
    weights=6_738_415_616,
    context=4096,
    adapters=[{"name": "lora", "weight": 0.5, "rank": 8, "alpha": 16.0, "sha256": "01" * 32}],
    template=load_template("bayling"),
    levels=[
        LevelFile("Q8_0", "星语者-Q8_0.gguf", 7_000_000_000, 8.500123, "ef" * 32, TENSORS),
        LevelFile("Q4_K_M", "星语者-Q4_K_M.gguf", 4_000_000_000, 4.84, "23" * 32),
    ],
    imatrix={"name": "astro.imatrix.gguf", "sha256": "45" * 32},
    about=About(
        license="llama2", base_models=(Source("B", repo_url="https://huggingface.co/a/b"),), sampling={"temp": 1.0}
    ),
)
FIGURES = Divergence(
    "F16", Figures(400, 0.0123456, 0.96), {"en": Figures(200, 0.02, 0.95), "zh": Figures(200, 0.0047, 0.97)}
)


def test_what_it_holds() -> None:
    found = json.loads(manifest_of(RESULT).text())
    assert list(found) == [
        *(
            "format",
            "name",
            "inputs",
            "base",
            "adapters",
            "imatrix",
            "template",
            "tools",
            "platform",
            "about",
            "levels",
        ),
    ]
    assert found["base"] == {"name": "bayling-7b", "weights": 6_738_415_616, "context_length": 4096}
    assert found["adapters"] == RESULT.adapters
    assert found["imatrix"] == RESULT.imatrix
    assert found["template"] == "bayling"
    assert found["platform"] == {"machine": platform.machine(), "system": platform.system()}
    assert found["about"] == {
        "license": "llama2",
        "base_models": [{"name": "B", "repo_url": "https://huggingface.co/a/b"}],
    }
    assert set(found["tools"]) == {"stellar-local", "llama-cpp-python", "gguf", "numpy"}
    level = found["levels"]["Q8_0"]
    assert level["tensors"]["token_embd.weight"] == {"type": "Q6_K", "sha256": "ab" * 32}
    assert (level["file"], level["size"], level["bits_per_weight"]) == ("星语者-Q8_0.gguf", 7_000_000_000, 8.5001)


def test_one_line_a_tensor() -> None:
    text = manifest_of(RESULT).text()
    assert f'        "output_norm.weight": {{"type": "F32", "sha256": "{"cd" * 32}"}}\n' in text
    assert "星语者" in text
    assert max(map(len, text.splitlines())) < 130


def test_it_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    manifest = manifest_of(RESULT).measured({"Q4_K_M": FIGURES})
    again = parse_manifest(manifest.text())
    assert again == manifest
    assert again.levels["Q4_K_M"].divergence == FIGURES
    assert again.levels["Q8_0"].tensors == TENSORS
    # The recipe tells whether an earlier run made the same thing.
    assert again.recipe == manifest_of(RESULT).recipe
    assert read_manifest(tmp_path) is None
    (tmp_path / "manifest.json").write_bytes(manifest.text().encode())
    assert read_manifest(tmp_path) == manifest


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"format": 1', '"format": 9', "has the format 9"),
        ('"name": "星语者",', "", "damaged"),
        ('"levels"', '"other"', "damaged"),
        ("{", "", "damaged"),
        ("星语者-Q8_0.gguf", "../星语者-Q8_0.gguf", "is not the name of a .gguf file"),
        ("星语者-Q8_0.gguf", "notes.txt", "is not the name of a .gguf file"),
        ("ab" * 32, "xy", "is not a SHA-256"),
        ("7000000000", '"many"', "is not a size"),
        ("7000000000", "9" * 400, "is not a size"),
        ("4.84", '"few"', "damaged"),
        ("4.84", "9" * 400, "damaged"),
        ("4.84", "1e999", "damaged"),
        ("4.84", "NaN", "damaged"),
        ("6738415616", "Infinity", "damaged"),
        ("bayling-7b", r"\ud800", "damaged"),
        ('"tokens": 400', f'"tokens": {"9" * 400}', "damaged"),
        ('"tokens": 400', '"tokens": Infinity', "damaged"),
        ('"kl": 0.0123456', '"kl": "few"', "damaged"),
    ],
)
def test_a_damaged_one(old: str, new: str, message: str) -> None:
    text = manifest_of(RESULT).measured({"Q4_K_M": FIGURES}).text()
    assert old in text
    with pytest.raises(ModelError, match=message):
        parse_manifest(text.replace(old, new, 1), "somewhere/manifest.json")


@pytest.mark.parametrize("text", ["", "[]", "null", "[" * 100_000, '{"format": 1, "name": "x", "levels": []}'])
def test_what_is_no_manifest(text: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="damaged"):
        parse_manifest(text)
    (tmp_path / "manifest.json").write_bytes(b"\xff")
    with pytest.raises(StellarError, match="not UTF-8"):
        read_manifest(tmp_path)
