"""The arithmetic: layers go where llama.cpp puts them, parts add up, buffers are what llama.cpp says it would make."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_cases import GIB, MIB, cards, log_of, made_header, mib_in

from stellar_local.native.devices import Device
from stellar_local.plan.estimate import (
    CUBLAS_PROGRAM_SCORES,
    CUDA_PROGRAM,
    CUDA_PROGRAM_MORE,
    HOST,
    MERGE,
    PROGRAM,
    TOKEN,
    Buffers,
    Need,
    Parts,
    Setup,
    estimate,
    kernels,
    outputs,
    pool,
    scratch,
    spread,
    work,
)
from stellar_local.plan.hardware import CUDA_CONTEXT, Machine, stated_machine
from stellar_local.plan.probe import buffers_in
from stellar_local.plan.shapes import shape_header
from stellar_local.plan.sparse import write_sparse
from stellar_local.plan.weights import Weights

SEVEN = Weights.of(shape_header("7b", "Q4_K_M"))
TIED = Weights.of(made_header(tied=True, layers=5))


def llama_cpps(layers: int, asked: int, shares: list[float]) -> list[int]:
    """load_tensors of the pinned release, statement by statement; ctypes rounds to C's float."""

    def single(value: float) -> float:
        return ctypes.c_float(value).value

    splits, split_sum = [single(share) for share in shares], 0.0
    for number in range(len(splits)):
        split_sum = single(split_sum + splits[number])
        splits[number] = split_sum
    splits = [single(end / split_sum) for end in splits]
    start, active = max(layers - asked, 0), min(asked, layers) if shares else 0
    places = []
    for layer in range(layers):
        if layer < start or layer - start >= active:
            places.append(-1)
            continue
        share = single((layer - start) / active)
        places.append(next(number for number, end in enumerate(splits) if end > share))  # std::upper_bound
    return places


