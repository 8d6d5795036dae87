"""Bases and adapters that the conversion tests share, and llama.cpp's own quantizer and tokenizer to compare with."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import llama_cpp
import llama_source
import pytest
from gguf_facts import KINDS
from tiny import write_adapter, write_base

from stellar_local.native import library


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A base of each kind, made when first asked for."""
    made: dict[str, Path] = {}

    def get(kind: str) -> Path:
        if kind not in made:
            tokenizer, fields = KINDS[kind]
            made[kind] = write_base(tmp_path_factory.mktemp("base") / kind, tokenizer, **fields)
        return made[kind]

    return get


@pytest.fixture(scope="session")
def adapter(bases: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rank-4 adapter of the first base."""
    return write_adapter(bases("spm-gqa-64"), tmp_path_factory.mktemp("adapter") / "lora")


@pytest.fixture(scope="session")
def silence() -> None:
    """llama.cpp with its log routed as everywhere in this project: quiet."""
    library.api()


@pytest.fixture(scope="session")
def llama_quantize(silence: None) -> Callable[[Path, Path, int], None]:
    """llama.cpp's own quantizer: (F32 GGUF, output, file type)."""

    def run(source: Path, target: Path, ftype: int) -> None:
        params = llama_cpp.llama_model_quantize_default_params()
        params.ftype, params.nthread = ftype, 2
        assert llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)) == 0

    return run


@pytest.fixture(scope="session")
def llama_tokens(silence: None) -> Callable[..., list[list[int]]]:
    """llama.cpp's tokens of texts with a GGUF's vocabulary: (GGUF, texts, add_special=False)."""

    def run(path: Path, texts: list[str], add_special: bool = False) -> list[list[int]]:
        params = llama_cpp.llama_model_default_params()
        params.vocab_only = True
        model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        assert model
        vocabulary = llama_cpp.llama_model_get_vocab(model)
        out = []
        for text in texts:
            raw = text.encode("utf-8")
            room = (llama_cpp.llama_token * (len(raw) + 8))()
            count = llama_cpp.llama_tokenize(vocabulary, raw, len(raw), room, len(room), add_special, False)
            assert count >= 0
            out.append(list(room[:count]))
        llama_cpp.llama_model_free(model)
        return out

    return run


@pytest.fixture(scope="session")
def llama_cpp_source(request: pytest.FixtureRequest) -> Path:
    """llama.cpp's Python converters; skips, saying why, where they cannot be had."""
    cache = request.config.cache
    assert cache is not None
    return llama_source.find(cache.mkdir("llama_source"))
