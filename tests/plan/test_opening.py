"""The first plan is opened; where memory is short after all, one thing after another is given up, in that order."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from stellar_local.errors import ShortMemoryError
from stellar_local.native.context import Chunk, Context
from stellar_local.native.devices import Device
from stellar_local.native.model import Model
from stellar_local.plan import opening
from stellar_local.plan.choose import Plan, Wish
from stellar_local.plan.estimate import Buffers, Setup, kernels, pool, scratch, work
from stellar_local.plan.explain import given_up
from stellar_local.plan.hardware import CUDA_CONTEXT, CUDA_LOADED, Machine, stated_machine
from stellar_local.plan.models import candidates
from stellar_local.plan.opening import Reason, choose, freed, lesser, open_fitting, prove
from stellar_local.plan.weights import Weights
from stellar_local.texts import Texts

PLENTY = Machine(1 << 40)
CARD = Machine(1 << 40, (Device("CUDA0", "a card", 1 << 40, 1 << 40, False),))


@pytest.fixture(autouse=True)
def _wide_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny model's heads are too narrow for llama.cpp to quantize KV; plan as if they were wide."""
    read = Weights.of
    monkeypatch.setattr(Weights, "of", lambda header: replace(read(header), quantizable=True))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[Machine], Machine]:
    """Make every module see this machine."""

    def put(machine: Machine) -> Machine:
        monkeypatch.setattr(opening, "this_machine", lambda on_gpu=True: machine)
        return machine

    return put


def failing(times: int, tried: list[Plan]) -> Callable[[Plan], str]:
    def make(plan: Plan) -> str:
        tried.append(plan)
        if len(tried) <= times:
            raise ShortMemoryError(f"attempt {len(tried)}")
        return "opened"

    return make


def test_what_fits_is_opened_as_planned(spm_folder: Path) -> None:
    tried: list[Plan] = []
    choice = choose(spm_folder, Wish(), machine=PLENTY)
    assert open_fitting(choice, Wish(), failing(0, tried)) == ("opened", choice.plan)
    assert tried == [choice.plan]


def test_the_order_of_giving_up(spm_folder: Path, machine: Callable[[Machine], Machine]) -> None:
    """Requests at once, KV precision, layers, context, and the next level, where it begins again."""
    wish = Wish(parallel=None, per_request=512)
    choice = choose(spm_folder, wish, "F32", machine=machine(CARD))
    choice = replace(choice, models=tuple(candidates(spm_folder)))  # as if it had been the folder's first
    choice = replace(choice, plan=replace(choice.plan, model=choice.models[0]))
    english = Texts("en")
    steps = list(lesser(choice, wish))
    own = [plan for plan in steps if plan.model is choice.plan.model]
    changes = [given_up(before, after, english) for before, after in zip([choice.plan, *own], own, strict=False)]
    assert [change.split(",")[0] for change in changes[:6]] == [
        "32 at once instead of 64",
        "16 at once instead of 32",
        "8 at once instead of 16",
        "4 at once instead of 8",
        "2 at once instead of 4",
        "1 at once instead of 2",
    ]
    assert changes[6] == "q8_0 KV instead of f16"
    layers = choice.plan.setup.gpu_layers
    assert changes[7] == f"{layers * 7 // 8} of {layers} layers on the GPU"
    assert own[-1].setup.gpu_layers == 0
    assert all("context" not in change for change in changes[6:])  # 512 tokens are the least
    assert {plan.model.level for plan in steps[len(own) :]} == {"Q8_0"}
    assert steps[len(own)].parallel == 64


def test_fewer_at_once_where_that_frees_memory(spm_folder: Path, machine: Callable[[Machine], Machine]) -> None:
    """A shared context is no smaller for fewer than eight; where it is halved, fewer share it."""
    wish = Wish(parallel=None)
    choice = choose(spm_folder, wish, machine=machine(CARD))
    model = replace(choice.plan.model)
    vars(model)["weights"] = replace(choice.plan.model.weights, trained=4096)
    setup = replace(choice.plan.setup, n_ctx=8192)
    choice = replace(choice, plan=replace(choice.plan, model=model, setup=setup, parallel=16), models=(model,))
    seen = [(plan.parallel, plan.setup.n_ctx) for plan in lesser(choice, wish)]
    assert list(dict.fromkeys(seen)) == [(8, 4096), (4, 2048), (2, 1024), (1, 512)]
    fixed = [(plan.parallel, plan.setup.n_ctx) for plan in lesser(choice, replace(wish, ctx=8192))]
    assert set(fixed) == {(16, 8192)}


def test_a_large_context_shrinks_before_the_level_does(spm_folder: Path, machine: Callable[[Machine], Machine]) -> None:
    wish = Wish()
    choice = choose(spm_folder, wish, machine=machine(PLENTY))
    large = replace(choice.plan, setup=replace(choice.plan.setup, n_ctx=4096))
    steps = list(lesser(replace(choice, plan=large), wish))
    own = [(plan.setup.n_ctx, plan.setup.kv, plan.setup.flash) for plan in steps if plan.model is large.model]
    assert (large.setup.kv, large.setup.flash) == ("f16", False)
    assert own[:2] == [(4096, "f16", True), (4096, "q8_0", True)]
    assert own[2:] == [(size, "q8_0", True) for size in (2048, 1024, 512)]
    assert given_up(large, steps[0], Texts("en")) == "flash attention (slower here)"


