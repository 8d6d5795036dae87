"""A model's sizes: against what llama.cpp says of the same files, and against numbers published of real models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from plan_cases import MIB, log_of, made_header, mib_in

from stellar_local.errors import ModelError
from stellar_local.native.header import read_header
from stellar_local.native.model import Model
from stellar_local.plan.estimate import Setup
from stellar_local.plan.shapes import shape_header
from stellar_local.plan.sparse import write_sparse
from stellar_local.plan.weights import Weights

KINDS = {
    "grouped": {},
    "each its own": {"heads": 16, "kv_heads": 16, "width": 1024, "inner": 2816},
    "one for all": {"heads": 16, "kv_heads": 1, "width": 1024, "inner": 2816},
    "tied": {"tied": True},
    "deep": {"layers": 12, "width": 512, "inner": 1408, "heads": 8, "kv_heads": 2},
}


@pytest.mark.parametrize("kind", KINDS)
def test_llama_cpp_counts_the_same(kind: str, tmp_path: Path) -> None:
    header, path = made_header(**KINDS[kind]), tmp_path / "made.gguf"
    write_sparse(header, None, path)
    weights = Weights.of(header)
    with Model(path, no_alloc=True) as model:
        assert model.size == weights.total
        assert model.n_vocab == weights.vocab
        assert model.n_ctx_train == weights.trained
    assert weights.tied == (kind == "tied")
    for n_ctx, kv, sequences, unified in [
        (4096, "f16", 1, True),
        (4000, "q8_0", 1, True),
        (300, "q4_0", 1, True),
        (8192, "q8_0", 24, True),
        (900, "f16", 3, False),
        (4096, "f16", 16, False),
        (257 * 7, "q4_0", 7, False),
    ]:
        setup = Setup(n_ctx, kv, sequences=sequences, unified=unified)
        stated = mib_in(log_of(path, setup), r"kv_cache: size")
        assert weights.kv(n_ctx, kv, streams=setup.streams) / MIB == pytest.approx(stated, abs=0.0051)


@pytest.mark.parametrize("kind", ["spm_model", "bpe_model"])
def test_a_converted_file(kind: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(kind)
    weights = Weights.of(read_header(path))
    with Model(path) as model:
        assert (weights.total, weights.vocab, weights.trained) == (model.size, model.n_vocab, model.n_ctx_train)
    assert (len(weights.blocks), weights.layers, weights.heads, weights.hidden, weights.inner) == (2, 3, 4, 64, 96)
    assert (weights.key_width, weights.value_width, weights.tied, weights.quantizable) == (32, 32, False, False)
    merges = read_header(path, whole=True).metadata.get("tokenizer.ggml.merges", [])
    assert (weights.merges, bool(weights.merges)) == (len(merges), kind == "bpe_model")
    assert weights.header == read_header(path).data_start


def test_merges_that_are_still_to_come() -> None:
    """LLaMA 3 has 280,147 of them (its tokenizer.json); LLaMA 2's vocabulary has none."""
    assert Weights.of(shape_header("8b", "Q4_K_M")).merges == pytest.approx(280_147, rel=0.01)
    assert Weights.of(shape_header("7b", "Q4_K_M")).merges == 0
    assert Weights.of(made_header(vocab=128256)).merges > 0


@pytest.mark.parametrize(
    ("name", "kv", "per_token"),
    [("7b", "f16", 512), ("7b", "q8_0", 272), ("7b", "q4_0", 144), ("13b", "f16", 800), ("13b", "q8_0", 425)],
)
def test_kib_of_a_token_as_published(name: str, kv: str, per_token: int) -> None:
    weights = Weights.of(shape_header(name, "Q4_K_M"))
    assert weights.kv(1024, kv) == per_token * MIB
    assert weights.kv(1024, kv, blocks=0) == 0
    assert len(weights.blocks) * weights.kv(1024, kv, blocks=1) == per_token * MIB
    assert weights.quantizable


def test_7b_with_sixteen_at_once_as_measured() -> None:
    assert Weights.of(shape_header("7b", "Q4_K_M")).kv(8192, "q8_0") == 2176 * MIB


def test_where_the_bytes_lie() -> None:
    header = made_header(width=1024, inner=2048, heads=16, kv_heads=4, vocab=1000, layers=3)
    weights = Weights.of(header)
    layer = 2 * (1024 * 1024 * 2 + 1024 * 256 * 2 + 3 * 1024 * 2048) + 2 * 4 * 1024
    assert weights.blocks == (layer,) * 3
    assert weights.embedding == 2 * 1000 * 1024
    assert weights.output == 2 * 1000 * 1024 + 4 * 1024
    tied = Weights.of(made_header(width=1024, inner=2048, heads=16, kv_heads=4, vocab=1000, layers=3, tied=True))
    assert (tied.tied, tied.output, tied.embedding) == (True, 4 * 1024, weights.embedding)


def test_a_list_for_each_layer_counts_as_its_largest() -> None:
    header = made_header(attention__head_count_kv=[2, 8], feed_forward_length=[1000, 3000])
    assert Weights.of(header).key_width == Weights.of(made_header(kv_heads=8)).key_width == 8 * 64
    assert Weights.of(header).inner == 3000


def test_what_a_header_need_not_state() -> None:
    plain = made_header(heads=16, kv_heads=16, width=1024, inner=2048)
    keys = {"attention__head_count_kv": None, "attention__key_length": None, "attention__value_length": None}
    silent = Weights.of(made_header(heads=16, kv_heads=16, width=1024, inner=2048, **keys))
    assert replace(silent, header=0) == replace(Weights.of(plain), header=0)
    assert not Weights.of(made_header(attention__key_length=80)).quantizable


@pytest.mark.parametrize(
    "key", ["block_count", "embedding_length", "attention.head_count", "feed_forward_length", "context_length"]
)
@pytest.mark.parametrize("value", [None, 0, "many", []])
def test_a_header_that_does_not_say_enough(key: str, value: object) -> None:
    header = made_header(**{key.replace(".", "__"): value})
    with pytest.raises(ModelError, match=rf"^the header of made-F16.gguf does not state llama.{key}$"):
        Weights.of(header)
