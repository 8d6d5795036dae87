"""The ranking: every level's best setups, what is given up first, and that what is fixed stays fixed."""

from __future__ import annotations

import pytest
from plan_cases import GIB, NOTHING, PLENTY, cards, ideal_of, made

from stellar_local.native.devices import Device
from stellar_local.plan.choose import Plan, Ranking, Wish, _order, default_context, planned, rank
from stellar_local.plan.estimate import Buffers, Setup, estimate
from stellar_local.plan.hardware import Machine, stated_machine
from stellar_local.plan.models import Candidate, named
from stellar_local.runtime import sequences_of

SEVEN = named("7b")
(Q4,) = named("7b", "Q4_K_M")
SPARE = 128 << 20


def needed(model: Candidate, machine: Machine, **wish: object) -> int:
    """The bytes that must be free for a model's ideal setup, in main memory or on one card."""
    (ideal,) = ideal_of([model], machine, **wish).refused
    return (ideal.need.on_gpus if machine.gpus else ideal.need.host).total + SPARE


def setup_of(plan: Plan) -> tuple[int, str, int, int]:
    return plan.setup.n_ctx, plan.setup.kv, plan.parallel, plan.setup.gpu_layers


def on(size: int, gpu: bool) -> Machine:
    return cards(size) if gpu else Machine(size)


def first(model: Candidate, machine: Machine, **wish: object) -> Plan:
    return rank([model], Wish(**wish), machine).plans[0]  # type: ignore[arg-type]


@pytest.mark.parametrize("gpu", [False, True])
def test_to_the_byte(gpu: bool) -> None:
    enough, layers = needed(Q4, on(0, gpu)), 33 if gpu else 0
    fitting, short = (rank([Q4], Wish(), on(size, gpu)) for size in (enough, enough - 1))
    assert (setup_of(fitting.plans[0]), fitting.plans[0].short, fitting.refused) == ((4096, "f16", 1, layers), 0, ())
    assert setup_of(short.plans[0]) == (4096, "q8_0" if gpu else "f16", 1, layers)
    assert fitting.plans[0].setup.flash == gpu
    assert short.plans[0].setup.flash
    assert [(setup_of(one), one.short, one.fits) for one in short.refused] == [((4096, "f16", 1, layers), 1, False)]
    assert short.lesser(short.refused[0]) is short.plans[0]


@pytest.mark.parametrize("gpu", [False, True])
def test_what_is_given_up_comes_in_its_order(gpu: bool) -> None:
    """As memory gets less: a batch of 7B on one card, and in main memory; each step that is ever first."""
    seen: list[tuple[int, str, int]] = []
    for size in range(10 * 1024, 4 * 1024, -32):
        plans = [one for one in rank([Q4], Wish(parallel=None), on(size << 20, gpu)).plans if one.whole]
        step = setup_of(plans[0])[:3] if plans else None
        if step and step not in seen:
            seen.append(step)
    assert seen[:3] == [(8192, "f16", 16), (8192, "q8_0", 16), (4096, "q8_0", 8)]
    assert seen[3:] == [(2048, "q8_0", 4), (1024, "q8_0", 2)]


def test_a_gpu_with_room_answers_more_at_once() -> None:
    """At once in a batch, as the card grows: nothing is given up for them, and a tenth of it is left."""
    seen = {}
    for size in range(4, 48):
        plan = rank([Q4], Wish(parallel=None), cards(size * GIB, ram=64 * GIB)).plans[0]
        if plan.setup.kv == "f16" and plan.whole:
            seen.setdefault((plan.parallel, plan.setup.n_ctx), plan)
    assert list(seen) == [(16, 8192), (32, 16384), (64, 32768)]
    for plan, size in zip(list(seen.values())[1:], (GIB, 2 * GIB), strict=True):
        assert plan.short is not None
        assert -plan.short >= size
    two = rank([Q4], Wish(parallel=None), cards(13 * GIB, 13 * GIB, ram=64 * GIB)).plans[0]
    assert two.parallel == 64  # a tenth of each is left, not of both on each
    uneven = cards(80 * GIB, GIB, ram=64 * GIB)  # of which the second gets nothing
    assert rank([Q4], Wish(parallel=None), uneven).plans[0].parallel == 64
    assert rank([Q4], Wish(parallel=None), cards(80 * GIB)).plans[0].parallel == 16  # as where main memory lacks
    big = cards(80 * GIB, ram=64 * GIB)
    for wish, found in (
        (Wish(parallel=None, ctx=4096), 16),  # too small a context to share among more
        (Wish(parallel=None, ctx=16384), 32),
        (Wish(parallel=None, n_batch=128), 32),  # prompts need places, too
        (Wish(parallel=None, n_batch=64), 16),
        (Wish(parallel=None, per_request=100), 64),
        (Wish(parallel=16), 16),
        (Wish(parallel=None, gpu_layers=20), 16),
    ):
        assert rank([Q4], wish, big).plans[0].parallel == found, wish
    for other in (Machine(80 * GIB), Machine(80 * GIB, (Device("Metal", "M", 80 * GIB, 80 * GIB, True),))):
        assert rank([Q4], Wish(parallel=None), other).plans[0].parallel == 16


