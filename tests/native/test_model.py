"""Vocabulary and loading, against the tokenizers' own libraries."""

from __future__ import annotations

from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from stellar_local.errors import ModelError
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
