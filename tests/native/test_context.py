"""Decoding: right logits by an independent reference, and preconditions that never reach llama.cpp."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from state_cases import KV_TYPES

from stellar_local.errors import StellarError, UsageError
from stellar_local.native.adapter import Adapter
from stellar_local.native.context import Chunk, Context, Decoded
from stellar_local.native.cores import physical_cores
from stellar_local.native.library import api
from stellar_local.native.model import Model

TOKENS = [1, 20, 300, 41, 77, 5]


@pytest.fixture
def context(model: Model) -> Iterator[Context]:
    with Context(model, 256, sequences=3, n_batch=32) as context:
        yield context


def prompt(sequence: int = 0, tokens: list[int] = TOKENS, start: int = 0) -> Chunk:
    return Chunk(sequence, start, tokens, 1)


def test_logits_equal_transformers(context: Context, spm_base: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(spm_base)
    with torch.no_grad():
        expected = reference(torch.tensor([TOKENS])).logits[0, -1].numpy()
    assert context.decode([prompt()]) is Decoded.DONE
    logits = context.logits[0]
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, atol=2e-3)  # the KV cache is float16
    assert int(logits.argmax()) == int(expected.argmax())


def test_sequences_do_not_mix(context: Context) -> None:
    context.decode([prompt(0)])
    alone = context.logits[0].copy()
    context.truncate(0, 0)
    context.decode([prompt(1, [9, 8, 7]), prompt(2)])
    np.testing.assert_allclose(context.logits[1], alone, atol=1e-3)
    context.decode([Chunk(1, 3, [5]), Chunk(2, len(TOKENS), [9], 1)])  # one that is not wanted has no row
    assert context.logits.shape == (1, context.model.n_vocab)


def test_a_copied_prefix_counts_as_read(context: Context) -> None:
    context.decode([prompt(0)])
    whole = context.logits[0].copy()
    context.copy(0, 1, 3)
    assert (context.length(0), context.length(1)) == (len(TOKENS), 3)
    context.decode([prompt(1, TOKENS[3:], start=3)])
    np.testing.assert_allclose(context.logits[0], whole, atol=1e-3)
    with pytest.raises(StellarError, match="sequence 1 holds 6 tokens, not 7"):
        context.copy(1, 2, 7)


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        ([], "a batch holds 1 to 32"),
        ([Chunk(0, 0, [])], "a batch holds 1 to 32"),
        ([Chunk(0, 0, [], 1)], "a chunk of 0 tokens has no logits of 1"),
        ([Chunk(0, 0, [1], -1)], "a chunk of 1 tokens has no logits of -1"),
        ([Chunk(0, 0, [1] * 33)], "a batch holds 1 to 32"),
        ([Chunk(0, 0, [-1])], "token -1 is outside the vocabulary"),
        ([Chunk(0, 0, [1, 10**6])], "token 1000000 is outside the vocabulary"),
        ([Chunk(3, 0, [1])], "sequence 3 does not exist"),
        ([Chunk(-1, 0, [1])], "sequence -1 does not exist"),
        ([Chunk(0, 1, [1])], "position 1 does not continue sequence 0 at 0"),
        ([Chunk(0, 0, [1]), Chunk(0, 0, [1])], "position 0 does not continue"),
        ([Chunk(0, 0, [1] * 4, 4)], "the logits of 3 tokens at most, not of 4"),
    ],
)
def test_broken_preconditions_are_errors(chunks: list[Chunk], message: str, context: Context) -> None:
    with pytest.raises(StellarError) as caught:
        context.decode(chunks)
    assert message in caught.value.message
    assert context.decode([prompt()]) is Decoded.DONE


def test_logits_of_several_tokens_of_a_chunk(model: Model) -> None:
    with Context(model, 256, sequences=2, n_batch=32, outputs=16) as context:
        context.decode([prompt()])
        last = context.logits[0].copy()
        context.truncate(0, 0)
        context.decode([Chunk(0, 0, TOKENS, len(TOKENS)), Chunk(1, 0, [9, 8], 1)])
        rows = context.logits.copy()
        assert rows.shape == (len(TOKENS) + 1, model.n_vocab)
        np.testing.assert_allclose(rows[len(TOKENS) - 1], last, atol=1e-3)
        context.truncate(0, 0)
        context.decode([prompt(tokens=TOKENS[:3])])
        np.testing.assert_allclose(rows[2], context.logits[0], atol=1e-3)


def test_logits_that_were_not_asked_for_are_none(context: Context) -> None:
    assert context.logits.shape == (0, context.model.n_vocab)
    context.decode([Chunk(0, 0, TOKENS)])
    assert context.logits.shape == (0, context.model.n_vocab)


def test_separate_memory_has_a_share_for_each(model: Model) -> None:
    with Context(model, 512, sequences=2, n_batch=256, unified=False) as context:
        assert (context.n_ctx, context.capacity) == (512, 256)
        context.decode([prompt(0)])
        whole = context.logits[0].copy()
        assert context.decode([Chunk(1, 0, [5] * 256)]) is Decoded.DONE
        assert context.decode([Chunk(1, 256, [5])]) is Decoded.FULL
        context.copy(0, 1, 3)  # copies everything, and forgets the rest
        assert context.length(1) == 3
        context.truncate(0, 0)
        context.decode([prompt(1, TOKENS[3:], start=3)])
        np.testing.assert_allclose(context.logits[0], whole, atol=1e-3)


def test_a_full_memory_is_reported_not_fatal(model: Model) -> None:
    with Context(model, 256, n_batch=32) as context:
        size = context.n_ctx
        for start in range(0, size, 32):
            assert context.decode([Chunk(0, start, [5] * 32)]) is Decoded.DONE
        assert context.decode([Chunk(0, size, [5])]) is Decoded.FULL
        context.truncate(0, 10)
        assert context.decode([Chunk(0, 10, [5])]) is Decoded.DONE


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
        assert context.decode([prompt()]) is Decoded.DONE


def test_a_quantized_cache_needs_flash_attention(model: Model) -> None:
    for kv in ("q8_0", "q4_0"):
        with pytest.raises(UsageError, match=f"--kv {kv} needs flash attention") as caught:
            Context(model, 256, kv_type=kv, flash_attn="off")
        assert caught.value.hint == "give --flash-attn auto, or --kv f16"


@pytest.mark.parametrize("unified", [True, False], ids=["unified", "separate"])
@pytest.mark.parametrize(("asked", "said"), [("auto", "auto"), ("on", "enabled"), ("off", "disabled")])
def test_flash_attention_reaches_llama_cpp_and_changes_no_answer(
    asked: str,
    said: str,
    unified: bool,
    spm_base: Path,
    model: Model,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    monkeypatch.setattr("stellar_local.native.library._verbose", True)
    with Context(model, 512, 2, flash_attn=asked, unified=unified) as context:
        log = capsys.readouterr().err
        assert f"flash_attn            = {said}\n" in log
        assert ("Flash Attention enabled" in log) == (asked == "auto")  # it was looked whether the processor has it
        with torch.no_grad():
            expected = AutoModelForCausalLM.from_pretrained(spm_base)(torch.tensor([TOKENS])).logits[0, -1].numpy()
        context.decode([prompt()])
        np.testing.assert_allclose(context.logits[0], expected, atol=2e-3)
        context.copy(0, 1, 3)
        context.decode([prompt(1, TOKENS[3:], start=3)])
        np.testing.assert_allclose(context.logits[0], expected, atol=2e-3)


@pytest.mark.parametrize(
    ("options", "flash"),
    [
        ({}, False),
        ({"sequences": 2}, True),
        ({"sequences": 2, "unified": False}, True),
        ({"flash_attn": "on"}, True),
        ({"n_ctx": 1 << 17}, True),  # 4 heads, 512 tokens, 131,072 cells: 1 GiB of scores
        ({"n_ctx": 1 << 17, "n_batch": 256}, False),
    ],
)
def test_one_sequence_on_the_processor_goes_without_flash_attention(
    options: dict[str, Any],
    flash: bool,
    model: Model,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Where all its scores fit into half a GiB. What was chosen, llama.cpp's log says."""
    monkeypatch.setattr("stellar_local.native.library._verbose", True)
    with Context(model, **{"n_ctx": 512, **options}) as context:
        log = capsys.readouterr().err
        assert (context.flash, "flash_attn            = disabled\n" in log) == (flash, not flash)


