"""Of any machine and any wish: what is ranked fits, is as was asked, and with more memory the first plan is no worse.

No worse means, of one model in one place, by what is given up: a whole model stays whole, and then context, requests at
once and precision of the KV do not shrink, and else no layer leaves the GPU. Over several models it means the tier of
choose._order: within one, a level that becomes whole may come before a better one that is not, as it should be.
"""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plan_cases import made

from stellar_local.native.devices import Device
from stellar_local.plan.choose import Plan, Ranking, Wish, _order, rank
from stellar_local.plan.estimate import HOST
from stellar_local.plan.hardware import Machine
from stellar_local.plan.models import Candidate, named

GIB = 1 << 30
MODELS: list[list[Candidate]] = [
    named("7b"),
    named("8b", "Q4_K_M"),
    named("13b", "Q5_K_M") + named("13b", "Q3_K_M"),
    [made("Q8_0", tied=True, layers=9), made("Q2_K", width=480, inner=1280, heads=30, kv_heads=30, layers=5)],
]
PRECISION = {"f16": 2, "q8_0": 1, "q4_0": 0}
SLOW = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def sizes(most: int) -> st.SearchStrategy[int]:
    return st.one_of(st.integers(0, 2 * GIB), st.integers(0, most * GIB))


@st.composite
def machines(draw: st.DrawFn, most_gpus: int = 3) -> Machine:
    count = draw(st.integers(0, most_gpus))
    kind = draw(st.sampled_from(["CUDA", "Vulkan", "Metal"]))
    gpus = []
    for number in range(count):
        free = draw(sizes(24))
        gpus.append(Device(f"{kind}{number}", "", free, max(free, 1), kind == "Vulkan" and draw(st.booleans())))
    return Machine(draw(st.none() | sizes(40)) if gpus else draw(sizes(40)), tuple(gpus))


@st.composite
def wishes(draw: st.DrawFn) -> Wish:
    fixed: dict[str, Any] = {
        "kv": draw(st.none() | st.sampled_from(["f16", "q8_0", "q4_0"])),
        "gpu_layers": draw(st.none() | st.none() | st.integers(0, 50)),
        "parallel": draw(st.sampled_from([None, 1, 1, 4, 64])),
        "flash_attn": draw(st.sampled_from(["auto", "auto", "on", "off"])),
        "lora": draw(st.sampled_from([0, 0, 100 << 20])),
        "separate": draw(st.booleans()),
        "n_batch": draw(st.sampled_from([512, 512, 2048, 7])),
    }
    size = draw(st.sampled_from(["ctx", "per_request", "free"]))
    if size != "free":
        fixed[size] = draw(st.integers(16, 9000))
    return Wish(**fixed)


@SLOW
@given(st.sampled_from(MODELS), wishes(), machines())
def test_what_is_ranked_fits_and_is_as_was_asked(models: list[Candidate], wish: Wish, machine: Machine) -> None:
    ranking = rank(models, wish, machine)
    for plan in ranking.plans:
        fits(plan, machine)
    for plan in ranking.refused:
        assert plan.short is not None
        assert plan.short > 0
    for plan in (*ranking.plans, *ranking.refused):
        as_asked(plan, wish, machine)
    for model in models:
        assert any(plan.model is model for plan in (*ranking.plans, *ranking.refused))
        assert sum(plan.model is model for plan in ranking.plans) <= 2
        assert sum(plan.model is model for plan in ranking.refused) <= 1


def fits(plan: Plan, machine: Machine) -> None:
    """By the sums of its parts, place by place."""
    needs = {
        name: part.weights + part.kv + part.compute + part.runtime + part.lora
        for name, part in plan.need.places.items()
    }
    for device in machine.gpus:
        assert needs[device.name] <= device.free
    if machine.ram is not None:
        everything = sum(needs.values()) if machine.unified else needs[HOST]
        assert everything <= machine.ram
    assert plan.fits


def as_asked(plan: Plan, wish: Wish, machine: Machine) -> None:
    setup, layers = plan.setup, plan.model.weights.layers
    assert setup.kv == (wish.kv or setup.kv)
    assert wish.flash_attn == "auto" or setup.flash == (wish.flash_attn == "on")
    assert setup.flash or wish.kv or setup.kv == "f16"
    assert wish.kv or setup.kv == "f16" or plan.model.weights.quantizable
    assert plan.parallel == (wish.parallel or plan.parallel)
    assert 1 <= plan.parallel <= (wish.parallel or 16)
    assert setup.sequences >= plan.parallel
    if wish.per_request:
        assert (setup.n_ctx, setup.unified) == (wish.per_request * plan.parallel, False)
    elif wish.ctx:
        assert setup.n_ctx == wish.ctx
    if not machine.gpus:
        assert setup.gpu_layers == 0
    elif wish.gpu_layers is not None:
        assert setup.gpu_layers == min(wish.gpu_layers, layers)
    assert 0 <= setup.gpu_layers <= layers
    assert setup.n_batch == min(wish.n_batch, setup.n_ctx)
    assert wish.parallel or plan.parallel <= wish.n_batch  # each has a token in it
    assert plan.need.all.lora >= (wish.lora - layers if wish.lora else 0)


def grown(machine: Machine, share: float) -> Machine:
    """More of everything, in the same proportions: so layers are spread over cards as before."""

    def more(size: int) -> int:
        return size + int(size * share)

    gpus = tuple(Device(one.name, "", more(one.free), more(one.total), one.integrated) for one in machine.gpus)
    return Machine(None if machine.ram is None else more(machine.ram), gpus)


@SLOW
@given(st.sampled_from(MODELS), wishes(), machines(most_gpus=1), st.floats(0.001, 3))
def test_more_memory_is_never_worse(models: list[Candidate], wish: Wish, machine: Machine, share: float) -> None:
    less, more = (rank(models, wish, one) for one in (machine, grown(machine, share)))
    if less.plans:
        assert more.plans
        assert tier(more) <= tier(less)
    for model in models:
        before, after = (rank([model], wish, one).plans for one in (machine, grown(machine, share)))
        if before:
            assert worth(after[0]) >= worth(before[0])
    assert {plan.model.path for plan in more.refused} <= {plan.model.path for plan in less.refused}


def tier(ranking: Ranking) -> float:
    return _order(ranking.plans[0])[0]


def worth(plan: Plan) -> tuple[object, ...]:
    setup = plan.setup
    if plan.whole:
        return True, setup.n_ctx, plan.parallel, PRECISION[setup.kv]
    return False, setup.gpu_layers
