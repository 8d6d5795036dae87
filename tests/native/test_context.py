"""Decoding: right logits by an independent reference, and preconditions that never reach llama.cpp."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from stellar_local.errors import StellarError, UsageError
from stellar_local.native.context import Context, Decoded, Entry
from stellar_local.native.model import Model

TOKENS = [1, 20, 300, 41, 77, 5]


@pytest.fixture(scope="module")
def model(spm_model: Path) -> Iterator[Model]:
    with Model(spm_model) as model:
        yield model


@pytest.fixture
def context(model: Model) -> Iterator[Context]:
    with Context(model, 256, sequences=3, n_batch=32) as context:
        yield context


def prompt(sequence: int = 0, tokens: list[int] = TOKENS, start: int = 0) -> list[Entry]:
    last = len(tokens) - 1
    return [Entry(token, start + at, sequence, at == last) for at, token in enumerate(tokens)]


def test_logits_equal_transformers(context: Context, spm_base: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(spm_base)
    with torch.no_grad():
        expected = reference(torch.tensor([TOKENS])).logits[0, -1].numpy()
    assert context.decode(prompt()) is Decoded.DONE
    logits = context.logits(len(TOKENS) - 1)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, atol=2e-3)  # the KV cache is float16
    assert int(logits.argmax()) == int(expected.argmax())


def test_sequences_do_not_mix(context: Context) -> None:
    context.decode(prompt(0))
    alone = context.logits(len(TOKENS) - 1)
    context.truncate(0, 0)
    context.decode([*prompt(1, [9, 8, 7]), *prompt(2)])
    np.testing.assert_allclose(context.logits(3 + len(TOKENS) - 1), alone, atol=1e-3)


def test_a_copied_prefix_counts_as_read(context: Context) -> None:
    context.decode(prompt(0))
    whole = context.logits(len(TOKENS) - 1)
    context.truncate(0, 3)
    context.copy(0, 1)
    assert context.length(1) == 3
    context.decode(prompt(1, TOKENS[3:], start=3))
    np.testing.assert_allclose(context.logits(2), whole, atol=1e-3)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([], "a batch holds 1 to 32"),
        ([Entry(1, at, 0) for at in range(33)], "a batch holds 1 to 32"),
        ([Entry(-1, 0, 0)], "outside the vocabulary"),
        ([Entry(10**6, 0, 0)], "outside the vocabulary"),
        ([Entry(1, 0, 3)], "sequence 3 does not exist"),
        ([Entry(1, 0, -1)], "sequence -1 does not exist"),
        ([Entry(1, 1, 0)], "position 1 does not continue sequence 0 at 0"),
        ([Entry(1, 0, 0), Entry(1, 0, 0)], "position 0 does not continue"),
    ],
)
def test_broken_preconditions_are_errors(entries: list[Entry], message: str, context: Context) -> None:
    with pytest.raises(StellarError) as caught:
        context.decode(entries)
    assert message in caught.value.message
    assert context.decode(prompt()) is Decoded.DONE


def test_logits_that_were_not_asked_for_are_an_error(context: Context) -> None:
    with pytest.raises(StellarError, match="no logits"):
        context.logits(0)
    context.decode(prompt())
    with pytest.raises(StellarError, match="no logits"):
        context.logits(0)
    assert context.logits(len(TOKENS) - 1).shape == (context.model.n_vocab,)


def test_a_full_memory_is_reported_not_fatal(model: Model) -> None:
    with Context(model, 256, n_batch=32) as context:
        size = context.n_ctx
        for start in range(0, size, 32):
            assert context.decode([Entry(5, start + at, 0) for at in range(32)]) is Decoded.DONE
        assert context.decode([Entry(5, size, 0)]) is Decoded.FULL
        context.truncate(0, 10)
        assert context.decode([Entry(5, 10, 0)]) is Decoded.DONE


@pytest.mark.parametrize(("n_ctx", "sequences"), [(0, 1), (-5, 1), (256, 0), (256, 100000)])
def test_impossible_sizes(n_ctx: int, sequences: int, model: Model) -> None:
    with pytest.raises(UsageError):
        Context(model, n_ctx, sequences)


@pytest.mark.parametrize("kv", ["f16", "q8_0", "q4_0"])
def test_kv_types(kv: str, spm_base: Path, tmp_path: Path, model: Model) -> None:
    if kv != "f16":  # a quantized cache needs rows of whole 32-blocks: the tiny model's heads are 16 wide
        with pytest.raises(StellarError, match="cannot create a context"):
            Context(model, 256, kv_type=kv)
        return
    with Context(model, 256, kv_type=kv) as context:
        assert context.decode(prompt()) is Decoded.DONE


def test_abort_ends_a_decode_and_the_context_goes_on(context: Context) -> None:
    context.abort()
    assert context.decode(prompt()) is Decoded.ABORTED
    context.clear_abort()
    context.truncate(0, 0)
    assert context.decode(prompt()) is Decoded.DONE


@pytest.mark.real
def test_abort_is_heard_within_a_long_decode(real_model: Path) -> None:
    """On the real model, a 512-token prefill cut short from another thread."""
    with Model(real_model) as model, Context(model, 1024) as context:
        entries = [Entry(100 + at, at, 0) for at in range(512)]
        threading.Timer(0.05, context.abort).start()
        assert context.decode(entries) is Decoded.ABORTED
        time.sleep(0.01)
        assert context.length(0) < 512