@pytest.mark.parametrize(
    ("wish", "kept"),
    [
        (Wish(parallel=16), "parallel"),
        (Wish(kv="f16", parallel=None), "kv"),
        (Wish(gpu_layers=2, parallel=None), "gpu_layers"),
        (Wish(ctx=512, parallel=None), "n_ctx"),
    ],
)
def test_what_the_user_fixed_is_never_given_up(
    spm_folder: Path, machine: Callable[[Machine], Machine], wish: Wish, kept: str
) -> None:
    choice = choose(spm_folder, wish, machine=machine(CARD))
    values = [getattr(plan, kept, None) or getattr(plan.setup, kept, None) for plan in lesser(choice, wish)]
    assert values
    assert set(values) == {getattr(wish, "ctx" if kept == "n_ctx" else kept)}


def test_a_named_level_is_the_last(spm_folder: Path, machine: Callable[[Machine], Machine]) -> None:
    choice = choose(spm_folder, Wish(), "F32", machine=machine(PLENTY))
    assert choice.reason is Reason.NAMED
    assert {plan.model.level for plan in lesser(choice, Wish())} == {"F32"}


@pytest.mark.parametrize("error", [ShortMemoryError("no room"), MemoryError()])
def test_the_first_that_opens_is_taken(
    spm_folder: Path, machine: Callable[[Machine], Machine], error: Exception
) -> None:
    wish, tried = Wish(parallel=None), []
    choice = choose(spm_folder, wish, machine=machine(PLENTY))

    def make(plan: Plan) -> str:
        tried.append(plan)
        if plan.parallel > 4:
            raise error
        return "opened"

    opened, plan = open_fitting(choice, wish, make)
    assert (opened, plan.parallel) == ("opened", 4)
    assert [one.parallel for one in tried] == [16, 8, 4]


def test_steps_that_cannot_fit_are_not_tried(spm_folder: Path, machine: Callable[[Machine], Machine]) -> None:
    """Free memory shrank since the plan was made: what does not fit any more is passed over."""
    wish, tried = Wish(parallel=None), []
    choice = choose(spm_folder, wish, machine=PLENTY)
    smallest = list(lesser(choice, wish))[-1]
    machine(Machine(smallest.need.host.total))
    with pytest.raises(ShortMemoryError, match="attempt 1"):
        open_fitting(choice, wish, failing(99, tried))
    assert [(plan.model.level, plan.setup.n_ctx) for plan in tried] == [(smallest.model.level, smallest.setup.n_ctx)]


def test_what_goes_is_free_afterwards(spm_folder: Path) -> None:
    card = stated_machine([8 << 30], ram=4 << 30)
    plan = choose(spm_folder, Wish(), machine=card).plan
    after = freed(card, plan.need)
    assert after.gpus[0].free == (8 << 30) + plan.need.on_gpus.total
    assert after.ram == (4 << 30) + plan.need.host.kv + plan.need.host.compute
    here = replace(card, gpus=(*card.gpus, Device("GPU1", "an idle one", 5, 8 << 30, False)), opened=CUDA_CONTEXT)
    plan = choose(spm_folder, Wish(split=(1.0, 0.0)), machine=here).plan
    after = freed(here, plan.need)
    assert [one.free for one in after.gpus] == [(8 << 30) + plan.need.on_gpus.total - CUDA_CONTEXT, 5]
    mac = Machine(4 << 30, (Device("Metal", "M", 4 << 30, 4 << 30, True),))
    plan = choose(spm_folder, Wish(), machine=mac).plan
    assert freed(mac, plan.need).ram == (4 << 30) + plan.need.host.kv + plan.need.host.compute + plan.need.on_gpus.total


