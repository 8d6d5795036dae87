"""Looking on while llama.cpp computes: right values by NumPy, exceptions that are not lost, builds that are unknown."""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from stellar_local.errors import StellarError
from stellar_local.native import observe
from stellar_local.native.context import Chunk, Context
from stellar_local.native.model import Model
from stellar_local.native.observe import Node, Observer

TOKENS = list(range(3, 40))


def run(model: Path, observer: Observer | None, active: bool = True) -> np.ndarray:
    """The logits of all tokens."""
    with Model(model) as opened, Context(opened, 64, n_batch=64, outputs=64, observer=observer) as context:
        if observer:
            observer.active = active
        context.decode([Chunk(0, 0, TOKENS, len(TOKENS))])
        return context.logits.copy()


def weights(model: Path, name: str) -> np.ndarray:
    import gguf

    return next(np.array(item.data) for item in gguf.GGUFReader(model).tensors if item.name == name)


def test_products_are_what_numpy_makes_of_their_sources(spm_model: Path) -> None:
    """Both factors as they are, and the product: of every matrix of a block."""
    seen: dict[str, float] = {}

    def take(node: Node) -> None:
        weight, factor = node.source(0), node.source(1)
        values = factor.read()
        assert (values.dtype, values.shape) == (np.float32, factor.shape[::-1])
        expected = values[0, 0] @ weights(spm_model, weight.name).T
        seen[weight.name] = float(np.abs(node.read()[0, 0] - expected).max())

    def wants(node: Node) -> bool:
        return node.operation == "MUL_MAT" and node.source(0).name.startswith("blk.")

    run(spm_model, Observer(wants, take))
    kinds = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    assert set(seen) == {f"blk.{block}.{kind}.weight" for block in (0, 1) for kind in kinds}
    assert max(seen.values()) < 1e-4


def test_what_does_not_lie_in_one_piece_is_read_by_its_strides(spm_model: Path) -> None:
    """The attention's queries: heads and positions changed places, and nothing was copied."""
    found: list[tuple[np.ndarray, np.ndarray]] = []

    def take(node: Node) -> None:
        turned = node.source(1)
        found.append((turned.read().copy(), turned.source(0).read().copy()))

    def wants(node: Node) -> bool:
        return node.operation == "MUL_MAT" and node.source(1).name.startswith("Qcur-0") and len(found) < 1

    with Model(spm_model) as model:
        observer = Observer(wants, take)
        with Context(model, 64, n_batch=64, flash_attn="off", observer=observer) as context:
            observer.active = True
            context.decode([Chunk(0, 0, TOKENS)])
    ((turned, source),) = found
    assert turned.shape == (1, 4, len(TOKENS), 16)
    np.testing.assert_array_equal(turned[0], source.reshape(len(TOKENS), 4, 16).swapaxes(0, 1))


def test_logits_are_the_same_with_an_observer(spm_model: Path) -> None:
    alone = run(spm_model, None)
    calls: list[str] = []

    def wants(node: Node) -> bool:
        calls.append(node.name)
        return node.operation == "MUL_MAT"

    observer = Observer(wants, lambda node: None)
    np.testing.assert_array_equal(run(spm_model, observer, active=False), alone)
    assert not calls
    np.testing.assert_array_equal(run(spm_model, observer), alone)
    assert "result_norm" in calls


def test_an_exception_ends_the_batch_and_no_more(spm_model: Path) -> None:
    """It comes out of decode, once; the context then goes on as if nothing had been."""
    alone = run(spm_model, None)
    failing = True

    def take(node: Node) -> None:
        if failing:
            raise KeyError(node.source(0).name)

    with Model(spm_model) as model:
        observer = Observer(lambda node: node.operation == "MUL_MAT", take)
        with Context(model, 64, n_batch=64, outputs=64, observer=observer) as context:
            observer.active = True
            with pytest.raises(KeyError, match=r"blk\.0\.attn_q\.weight"):
                context.decode([Chunk(0, 0, TOKENS, len(TOKENS))])
            failing = False
            context.truncate(0, 0)
            context.decode([Chunk(0, 0, TOKENS, len(TOKENS))])
            np.testing.assert_array_equal(context.logits, alone)


def test_ctrl_c_in_a_callback_is_not_lost(spm_model: Path) -> None:
    def wants(node: Node) -> bool:
        os.kill(os.getpid(), signal.SIGINT)
        return False

    with pytest.raises(KeyboardInterrupt):
        run(spm_model, Observer(wants, lambda node: None))


def test_what_cannot_be_read_is_said(spm_model: Path) -> None:
    """The KV memory is float16; the rows of embeddings have no second source."""

    def wants(node: Node) -> bool:
        if node.operation == "GET_ROWS":
            with pytest.raises(StellarError, match="has no source 5"):
                node.source(5)
        if node.operation == "SET_ROWS":
            node.read()
        return False

    with pytest.raises(StellarError, match=r"the values of .* cannot be read: type 1"):
        run(spm_model, Observer(wants, lambda node: None))


def test_names_of_copies_are_those_of_the_tensors() -> None:
    for name in (b"CUDA0#blk.0.attn_k.weight#0", b"blk.0.attn_k.weight", b"CUDA1#blk.0.attn_k.weight"):
        tensor = observe._Tensor(name=name)
        assert Node(ctypes.addressof(tensor)).name == "blk.0.attn_k.weight"


@pytest.fixture
def unproved() -> None:
    observe._ggml.cache_clear()
    yield
    observe._ggml.cache_clear()


def test_tensors_of_another_size_are_refused(unproved: None, monkeypatch: pytest.MonkeyPatch) -> None:
    class Longer(observe._Tensor):
        _fields_ = [("more", ctypes.c_int64 * 2)]

    monkeypatch.setattr(observe, "_Tensor", Longer)
    with pytest.raises(StellarError, match="another than the one we know .its tensors take 336 bytes, not 352"):
        Observer(lambda node: False, lambda node: None)


@pytest.mark.parametrize(
    ("first", "second", "wrong"),
    [("ne", "nb", "shape, strides"), ("buffer", "extra", "buffer"), ("data", "view_offs", "view, data")],
)
def test_tensors_laid_out_otherwise_are_refused(
    first: str, second: str, wrong: str, unproved: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two fields of one size that changed places."""
    names = {first: second, second: first}
    fields = [(names.get(name, name), kind) for name, kind in observe._Tensor._fields_]
    monkeypatch.setattr(observe, "_Tensor", type("Other", (ctypes.Structure,), {"_fields_": fields}))
    with pytest.raises(StellarError, match=f"its tensors have another {wrong}"):
        Observer(lambda node: False, lambda node: None)
