"""Vocabulary and loading, against the tokenizers' own libraries."""

from __future__ import annotations

import ctypes
import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from stellar_local.errors import ModelError, UsageError
from stellar_local.native import model as model_module
from stellar_local.native.devices import Device
from stellar_local.native.model import Model

TEXTS = [
    "",
    " ",
    "Hello world",
    " leading",
    "两只黄鹂鸣翠柳",
    "mixed 中文 text",
    "\n\n",
    "a\tb",
    "🌟🚀",
    "</s><|eot_id|>",
    "'s 123",
]


@pytest.fixture(scope="module")
def spm(spm_model: Path) -> Model:
    return Model(spm_model)


@pytest.fixture(scope="module")
def bpe(bpe_model: Path) -> Model:
    return Model(bpe_model)


def test_tokens_equal_sentencepiece_s(spm: Model, spm_base: Path) -> None:
    reference = sentencepiece.SentencePieceProcessor(model_file=str(spm_base / "tokenizer.model"))

    @settings(max_examples=200, deadline=None)
    @given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0▁")))
    def check(text: str) -> None:
        assert spm.tokenize(text) == reference.encode(text)

    check()
    for text in TEXTS:
        assert spm.tokenize(text) == reference.encode(text), text


def test_tokens_equal_tokenizers(bpe: Model, bpe_base: Path) -> None:
    reference = Tokenizer.from_file(str(bpe_base / "tokenizer.json"))
    reference.encode_special_tokens = True
    for text in TEXTS:
        assert bpe.tokenize(text) == reference.encode(text, add_special_tokens=False).ids, text


def test_pieces_join_to_the_text(spm: Model, bpe: Model) -> None:
    for text in TEXTS:
        assert bpe.text(bpe.tokenize(text)) == text
        assert spm.text(spm.tokenize(text)) in (text, " " + text)


def test_special_tokens(spm: Model, bpe: Model) -> None:
    assert (spm.bos, spm.eos, spm.special("</s>")) == (1, 2, 2)
    assert bpe.special("<|eot_id|>") == bpe.eos
    assert bpe.special("nothing special") is None
    assert spm.special("<|eot_id|>") is None
    assert bpe.is_eog(bpe.eos or 0)
    assert "<|start_header_id|>" in bpe.special_texts()
    assert bpe.piece(bpe.eos or 0) == b""


def test_a_token_outside_the_vocabulary_is_an_error_not_an_abort(spm: Model) -> None:
    for token in (-1, spm.n_vocab):
        with pytest.raises(ModelError, match="outside the vocabulary"):
            spm.piece(token)


def test_lone_surrogates_do_not_fail(spm: Model) -> None:
    assert spm.tokenize("\ud800") == spm.tokenize("?")


def test_close_twice(spm_model: Path) -> None:
    model = Model(spm_model)
    model.close()
    model.close()


def test_a_file_that_llama_cpp_refuses_gives_its_reason(spm_model: Path, tmp_path: Path) -> None:
    data = spm_model.read_bytes().replace(b"llama.context_length", b"llama.context_lenhtg")
    path = tmp_path / "odd.gguf"
    path.write_bytes(data)
    with pytest.raises(ModelError, match="context_length"):
        Model(path)


LINUX = pytest.mark.skipif(sys.platform != "linux", reason="what a process has mapped and locked is read from /proc")
TOKENS = [1, 20, 300, 41, 77, 5]


def answer(model: Model) -> list[float]:
    from stellar_local.native.context import Chunk, Context

    with Context(model, 256) as context:
        context.decode([Chunk(0, 0, TOKENS, 1)])
        return [float(value) for value in context.logits[0]]


@LINUX
@pytest.mark.parametrize(("mmap", "mapped"), [("auto", True), ("on", True), ("off", False)])
def test_a_file_is_mapped_or_read(mmap: str, mapped: bool, spm_model: Path, spm: Model, tmp_path: Path) -> None:
    copy = tmp_path / "copy.gguf"  # no other test has it open
    copy.write_bytes(spm_model.read_bytes())
    with Model(copy, mmap=mmap) as model:
        assert (str(copy) in Path("/proc/self/maps").read_text()) == mapped
        assert answer(model) == answer(spm)


_LOCK = """
import ctypes, json, resource, sys
from pathlib import Path
limit = int(sys.argv[2])
if limit >= 0:
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit, limit))
from stellar_local.native.model import Model
with Model(Path(sys.argv[1]), mmap=sys.argv[3], mlock=sys.argv[4] == "on") as model:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmLck"))
    print(json.dumps([int(line.split()[1]) * 1024, model.notes]))
"""


def locked(path: Path, limit: int, mmap: str, mlock: str, may_more: bool = True) -> tuple[int, list[str]]:
    """The bytes that a fresh process has locked with a model, and the model's notes."""

    def no_capability() -> None:
        prctl, drop, ipc_lock = ctypes.CDLL(None).prctl, 24, 14  # PR_CAPBSET_DROP, CAP_IPC_LOCK: root may lock anything
        prctl(drop, ipc_lock, 0, 0, 0)

    argv = [sys.executable, "-c", _LOCK, str(path), str(limit), mmap, mlock]
    done = subprocess.run(
        argv,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT)},
        preexec_fn=None if may_more else no_capability,
    )
    assert done.returncode == 0, done.stderr
    size, notes = json.loads(done.stdout)
    return size, notes