def test_llama_cpp_is_asked_where_it_is_tight(spm_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def answer(path: Path, setups: list[Any]) -> list[Buffers]:
        asked.append(len(setups))
        return [Buffers({"CUDA0": 1 << 30, "CPU": 0}) for _ in setups]

    monkeypatch.setattr(opening, "probe", answer)
    assert not choose(spm_folder, Wish(), machine=CARD).plan.need.probed
    assert not asked
    need = choose(spm_folder, Wish(), machine=CARD).plan.need.on_gpus.total
    tight = Machine(1 << 40, (Device("CUDA0", "a card", need + (200 << 20), 1 << 40, False),))
    found = choose(spm_folder, Wish(), machine=tight)
    assert asked
    # With a gigabyte more than the formula says nothing is left on the card but what fits beside it.
    assert found.plan.setup.gpu_layers == 0
    assert len(asked) > 1


def test_a_full_batch_is_computed_and_forgotten(spm_model: Path) -> None:
    with Model(spm_model) as model, Context(model, 512) as context:
        context.warm()
        assert context.length(0) == 0
        context.decode([Chunk(0, 0, [1, 2, 3], 1)])
        after = context.logits.copy()
    with Model(spm_model) as model, Context(model, 512) as context:
        context.decode([Chunk(0, 0, [1, 2, 3], 1)])
        assert (context.logits == after).all()


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("shares", [(), (1.0, 0.0)])
def test_a_gpu_computes_only_where_there_is_room(
    spm_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    machine: Callable[[Machine], Machine],
    shares: tuple[float, ...],
    adapted: bool,
) -> None:
    """Kernels, graphs and a batch's rows are still to come there: 80 MiB beside the model on an H200; adapters, which
    are not quantized, are cuBLAS's.
    """
    read = Weights.of
    monkeypatch.setattr(Weights, "of", lambda header: replace(read(header), floats=False))
    warmed: list[Context] = []
    monkeypatch.setattr(Context, "warm", lambda context: warmed.append(context))
    setup = Setup(512, gpu_layers=3, split=shares)
    monkeypatch.setattr(opening, "running", lambda context: setup)
    with Model(spm_model) as model, Context(model, 512) as context:
        context.offloaded, weights = True, Weights.of(model.header)
        needed = kernels(weights, setup, adapted) + pool(weights, setup, adapted) + (16 << 20)
        assert needed > (83 + 77 * adapted) << 20
        for free, room in ((needed - 1, False), (needed, True)):
            cards = [Device("CUDA0", "a card", free, 8 << 30, False)]
            cards += [Device("CUDA1", "a full one", 1, 8 << 30, False)] * bool(shares)
            seen = machine(Machine(None, tuple(cards)))
            if room:
                prove(context, adapted)
            else:
                with pytest.raises(ShortMemoryError, match=r"computing needs \d+ MiB of CUDA0, and \d+ MiB are"):
                    prove(context, adapted)
            assert len(warmed) == room
        machine(replace(seen, gpus=(replace(seen.gpus[0], free=needed - CUDA_LOADED), *seen.gpus[1:])))
        with pytest.raises(ShortMemoryError):
            prove(context, adapted)
        machine(replace(opening.this_machine(), opened=CUDA_CONTEXT + CUDA_LOADED))  # after an earlier model
        prove(context, adapted)
        small = Device("Metal", "M", pool(weights, setup, adapted) + (16 << 20), 8 << 30, True)
        machine(Machine(None, (small, *[replace(small, free=1)] * bool(shares))))  # which has no kernels to load
        prove(context, adapted)


def test_a_processor_is_asked_for_the_memory_it_will_touch(spm_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Model(spm_model) as model, Context(model, 512) as context:
        monkeypatch.setattr(opening, "available_memory", lambda: 1 << 30)
        prove(context)
        weights, setup = Weights.of(model.header), opening.running(context)
        assert not setup.flash and scratch(weights, setup) >= 2 * 512 * 512 * weights.heads  # the scores once more
        enough = work(weights, setup) + scratch(weights, setup)
        monkeypatch.setattr(opening, "available_memory", lambda: enough)
        prove(context)
        monkeypatch.setattr(opening, "available_memory", lambda: enough - 1)
        with pytest.raises(ShortMemoryError, match="computing needs"):
            prove(context)


TAKEN_AWAY = """
import json, resource, sys
from pathlib import Path
from stellar_local import flags
from stellar_local.config import SamplingOptions
from stellar_local.plan import opening
from stellar_local.prompts import Turn

planned = opening.choose
def choose(*given, **more):
    choice = planned(*given, **more)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    room = used + int(choice.plan.need.host.total * float(sys.argv[2]))
    resource.setrlimit(resource.RLIMIT_AS, (room, resource.RLIM_INFINITY))  # somebody else has taken the rest
    return choice
opening.choose = choose
runtime = flags.Setup({}, verbose=False).open(Path(sys.argv[1]), parallel=None)
with runtime:
    answer = runtime.engine.submit(runtime.request([Turn("Hi")], SamplingOptions(temperature=0, max_tokens=3))).answer
    context = runtime.engine.context
    print(json.dumps([runtime.engine.parallel, context.n_ctx, context.kv_type, answer.text, runtime.notes]))
"""


@pytest.mark.real
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits address space as Linux does")
@pytest.mark.parametrize("share", ["10", "0.85"])
def test_memory_is_taken_away_between_plan_and_load(real_model: Path, share: str) -> None:
    """Really: the process's address space is limited after the plan was made, so that its KV memory cannot be had."""
    found = subprocess.run(
        [sys.executable, "-c", TAKEN_AWAY, str(real_model), share],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        timeout=300,
        check=True,
    )
    parallel, n_ctx, kv, text, notes = json.loads(found.stdout)
    assert text
    if share == "10":
        assert (parallel, n_ctx, kv, notes) == (16, 8192, "f16", [])
    else:
        assert parallel < 16
        assert n_ctx < 8192
        assert "memory turned out to be short" in notes[0]
        assert f"{parallel} at once instead of 16" in notes[0]