@pytest.mark.parametrize("name", ["7b", "8b", "13b"])
@pytest.mark.parametrize("parallel", [1, None])
def test_a_second_card_makes_nothing_worse(name: str, parallel: int | None) -> None:
    """However small it is: what it would be given may take more of it than it is worth."""
    models, wish = named(name), Wish(parallel=parallel)
    for first_card in (6, 8, 10, 12, 16, 24):
        alone = rank(models, wish, cards(first_card * GIB, ram=32 * GIB)).plans[0]
        for tenths in (6, 12, 15, 20, 40):
            both = rank(models, wish, cards(first_card * GIB, tenths * GIB // 10, ram=32 * GIB)).plans[0]
            assert _order(both) <= _order(alone), (first_card, tenths)
    fixed = rank(models, Wish(split=(3.0, 1.0)), cards(24 * GIB, 2 * GIB, ram=32 * GIB))
    assert {one.setup.split for one in fixed.plans} == {(3.0, 1.0)}


def test_little_context_in_main_memory_is_better_than_nothing() -> None:
    (q2,) = named("7b", "Q2_K")
    machine = cards(GIB // 2, ram=int(3.6 * GIB))
    (plan,) = rank([q2], Wish(parallel=None), machine).plans
    assert (plan.setup.gpu_layers, plan.need.on_gpus.total) == (0, 0)
    assert plan.setup.n_ctx < 4096
    assert rank([q2], Wish(ctx=4096), machine).plans == ()


def test_what_loses_very_much_is_last_where_the_processor_computes_as_well() -> None:
    for name in ("7b", "8b", "13b"):
        for half in range(2, 12):
            ranked = rank(named(name), Wish(), cards(half * GIB // 2, ram=32 * GIB)).plans
            poor = [one.percent > 15 for one in ranked if not one.whole]
            assert poor == sorted(poor)
            assert ranked[0].percent <= 15


def test_layers_are_left_to_the_processor_before_much_context_is() -> None:
    size = needed(Q4, cards(0), kv="q8_0") - GIB
    plans = rank([Q4], Wish(), cards(size)).plans
    assert [(one.setup.n_ctx, one.whole) for one in plans] == [(4096, False)] or len(plans) == 2
    part = next(one for one in plans if not one.whole)
    assert (part.setup.n_ctx, part.setup.kv) == (4096, "q8_0")
    more = planned(Q4, Setup(4096, "q8_0", part.setup.gpu_layers + 1), 1, cards(size))
    assert part.fits
    assert not more.fits


def test_layers_that_fit_are_counted_by_hand() -> None:
    """Free memory for the card's own, the buffers, and so many layers from the end."""
    full = estimate(Q4.weights, Setup(4096, "q8_0", 33), cards(0)).on_gpus
    for held in (1, 7, 32):
        blocks = Q4.weights.blocks[33 - held :]
        taken = estimate(Q4.weights, Setup(4096, "q8_0", held), cards(0)).on_gpus.runtime
        free = taken + full.compute + Q4.weights.output + sum(blocks) + Q4.weights.kv(4096, "q8_0", len(blocks))
        plans = rank([Q4], Wish(), cards(free + SPARE)).plans
        assert max(one.setup.gpu_layers for one in plans if one.setup.n_ctx == 4096) == held


def test_where_the_card_holds_nothing_the_processor_takes_all() -> None:
    (plan,) = rank([Q4], Wish(), cards(SPARE, ram=64 * GIB)).plans
    assert (plan.setup.gpu_layers, plan.need.on_gpus.total, plan.whole) == (0, 0, False)
    assert rank([Q4], Wish(), cards(SPARE, ram=GIB)).plans == ()


def test_levels_are_ranked_by_what_they_lose() -> None:
    ranking = rank(SEVEN, Wish(), PLENTY)
    assert [one.model.level for one in ranking.plans] == [
        "Q8_0",  # loses as good as nothing, and is smaller than F16
        "F16",
        *("Q6_K", "Q5_K_M", "Q4_K_M", "IQ4_XS", "Q3_K_M", "Q2_K"),
    ]
    assert ranking.refused == ()


def test_a_whole_model_is_better_than_a_better_one_in_part() -> None:
    eight = rank(SEVEN, Wish(), cards(8 * GIB - GIB // 2)).plans
    assert eight[0].whole
    assert eight[0].percent <= 5
    assert any(not one.whole and one.percent < eight[0].percent for one in eight[1:])


def test_much_loss_is_worse_than_some_layers_in_main_memory() -> None:
    models = [made("Q8_0", layers=32), made("Q2_K", layers=32)]
    models[1].__dict__["weights"] = made("x", layers=20).weights  # as small as such a level would be
    size = needed(models[0], cards(0), kv="q8_0") * 9 // 10
    plans = rank(models, Wish(), cards(size)).plans
    assert (plans[0].model.level, plans[0].whole) == ("Q8_0", False)
    assert (plans[-1].model.level, plans[-1].whole) == ("Q2_K", True)


@pytest.mark.parametrize("size", [4, 6, 8, 12])
@pytest.mark.parametrize("kv", ["f16", "q8_0", "q4_0"])
def test_what_is_fixed_stays(kv: str, size: int) -> None:
    for fixed in ({"ctx": 3000}, {"ctx": 16384}, {"gpu_layers": 20}, {"gpu_layers": 999}, {"parallel": 5}):
        ranking = rank([Q4], Wish(kv=kv, **fixed), cards(size * GIB))  # type: ignore[arg-type]
        for one in (*ranking.plans, *ranking.refused):
            assert one.setup.kv == kv
            assert one.setup.n_ctx == fixed.get("ctx", one.setup.n_ctx)
            assert one.setup.gpu_layers == min(fixed.get("gpu_layers", one.setup.gpu_layers), 33)
            assert one.parallel == fixed.get("parallel", 1)
        assert ranking.plans or ranking.refused


def test_a_fixed_kv_type_goes_with_layers_in_main_memory() -> None:
    for kv in ("f16", "q8_0", "q4_0"):
        size = needed(Q4, cards(0), kv=kv) - GIB
        assert any(one.setup.n_ctx == 4096 for one in rank([Q4], Wish(kv=kv), cards(size)).plans)


def test_a_kv_type_that_the_heads_do_not_allow_is_not_proposed() -> None:
    odd = made(width=480, inner=1280, heads=30, kv_heads=30)
    for size in range(1024, 64, -16):
        assert {one.setup.kv for one in rank([odd], Wish(), Machine(size << 20)).plans} <= {"f16"}
    assert first(odd, PLENTY, kv="q8_0").setup.kv == "q8_0"  # asked for: llama.cpp has the last word


def test_without_flash_attention_there_is_no_other_kv_type() -> None:
    found = [rank([Q4], Wish(flash_attn="off"), Machine(size << 28)) for size in range(16, 32)]
    assert {one.setup.kv for ranking in found for one in ranking.plans} == {"f16"}
    assert ideal_of([Q4], PLENTY, flash_attn="off").refused[0].need.host.compute > 320 << 20


def test_flash_attention_where_it_is_faster_or_memory_is_short() -> None:
    """On the processor one answer at once goes without, unless its scores do not fit."""
    assert not first(Q4, PLENTY).setup.flash
    assert first(Q4, PLENTY, flash_attn="on").setup.flash
    assert first(Q4, PLENTY, parallel=2).setup.flash
    assert first(Q4, PLENTY, kv="q8_0").setup.flash
    assert first(Q4, PLENTY, ctx=16384).setup.flash  # whose scores are too large
    assert first(Q4, cards(1 << 40)).setup.flash
    assert not first(Q4, cards(1 << 40), gpu_layers=0).setup.flash
    for plan, choice in ((first(Q4, PLENTY), "off"), (first(Q4, PLENTY, parallel=2), "on")):
        assert plan.setup.flash_attn == choice  # the processor always can
    assert first(Q4, cards(1 << 40)).setup.flash_attn == "auto"  # not every card
    needs = {flash: first(Q4, PLENTY, flash_attn=flash).need.host.total for flash in ("off", "on")}
    assert needs["off"] > needs["on"] + (200 << 20)
    spare = first(Q4, Machine(1 << 40)).short + (1 << 40) - needs["off"]
    for size, flash in ((needs["off"] + spare, False), (needs["off"] + spare - 1, True), (needs["on"] + spare, True)):
        found = rank([Q4], Wish(), Machine(size))
        assert (found.plans[0].setup.flash, found.plans[0].setup.kv) == (flash, "f16")
        assert [one.setup.flash for one in found.refused] == [False] * flash  # it is said
    assert first(Q4, Machine(needs["on"] + spare - 1)).setup.kv == "q8_0"


def test_requests_at_once() -> None:
    assert setup_of(first(Q4, PLENTY, parallel=None))[:3] == (8192, "f16", 16)
    assert setup_of(first(Q4, PLENTY, parallel=3))[:3] == (4096, "f16", 3)
    own = first(Q4, PLENTY, parallel=None, per_request=300)
    assert (own.setup.n_ctx, own.parallel, own.setup.sequences, own.setup.unified) == (4800, 16, 16, False)
    assert own.need.host.kv == 16 * Q4.weights.kv(512)  # in whole blocks for each
    assert [sequences_of(*one) for one in ((1, False), (1, True), (16, False), (16, True))] == [1, 1, 24, 16]
    assert [default_context(Q4.weights, count) for count in (1, 4, 8, 16, 64)] == [4096, 4096, 4096, 8192, 32768]
    few = first(
        Q4, Machine(needed(Q4, NOTHING, parallel=None, per_request=300, kv="q8_0") - 1), parallel=None, per_request=300
    )
    assert (few.parallel, few.setup.n_ctx, few.setup.kv) == (8, 2400, "q8_0")


def test_adapters_take_memory_too() -> None:
    enough = needed(Q4, cards(0))
    plain, with_lora = (first(Q4, cards(enough), lora=size) for size in (0, 32 << 20))
    assert (plain.setup.kv, with_lora.setup.kv) == ("f16", "q8_0")
    assert with_lora.need.on_gpus.lora == 32 << 20


def test_a_system_that_does_not_say() -> None:
    """Nothing is known to fit, nor not to; the smallest is the safest."""
    for machine in (Machine(None), Machine(None, (Device("CUDA0", "", 0, 0, False),))):
        ranking = rank(SEVEN, Wish(), machine)
        assert [one.model for one in ranking.plans] == SEVEN[::-1]
        assert {(one.short, one.fits) for one in ranking.plans} == {(None, False)}
        assert [one.model for one in ranking.refused] == SEVEN


def test_nothing_fits() -> None:
    ranking = rank(SEVEN, Wish(), NOTHING)
    assert ranking.plans == ()
    assert [one.model for one in ranking.refused] == SEVEN
    assert [ranking.lesser(one) for one in ranking.refused] == [None] * len(SEVEN)
    assert Ranking(NOTHING).plans == ()


def test_a_probes_buffers_decide() -> None:
    enough = needed(Q4, cards(0))
    asked: list[Setup] = []

    def buffers(model: Candidate, setup: Setup) -> Buffers | None:
        asked.append(setup)
        return Buffers({"CUDA0": 1 << 30}) if setup.kv == "f16" else None

    ranking = rank([Q4], Wish(), cards(enough), buffers)
    assert ranking.plans[0].setup.kv == "q8_0"
    assert ranking.refused[0].need.probed
    assert not ranking.plans[0].need.probed
    assert {setup.kv for setup in asked} >= {"f16", "q8_0"}


def test_stated_cards_have_all_the_main_memory_that_is_needed() -> None:
    assert rank(named("13b"), Wish(), stated_machine([1 << 20])).plans[0].setup.gpu_layers == 0
