"""What model cards say: read as llama.cpp's converter reads it, without a path of this machine."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import gguf
import pytest

from convert.about import About, Source, is_local, read_about
from stellar_local.errors import UsageError

CARD = """---
license: llama2
license_link: https://example.org/llama2
base_model: meta-llama/Llama-2-7b
datasets:
- wikimedia/wikipedia
- https://huggingface.co/datasets-org/zh-astro-v2
language:
- zh
- en
- no
tags: [llama, astronomy]
pipeline_tag: text-generation
version: 2.0
author: 星语
---
# BayLing
"""


def write(folder: Path, card: str = "", **files: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if card:
        (folder / "README.md").write_text(card, encoding="utf-8")
    for name, data in files.items():
        (folder / f"{name}.json").write_text(json.dumps(data))
    return folder


def test_a_card_is_read_as_the_converter_reads_it(tmp_path: Path) -> None:
    base = write(tmp_path / "bayling-7b", CARD)
    found = read_about(base)
    theirs = gguf.Metadata.load(None, base)
    for name in ("author", "license", "license_link"):
        assert getattr(found, name) == getattr(theirs, name), name
    assert found.version == str(theirs.version)
    assert list(found.languages) == theirs.languages == ["zh", "en", "no"]
    assert list(found.tags) == theirs.tags
    for ours, expected in ((found.base_models, theirs.base_models), (found.datasets, theirs.datasets)):
        assert [{key: value for key, value in vars(item).items() if value} for item in ours] == expected
    assert found.base_models[0].id == "meta-llama/Llama-2-7b"


def test_an_adapters_card_tells_of_data_and_the_base_of_its_licence(tmp_path: Path) -> None:
    base = write(tmp_path / "bayling-7b", CARD)
    lora = "---\nlicense: mit\nbase_model: ictnlp/bayling-2-7b\ndatasets: [org/astro]\nlanguage: fr\n---\n"
    found = read_about(base, [write(tmp_path / "lora", lora)])
    assert (found.license, found.license_link) == ("llama2", "https://example.org/llama2")
    assert [source.id for source in found.base_models] == ["ictnlp/bayling-2-7b"]
    assert [source.id for source in found.datasets] == ["org/astro"]
    assert found.languages == ("zh", "en", "no", "fr")
    assert (found.author, found.version) == ("", "")
    silent = read_about(write(tmp_path / "silent"), [tmp_path / "lora"])
    assert silent.license == "mit"


@pytest.mark.parametrize(
    ("parts", "config", "expected"),
    [
        (("bayling-7b",), None, Source("Bayling 7b")),
        (("bayling-7b",), "ictnlp/bayling-2-7b", "ictnlp/bayling-2-7b"),
        (("bayling-7b",), "/home/someone/bayling-7b", Source("Bayling 7b")),
        (("models--ictnlp--bayling-2-13b", "snapshots", "0a1b"), None, "ictnlp/bayling-2-13b"),
    ],
)
def test_the_base_of_an_adapter(
    parts: tuple[str, ...], config: str | None, expected: Source | str, tmp_path: Path
) -> None:
    files = {} if config is None else {"adapter_config": {"base_model_name_or_path": config}}
    found = read_about(write(tmp_path.joinpath(*parts)), [write(tmp_path / "lora", **files)]).base_models
    assert len(found) == 1
    assert found[0] == expected or found[0].id == expected


def test_where_it_runs_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name on the Hub stays one where a folder of that name happens to be."""
    base = write(tmp_path / "base", CARD)
    lora = write(tmp_path / "lora", adapter_config={"base_model_name_or_path": "models/mine"})
    found = read_about(base), read_about(base, [lora])
    for name in ("meta-llama/Llama-2-7b", "wikimedia/wikipedia", "models/mine"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert (read_about(base), read_about(base, [lora])) == found
    assert [source.id for source in found[1].base_models] == ["models/mine"]


def test_no_path_gets_in(tmp_path: Path) -> None:
    paths = [
        "/home/u/base",
        "~/base",
        "./base",
        "..",
        r"C:\base",
        "a/b/c",
        "data/train.json",
        "file:///x",
    ]
    assert all(map(is_local, paths))
    names = ["ictnlp/bayling-2-7b", "https://huggingface.co/a/b/c", "llama2", "zh", "base_model:adapter:org/name"]
    assert not any(map(is_local, names))
    lists = "".join(f"- {json.dumps(path)}\n" for path in paths)
    tags = f"tags:\n- 'base_model:adapter:/tmp/x'\n{lists}"
    card = f"---\nbase_model:\n{lists}datasets:\n{lists}{tags}license: /tmp/x\n---\n"
    found = read_about(write(tmp_path / "base", card), [write(tmp_path / "lora", card)])
    assert found == About(base_models=(Source("Base"),))


BROKEN = {
    "no end of a list": "---\na: [\n---\n",
    "a list": "---\n- a list\n---\n",
    "no end of a text": "---\nno end: '\n",
    "a zero byte": "---\n\x00\n---\n",
    "half a character": '---\nlicense: "llama2\\ud800"\n---\n',
    "half a character in a list": '---\ntags: [a, "\\udfff"]\n---\n',
    "a number of 5,000 digits": f"---\nversion: 0x{'F' * 5000}\n---\n",
}


@pytest.mark.parametrize("card", BROKEN.values(), ids=BROKEN)
def test_a_broken_card_is_a_warning(card: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert read_about(write(tmp_path / "base", card)) == About()
    printed = capsys.readouterr().err
    assert printed.startswith("stellar: warning: the front matter of base/README.md is left out")
    assert printed.count("\n") == 1 and str(tmp_path) not in printed
    assert not logging.getLogger("metadata").disabled


def test_cards_without_front_matter_say_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bytes").mkdir()
    (tmp_path / "bytes/README.md").write_bytes(b"\xff\xfe not UTF-8")
    assert read_about(write(tmp_path / "base", "# Title\n")) == About()
    assert capsys.readouterr().err == ""
    assert read_about(tmp_path / "bytes") == About()
    assert capsys.readouterr().err.count("\n") == 1


def test_sampling_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"temperature": 1, "top_p": 0.9, "top_k": 50.0, "repetition_penalty": 1.1, "do_sample": True}
    found = read_about(write(tmp_path / "a", generation_config=settings)).sampling
    assert found == {"top_k": 50, "top_p": 0.9, "temp": 1.0, "penalty_repeat": 1.1}
    assert [type(value) for value in found.values()] == [int, float, float, float]
    assert capsys.readouterr().err == ""
    broken = {"temperature": "hot", "top_k": 1.5, "top_p": True, "min_p": None, "mirostat": 1 << 40}
    broken |= {"xtc_probability": float("nan"), "xtc_threshold": float("inf"), "mirostat_tau": int("9" * 400)}
    broken |= {"penalty_last_n": -(1 << 31)}
    assert read_about(write(tmp_path / "b", generation_config=broken)).sampling == {}
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 8 and all("has no usable" in line and len(line) < 200 for line in lines)
    (tmp_path / "c").mkdir()
    (tmp_path / "c/generation_config.json").write_text("{")
    assert read_about(tmp_path / "c").sampling == {}
    assert "sampling settings of the base are left out" in capsys.readouterr().err


def test_overrides_win(tmp_path: Path) -> None:
    changes = {
        "license": "apache-2.0",
        "base_models": ["a/b"],
        "languages": ["zh"],
        "sampling": {"temp": 1, "top_k": 2.0},
    }
    found = read_about(write(tmp_path / "base", CARD), overrides=changes)
    assert (found.license, found.base_models[0].id, found.languages) == ("apache-2.0", "a/b", ("zh",))
    assert found.sampling == {"temp": 1.0, "top_k": 2}
    assert found.author == "星语"
    with pytest.raises(UsageError, match="licence"):
        read_about(tmp_path / "base", overrides={"licence": "mit"})
    with pytest.raises(UsageError, match="the license of a model's description is no text"):
        read_about(tmp_path / "base", overrides={"license": "mit\udcff"})  # as Python reads an argument in Latin-1