@pytest.mark.parametrize("count", [0, 1, 2, 3])
@settings(max_examples=60)
@given(data=st.data())
def test_layers_go_where_llama_cpp_puts_them(count: int, data: st.DataObject) -> None:
    free = data.draw(st.lists(st.integers(GIB // 2, 80 * GIB), min_size=count, max_size=count))
    asked = data.draw(st.integers(0, 40))
    if data.draw(st.booleans()):
        free = free[:1] * count
    assert spread(SEVEN, Setup(4096, gpu_layers=asked), cards(*free)) == llama_cpps(33, asked, free)
    split = tuple(data.draw(st.lists(st.floats(0.125, 9), min_size=count, max_size=count)))
    assert spread(SEVEN, Setup(4096, gpu_layers=asked, split=split), cards(*free)) == llama_cpps(33, asked, list(split))


def test_a_third_each() -> None:
    """By hand: equal cards, as many layers as can be shared out; a border belongs to the later card."""
    assert spread(SEVEN, Setup(4096, gpu_layers=33), cards(GIB, GIB, GIB)) == [0] * 11 + [1] * 11 + [2] * 11
    assert spread(SEVEN, Setup(4096, gpu_layers=4), cards(GIB, GIB)) == [-1] * 29 + [0, 0, 1, 1]
    assert spread(SEVEN, Setup(4096, gpu_layers=4, split=(0, 1)), cards(GIB, GIB)) == [-1] * 29 + [1] * 4
    assert spread(SEVEN, Setup(4096, gpu_layers=4), cards(0, 0)) == [-1] * 29 + [0, 0, 1, 1]  # no one says


@pytest.mark.parametrize("weights", [SEVEN, TIED], ids=["7b", "tied"])
@pytest.mark.parametrize("machine", [Machine(GIB), cards(GIB), cards(GIB, 3 * GIB), cards(9, 4, 7, ram=5)])
def test_parts_add_up(weights: Weights, machine: Machine) -> None:
    for layers in (0, 1, weights.layers // 2, weights.layers - 1, weights.layers, 999):
        setup = Setup(4096, "q8_0", layers)
        need = estimate(weights, setup, machine, lora=len(weights.blocks) * 1000)
        offloaded = min(layers, weights.layers) if machine.gpus else 0
        twice = weights.embedding if weights.tied and offloaded else 0  # looked up here, multiplied with there
        assert need.all.weights == weights.total + twice
        assert need.all.kv == weights.kv(4096, "q8_0")
        assert need.all.lora == len(weights.blocks) * 1000
        assert set(need.places) == {HOST, *(device.name for device in machine.gpus)}
        assert need.on_gpus + need.host == need.all
        assert need.all.total == sum(parts.total for parts in need.places.values())
        on_gpus = weights.blocks[weights.layers - offloaded :]  # the last of them is what follows the blocks
        assert need.on_gpus.weights == sum(on_gpus) + (weights.output + twice if offloaded else 0)
        assert need.on_gpus.kv == weights.kv(4096, "q8_0", len(on_gpus))
        assert need.host.weights >= weights.embedding
        assert bool(need.on_gpus.compute) == bool(need.on_gpus.runtime) == bool(offloaded)


def test_what_is_left_to_the_processor_is_computed_in_main_memory() -> None:
    setup = Setup(4096, gpu_layers=33)
    whole, part = (estimate(SEVEN, one, cards(GIB)) for one in (setup, replace(setup, gpu_layers=20)))
    alone = work(SEVEN, setup) + outputs(SEVEN, setup) + scratch(SEVEN, setup)
    assert estimate(SEVEN, setup, Machine(GIB)).host.compute == alone
    assert 0 < whole.host.compute < work(SEVEN, setup) < part.host.compute
    assert whole.on_gpus.compute == part.on_gpus.compute == work(SEVEN, setup) + pool(SEVEN, setup)


def test_one_memory_for_both() -> None:
    mac = Machine(10 * GIB, (Device("Metal", "M", 8 * GIB, 8 * GIB, True),))
    need = estimate(SEVEN, Setup(4096, gpu_layers=33), mac)
    assert need.on_gpus.runtime == 0
    assert need.short(mac) == max(need.on_gpus.total - 8 * GIB, need.all.total - 10 * GIB)
    small = replace(mac, ram=5 * GIB)
    assert need.short(small) == need.all.total - 5 * GIB > 0
    assert need.short(replace(mac, ram=None)) == need.on_gpus.total - 8 * GIB


def test_what_is_missing_where_most_is() -> None:
    need = Need({"CUDA0": Parts(weights=5), "CUDA1": Parts(kv=7), HOST: Parts(runtime=11)})
    assert need.short(cards(4, 9, ram=20)) == 1
    assert need.short(cards(9, 4, ram=20)) == 3
    assert need.short(cards(9, 9, ram=2)) == 9
    assert need.short(cards(7, 8, ram=20)) == -1
    assert need.short(cards(7, 8)) == -1
    silent = Machine(20, (Device("CUDA0", "", 0, 0, False), Device("CUDA1", "", 6, 6, False)))
    assert need.short(silent) == 1
    assert need.short(Machine(None)) < -(1 << 60)


def test_a_probes_word_counts() -> None:
    setup, machine = Setup(4096, gpu_layers=33), cards(GIB, GIB)
    buffers = Buffers({"CUDA0": 10, "CUDA1": 20, "CUDA_Host": 30, "CPU": 40})
    need = estimate(SEVEN, setup, machine, buffers)
    assert need.probed
    assert [need.places[name].compute - pool(SEVEN, setup) for name in ("CUDA0", "CUDA1")] == [10, 20]
    assert need.host.compute == 70 + outputs(SEVEN, setup)
    assert not estimate(SEVEN, setup, machine).probed


SHAPES = {
    "135M": {"width": 576, "inner": 1536, "heads": 9, "kv_heads": 3, "vocab": 49152, "tied": True},
    "1B": {"width": 2048, "inner": 5632, "heads": 32, "kv_heads": 4, "vocab": 32000},
    "7B": {"width": 4096, "inner": 11008, "heads": 32, "kv_heads": 32, "vocab": 32000},
    "8B": {"width": 4096, "inner": 14336, "heads": 32, "kv_heads": 8, "vocab": 128256},
    "13B": {"width": 5120, "inner": 13824, "heads": 40, "kv_heads": 40, "vocab": 32000},
}
SETUPS = [
    Setup(n_ctx, kv, sequences=sequences, n_batch=min(n_batch, n_ctx), unified=unified)
    for n_ctx, kv, sequences, n_batch, unified in [
        (4096, "f16", 1, 512, True),
        (2048, "f16", 1, 512, True),
        (8192, "f16", 1, 2048, True),
        (300, "f16", 1, 512, True),
        (4096, "f16", 1, 64, True),
        (8192, "f16", 24, 512, True),
        (16384, "f16", 72, 512, True),
        (8192, "f16", 16, 512, False),
        (900, "f16", 3, 512, False),
        (4096, "q8_0", 1, 512, True),
        (8192, "q8_0", 24, 512, True),
        (16384, "q4_0", 72, 512, True),
        (4096, "q8_0", 8, 256, False),
    ]
]


@pytest.mark.parametrize("name", SHAPES)
def test_the_buffers_are_what_llama_cpp_would_make(name: str, tmp_path: Path) -> None:
    """Not only with f16, where the formula follows its graph: with quantized KV it may say more, by what it leaves."""
    header, path = made_header(**SHAPES[name]), tmp_path / "made.gguf"
    write_sparse(header, None, path)
    weights = Weights.of(header)
    for setup in SETUPS:
        log = log_of(path, setup)
        (stated,) = buffers_in(log).values()
        predicted = work(weights, setup)
        assert predicted >= stated - 0.0051 * MIB, setup  # the log has hundredths
        over = 0.01 if setup.kv == "f16" else 0.1
        assert predicted <= stated * (1 + over) + 0.0051 * MIB, setup
        rows = outputs(weights, setup) / MIB
        assert rows == pytest.approx(mib_in(log, r"CPU +output buffer size"), abs=0.0051)


@pytest.mark.parametrize(("width", "inner", "heads"), [(1024, 1024, 16), (1024, 512, 8), (256, 512, 4), (64, 96, 2)])
def test_for_other_shapes_it_says_no_less(width: int, inner: int, heads: int, tmp_path: Path) -> None:
    header, path = made_header(width, inner, heads, heads // 2, 500), tmp_path / "made.gguf"
    write_sparse(header, None, path)
    for setup in SETUPS:
        (stated,) = buffers_in(log_of(path, setup)).values()
        assert work(Weights.of(header), setup) >= stated - 0.0051 * MIB, setup


@pytest.mark.parametrize("name", SHAPES)
def test_without_flash_attention_all_scores_are_kept(name: str, tmp_path: Path) -> None:
    header, path = made_header(**SHAPES[name]), tmp_path / "made.gguf"
    write_sparse(header, None, path)
    for setup in [replace(setup, flash=False) for setup in SETUPS if setup.kv == "f16"]:
        (stated,) = buffers_in(log_of(path, setup)).values()
        predicted = work(Weights.of(header), setup)
        assert predicted >= stated - 0.0051 * MIB, setup
        if setup.unified and setup.n_batch < setup.n_ctx < 16384:  # where scores weigh most
            assert predicted <= 1.01 * stated, setup


def test_without_flash_attention_scores_are_halved_once_more() -> None:
    """SmolLM2-135M at 2,048 tokens took 18 MiB more than its buffers, measured: 512 x 2048 x 9 scores of two bytes."""
    weights = Weights.of(made_header(**SHAPES["135M"]))
    with_it, without = Setup(2048, gpu_layers=9), Setup(2048, flash=False, gpu_layers=9)
    assert scratch(weights, without) == 18 * MIB
    assert 0 < scratch(weights, with_it) < MIB
    buffers = Buffers({"CUDA0": 100, "CUDA_Host": 30})
    for setup, more in ((with_it, pool(weights, with_it)), (without, 18 * MIB)):
        assert estimate(weights, setup, cards(GIB), buffers).on_gpus.compute == 100 + more
        need = estimate(weights, setup, Machine(GIB), Buffers({"CPU": 100}))
        assert need.host.compute == 100 + outputs(weights, setup) + scratch(weights, setup)


def test_a_gpu_copies_quantized_keys_and_values() -> None:
    """13B at 4,096 tokens with q8_0: 124 MiB, as a probe on an H100 said. At twice the context 160 MiB are copied,
    beside four rows of 10 MiB and the mask of 8.
    """
    weights = Weights.of(made_header(**SHAPES["13B"]))
    assert work(weights, Setup(4096, "q8_0"), on_gpu=True) == pytest.approx(124 * MIB, rel=0.01)
    assert work(weights, Setup(8192, "q8_0"), on_gpu=True) == pytest.approx(208 * MIB, rel=0.001)
    assert work(weights, Setup(8192, "q8_0")) == work(weights, Setup(8192), on_gpu=True) < 130 * MIB
    place = estimate(weights, Setup(8192, "q4_0", 3), cards(GIB)).on_gpus
    assert place.compute == work(weights, Setup(8192, "q4_0", 3), on_gpu=True) + pool(weights, Setup(8192, "q4_0"))


def test_what_cuda_takes_beside_buffers() -> None:
    """On an H200, MiB: 7B 593 to 600 with all layers on the GPU, 625 with 29 of 33 left out; cuBLAS 77 to 83 more."""
    whole, some = Setup(4096, gpu_layers=33), Setup(4096, gpu_layers=4)

    def taken(weights: Weights, setup: Setup) -> int:
        return estimate(weights, setup, cards(GIB)).on_gpus.runtime

    assert 600 * MIB <= taken(SEVEN, whole) <= 620 * MIB
    assert 625 * MIB <= taken(SEVEN, some) <= 655 * MIB
    assert taken(SEVEN, whole) == CUDA_CONTEXT + kernels(SEVEN, whole)
    without, plain = replace(whole, flash=False), replace(SEVEN, floats=True)
    for weights, setup in ((SEVEN, without), (plain, whole), (plain, without)):
        assert 83 * MIB <= taken(weights, setup) - taken(SEVEN, whole) <= 90 * MIB
    bare, adapted = (estimate(SEVEN, whole, cards(GIB), lora=size).on_gpus for size in (0, MIB))
    assert adapted.runtime == taken(SEVEN, without)
    assert adapted.compute - bare.compute == pool(plain, whole) - pool(SEVEN, whole)
    assert pool(plain, whole) == 512 * 2 * (SEVEN.hidden + SEVEN.inner) > pool(SEVEN, whole)
    assert pool(SEVEN, without) == 512 * 4096 * 32 * 2


def test_cuda_maps_its_libraries() -> None:
    whole = Setup(4096, gpu_layers=33)

    def taken(setup: Setup, *sizes: int) -> int:
        return estimate(SEVEN, setup, cards(*sizes)).host.runtime

    one = taken(whole, GIB)
    alone = estimate(SEVEN, whole, Machine(GIB)).host.runtime
    assert one - alone == CUDA_PROGRAM
    assert taken(whole, GIB, GIB) - one == CUDA_PROGRAM_MORE
    assert taken(replace(whole, flash=False), GIB) - one == CUBLAS_PROGRAM_SCORES
    assert taken(Setup(4096, flash=False), GIB) == one  # the processor computes it
    assert estimate(SEVEN, whole, stated_machine([GIB])).host.runtime == one  # whose ever it is
    assert estimate(SEVEN, whole, Machine(GIB, (Device("Vulkan0", "", GIB, GIB, False),))).host.runtime == alone


def test_a_context_that_is_there_is_counted_once() -> None:
    """What is free where this process has its driver's context already, against what it will need with it."""
    need = Need({"CUDA0": Parts(weights=5, runtime=4), HOST: Parts()})
    assert need.short(cards(6)) == 3
    assert need.short(replace(cards(6), opened=3)) == 0


def test_a_vocabulary_takes_memory_in_the_program() -> None:
    runtime = estimate(SEVEN, Setup(4096), Machine(GIB)).host.runtime
    assert runtime == PROGRAM + 32000 * TOKEN + SEVEN.header
    more = replace(SEVEN, merges=1000)
    assert estimate(more, Setup(4096), Machine(GIB)).host.runtime == runtime + 1000 * MERGE