@LINUX
def test_a_locked_model_is_locked_or_the_user_is_told(spm_model: Path) -> None:
    weights = spm_model.stat().st_size - 65536  # but for its header
    assert locked(spm_model, -1, "auto", "off") == (0, [])
    for mmap in ("auto", "on", "off"):
        size, notes = locked(spm_model, -1, mmap, "on")
        assert (size > weights) == (not notes)
    size, (note,) = locked(spm_model, 65536, "auto", "on", may_more=False)
    assert size <= 65536
    assert f"the model's {weights / (1 << 20):,.0f} MiB: this process may lock 0 MiB (`ulimit -l`, in KiB)" in note


def test_what_else_keeps_a_model_from_being_locked_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["something else", "warning: mlock not supported on this system"]
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY,) * 2)
    told = model_module._unlocked(lines, 5 << 20)
    assert told == "--mlock cannot lock all of the model's 5 MiB: mlock not supported on this system"
    assert model_module._unlocked(lines[:1], 5 << 20) == ""


def device(name: str, integrated: bool = False) -> Device:
    return Device(name, f"card {name}", 1, 2, integrated)


def loaded_with(monkeypatch: pytest.MonkeyPatch, devices: Sequence[Device], path: Path, **options: Any) -> Any:
    """What llama.cpp is asked to load a model with, on a machine with these GPUs."""
    asked: list[Any] = []
    api = model_module.api()
    monkeypatch.setattr(model_module, "gpus", lambda: list(devices))
    monkeypatch.setattr(
        api, "llama_model_load_from_file", lambda name, params: asked.append((params, shares(params, api)))
    )
    with pytest.raises(ModelError, match="cannot load"):
        Model(path, **options)
    return asked[0]


def shares(params: Any, api: Any) -> list[float] | None:
    return params.tensor_split[: api.llama_max_devices()] if params.tensor_split else None


def test_each_gpu_s_share_reaches_llama_cpp(monkeypatch: pytest.MonkeyPatch, spm_model: Path) -> None:
    """Simulated: as many numbers as llama.cpp may read, those of GPUs that are not there being 0."""
    cards = [device("CUDA0"), device("CUDA1")]
    _, found = loaded_with(monkeypatch, cards, spm_model, tensor_split=(3.0, 1.0))
    assert found is not None and found[:2] == [3, 1] and not any(found[2:]) and len(found) == 16
    assert loaded_with(monkeypatch, cards, spm_model)[1] is None


def test_a_gpu_without_a_share_is_not_opened(monkeypatch: pytest.MonkeyPatch, spm_model: Path) -> None:
    """Simulated: the list of devices holds those with a share, and a null; without layers, a null alone."""
    cards = [replace(device(f"CUDA{number}"), handle=1000 + number) for number in range(3)]
    pointer = ctypes.POINTER(ctypes.c_void_p)
    params, found = loaded_with(monkeypatch, cards, spm_model, tensor_split=(3.0, 0.0, 1.0))
    assert ctypes.cast(params.devices, pointer)[:3] == [1000, 1002, None]
    assert found is not None and found[:3] == [3, 1, 0]
    params, found = loaded_with(monkeypatch, cards, spm_model, gpu_layers=0)
    assert ctypes.cast(params.devices, pointer)[0] is None
    assert found is None
    assert loaded_with(monkeypatch, cards, spm_model)[0].devices is None


@pytest.mark.parametrize(
    ("count", "split", "message"),
    [
        (0, (1.0, 1.0), "--tensor-split divides a model between GPUs, and llama.cpp has none here"),
        (2, (1.0,), "--tensor-split has 1 shares for 2 GPUs: CUDA0 (card CUDA0), CUDA1 (card CUDA1)"),
        (2, (1.0, 1.0, 1.0), "--tensor-split has 3 shares for 2 GPUs"),
        (2, (0.0, 0.0), "--tensor-split leaves out every GPU"),
    ],
)
def test_shares_that_do_not_match_the_gpus_are_refused(
    count: int, split: tuple[float, ...], message: str, monkeypatch: pytest.MonkeyPatch, spm_model: Path
) -> None:
    monkeypatch.setattr(model_module, "gpus", lambda: [device(f"CUDA{number}") for number in range(count)])
    with pytest.raises(UsageError) as caught:
        Model(spm_model, tensor_split=split)
    assert message in caught.value.message and caught.value.hint


@pytest.mark.parametrize(
    ("mmap", "mlock", "devices", "mode"),
    [
        ("auto", False, [], -1),
        ("auto", True, [], 3),
        ("auto", True, [device("CUDA0")], 3),
        ("auto", True, [device("Vulkan0", integrated=True)], 2),  # for which llama.cpp's "auto" maps nothing either
        ("on", True, [device("Vulkan0", integrated=True)], 3),
        ("on", False, [], 1),
        ("off", True, [], 2),
        ("off", False, [], 0),
    ],
)
def test_how_a_file_is_loaded(
    mmap: str, mlock: bool, devices: list[Device], mode: int, monkeypatch: pytest.MonkeyPatch, spm_model: Path
) -> None:
    """The numbers of enum llama_load_mode in llama.h."""
    params, _ = loaded_with(monkeypatch, devices, spm_model, mmap=mmap, mlock=mlock)
    assert params.load_mode == mode