@pytest.mark.parametrize("flash_attn", ["on", "off"])
def test_what_is_no_number_does_not_outlive_its_text(flash_attn: str, wide_model: Path, wide_lora: Path) -> None:
    """An adapter at a scale at which numbers overflow; without flash attention a cell that nobody sees counts too."""
    with Model(wide_model) as model, Context(model, 256, flash_attn=flash_attn) as context:
        adapter = Adapter(model, wide_lora)
        context.decode([prompt()])
        expected = context.logits[0].copy()
        for seen in (1, 0):  # in the logits, or by nobody, as in a prompt that was given up
            context.set_adapters({adapter: 1e30})
            context.truncate(0, 0)
            context.decode([Chunk(0, 0, TOKENS * 3, seen)])
            assert not seen or np.isnan(context.logits).all()
            context.set_adapters({})
            context.truncate(0, 0)
            context.decode([prompt()])
            np.testing.assert_array_equal(context.logits[0], expected)


def test_a_gpu_and_a_quantized_cache_keep_flash_attention(wide_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Model(wide_model) as model:
        for kv in ("q8_0", "q4_0"):
            with Context(model, 256, kv_type=kv) as context:
                assert context.flash
        for layers, flash in ((1, True), (0, False)):  # a GPU, simulated
            monkeypatch.setattr(api(), "llama_supports_gpu_offload", lambda: True)
            model.gpu_layers = layers
            with Context(model, 256) as context:
                assert (context.offloaded, context.flash) == (bool(layers), flash)


@pytest.mark.parametrize(("asked", "made"), [(1, 1), (7, 7), (64, 64), (512, 256), (1 << 16, 256)])
def test_the_batch_size_reaches_llama_cpp_and_changes_no_answer(
    asked: int, made: int, model: Model, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As large as the context at most. Several sequences may ask for a batch that is smaller than their number."""
    with Context(model, 256, flash_attn="on") as context:
        context.decode([prompt()])
        expected = context.logits[0].copy()
    monkeypatch.setattr("stellar_local.native.library._verbose", True)
    with Context(model, 256, 5, n_batch=asked) as context:
        log = capsys.readouterr().err
        assert f"n_batch               = {made}\n" in log and f"n_ubatch              = {made}\n" in log
        assert context.n_batch == made
        for start in range(0, len(TOKENS), made):
            context.decode([prompt(4, TOKENS[start : start + made], start)])
        np.testing.assert_allclose(context.logits[0], expected, atol=1e-3)


def test_a_batch_holds_something(model: Model) -> None:
    with pytest.raises(UsageError, match="a batch must hold at least one token"):
        Context(model, 256, n_batch=0)


TEXT = [1, *(3 + at * 37 % 400 for at in range(60))]


@pytest.mark.parametrize("kv", KV_TYPES)
def test_shifted_logits_are_those_of_doing_it_by_hand(kv: str, wide_model: Path) -> None:
    """llama.cpp's calls in the order of llama-server's context shift, on a context that is not ours."""
    llama = api()
    with Model(wide_model) as model:
        params = llama.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max, params.kv_unified = 256, 256, 256, 1, True
        params.type_k = params.type_v = {"f16": 1, "q8_0": 8, "q4_0": 2}[kv]
        params.flash_attn_type = 1
        params.n_threads = params.n_threads_batch = physical_cores()
        handle = llama.llama_init_from_model(model.handle, params)
        memory = llama.llama_get_memory(handle)

        def by_hand(tokens: list[int]) -> np.ndarray:
            array = (ctypes.c_int32 * len(tokens))(*tokens)
            assert llama.llama_decode(handle, llama.llama_batch_get_one(array, len(tokens))) == 0
            return np.ctypeslib.as_array(llama.llama_get_logits_ith(handle, -1), shape=(model.n_vocab,)).copy()

        by_hand(TEXT)
        llama.llama_memory_seq_rm(memory, 0, 10, 30)
        llama.llama_memory_seq_add(memory, 0, 30, -1, -20)
        expected = by_hand([9, 8, 7])
        last = llama.llama_memory_seq_pos_max(memory, 0)
        llama.llama_free(handle)
        with Context(model, 256, n_batch=256, kv_type=kv, flash_attn="on") as context:
            context.decode([Chunk(0, 0, TEXT)])
            assert context.settled
            context.shift(0, 10, 20)
            assert not context.settled
            assert context.length(0) == len(TEXT) - 20
            context.decode([Chunk(0, context.length(0), [9, 8, 7], 1)])
            assert context.settled
            np.testing.assert_array_equal(context.logits[0], expected)
            assert context.length(0) == last + 1 == len(TEXT) - 20 + 3


@pytest.mark.parametrize(("kv", "share"), [("f16", 0.01), ("q8_0", 0.05), ("q4_0", 0.5)])
def test_a_shifted_context_is_one_without_the_forgotten_tokens(kv: str, share: float, shallow_model: Path) -> None:
    """Of one layer, so that nothing of the forgotten tokens is left in the others; but for rounding, twice."""
    with Model(shallow_model) as model, Context(model, 256, 3, n_batch=256, kv_type=kv) as context:
        context.decode([Chunk(0, 0, [*TEXT[:10], *TEXT[30:]]), Chunk(1, 0, TEXT), Chunk(2, 0, TEXT)])
        context.shift(1, 10, 20)
        context.decode([Chunk(at, context.length(at), [9], 1) for at in range(3)])
        without, shifted, whole = context.logits
        apart = np.abs([shifted - without, whole - without]).mean(axis=1)
        assert apart[0] < share * apart[1]


def test_only_tokens_that_are_there_are_shifted(context: Context) -> None:
    context.decode([prompt()])
    for start, count in ((0, 7), (7, 0), (5, 2), (-1, 2), (2, -1)):
        with pytest.raises(StellarError, match="sequence 0 has no"):
            context.shift(0, start, count)
    context.shift(0, 6, 0)
    assert (context.length(0), context.settled) == (6, True)


def test_where_llama_cpp_cannot_shift_it_is_not_asked_to(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    context.decode([prompt()])
    assert context.can_shift
    monkeypatch.setattr(context._api, "llama_memory_can_shift", lambda memory: False)
    with pytest.raises(StellarError, match="cannot shift"):
        context.shift(0, 1, 2)
    assert context.length(0) == 6


def test_quantized_keys_that_are_not_rotated_cannot_be_shifted(
    wide_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """llama.cpp dereferences the rotation that is not there. Whether there is one, its log says."""
    monkeypatch.setattr("stellar_local.native.library._verbose", True)
    for value, rotated in (("0", True), ("-2x", False), ("off", True), ("", True), (" 01", False)):
        monkeypatch.setenv("LLAMA_ATTN_ROT_DISABLE", value)
        with Model(wide_model) as model, Context(model, 256, kv_type="q8_0") as context:
            assert f"attn_rot_k = {int(rotated)}," in capsys.readouterr().err
            assert (context.rotated, context.can_shift) == (rotated, rotated)
            context.decode([prompt()])
            if not rotated:
                with pytest.raises(StellarError, match="cannot shift this model's context with --kv q8_0"):
                    context.shift(0, 1, 2)


def test_abort_ends_a_decode_and_the_context_goes_on(context: Context) -> None:
    context.abort()
    assert context.decode([prompt()]) is Decoded.ABORTED
    context.clear_abort()
    context.truncate(0, 0)
    assert context.decode([prompt()]) is Decoded.DONE


@pytest.mark.real
def test_abort_is_heard_within_a_long_decode(real_model: Path) -> None:
    """On the real model, a 512-token prefill cut short from another thread."""
    with Model(real_model) as model, Context(model, 1024) as context:
        tokens = list(range(100, 612))
        threading.Timer(0.05, context.abort).start()
        assert context.decode([Chunk(0, 0, tokens)]) is Decoded.ABORTED
        time.sleep(0.01)
        assert context.length(0) < 512
