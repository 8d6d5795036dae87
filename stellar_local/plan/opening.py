"""From MODEL and what the user fixed to a model that runs: the first plan that fits, and less where memory turns out
to be short after all.

Knows the order in which things are given up; what opens a plan is handed in, so that it knows no options and no engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import TypeVar

from ..console import amount
from ..errors import ModelError, ShortMemoryError, StellarError
from ..native.context import Context
from .choose import SHARE, Plan, Ranking, Wish, default_context, lasting, planned, rank
from .estimate import MIB, Buffers, Need, Setup, kernels, pool, scratch, work
from .hardware import CUDA_CONTEXT, Machine, available_memory, this_machine
from .models import Candidate, candidates, openable
from .probe import probe
from .weights import Weights

Opened = TypeVar("Opened")

_TIGHT = 0.1  # of what is free: with less to spare, or with layers left out, llama.cpp is asked
_ROUNDS = 16  # of asking, where what it says moves other plans to the front
_MARGIN = 16 * MIB  # of a GPU, beside what computing will take there; where it does not suffice, CUDA ends the process


class Reason(Enum):
    """Why a file was chosen."""

    FILE = "file"  # it was given itself
    NAMED = "named"  # --level
    ONLY = "only"  # the folder has no other, and it fits
    BEST = "best"  # the best of all levels fits
    FITTING = "fitting"  # the best that fits; better ones do not
    NONE = "none"  # none fits: the smallest
    UNKNOWN = "unknown"  # the system does not say how much memory is free: the smallest


@dataclass(frozen=True)
class Choice:
    """The plan to open, why, and what it was chosen from."""

    plan: Plan
    reason: Reason
    ranking: Ranking
    models: tuple[Candidate, ...]
    problems: tuple[ModelError, ...] = ()

    @property
    def path(self) -> Path:
        """The file to open."""
        return self.plan.model.path


def choose(model: Path, wish: Wish, level: str | None = None, machine: Machine | None = None) -> Choice:
    """The first plan for MODEL on a machine [default: this one, now]. If nothing fits, the smallest model, since mapped
    weights still run, slowly. Raises ModelError or UsageError.
    """
    problems: list[ModelError] = []
    models = candidates(model, level, problems)
    machine = machine or this_machine(on_gpu=wish.gpu_layers != 0)
    ranking = rank(models, wish, machine)
    if ranking.plans and machine.gpus and not machine.stated and _is_tight(ranking.plans[0], machine):
        ranking = probed(models, wish, machine, ranking, 1)
    given = Reason.FILE if not model.is_dir() else Reason.NAMED if level else None
    if machine.free is None:
        plan, reason = ranking.refused[-1], Reason.UNKNOWN
    elif not ranking.plans:
        # Weights in main memory are mapped, so that what does not fit there runs all the same; a GPU's must fit.
        rest = rank(models[-1:], wish, replace(machine, ram=None)).plans if machine.gpus else ()
        plan, reason = ranking.refused[-1], Reason.NONE
        least = plan.setup.attending(lasting(wish), plan.model.weights.heads)
        plan = _again(rest[0] if rest else replace(plan, setup=least), wish, machine)
    else:
        plan = ranking.plans[0]
        better = [one for one in ranking.refused if models.index(one.model) <= models.index(plan.model)]
        reason = Reason.ONLY if len(models) == 1 else Reason.FITTING if better else Reason.BEST
    return Choice(plan, given or reason, ranking, tuple(models), tuple(problems))


def _is_tight(plan: Plan, machine: Machine) -> bool:
    return not plan.whole or plan.short is None or -plan.short < _TIGHT * (machine.free or 0)


def probed(models: Sequence[Candidate], wish: Wish, machine: Machine, ranking: Ranking, most: int) -> Ranking:
    """Everything ranked anew, with llama.cpp's own word on the compute buffers of the `most` first plans."""
    known: dict[tuple[Path, Setup], Buffers | None] = {}

    def buffers(model: Candidate, setup: Setup) -> Buffers | None:
        return known.get(_likeness(model, setup))

    for _ in range(_ROUNDS):
        new = [plan for plan in ranking.plans[:most] if _likeness(plan.model, plan.setup) not in known]
        if not new:
            break
        for model in models:
            setups = [plan.setup for plan in new if plan.model is model]
            if not setups:
                continue
            found: list[Buffers | None] = [None] * len(setups)
            with suppress(StellarError), openable(model) as path:  # as where there is no room for a header
                found = probe(path, setups)
            known |= zip([_likeness(model, one) for one in setups], found, strict=True)
        ranking = rank(models, wish, machine, buffers)
    return ranking


def _likeness(model: Candidate, setup: Setup) -> tuple[Path, Setup]:
    """Setups with other layers on the GPU have the same buffers, as long as some are there and some left out."""
    layers = model.weights.layers
    return model.path, replace(setup, gpu_layers=layers if setup.gpu_layers >= layers else min(setup.gpu_layers, 1))


def running(context: Context) -> Setup:
    """The setup of a context that is there."""
    return Setup(
        n_ctx=context.n_ctx,
        kv=context.kv_type,
        gpu_layers=min(context.model.gpu_layers, Weights.of(context.model.header).layers),
        sequences=context.sequences,
        outputs=context.outputs if context.outputs > context.sequences else 0,
        n_batch=context.n_batch,
        unified=context.unified,
        flash=context.flash,
        split=context.model.tensor_split,
    )


def freed(machine: Machine, need: Need) -> Machine:
    """The machine as it will be once what needs this much is gone.

    Weights that were mapped count as free main memory already; the driver's context stays, and kernels that are loaded.
    """
    gpus = tuple(
        replace(one, free=one.free + max(need.places[one.name].total - machine.opened, 0)) for one in machine.gpus
    )
    back = need.host.kv + need.host.compute + (need.on_gpus.total if machine.unified else 0)
    return replace(machine, gpus=gpus, ram=None if machine.ram is None else machine.ram + back)


def lesser(choice: Choice, wish: Wish) -> Iterator[Plan]:
    """What to try when the chosen plan does not fit after all, one thing after another given up where the user left it
    open: requests at once, the KV's precision, layers on the GPU, context, and at last the level.
    """
    plan = choice.plan
    below = choice.models[choice.models.index(plan.model) + 1 :]
    yield from _shrunk(plan, wish)
    for model in below:
        ranking = rank([model], wish, this_machine(on_gpu=wish.gpu_layers != 0))
        first = (ranking.plans or ranking.refused)[0]
        yield first
        yield from _shrunk(first, wish)


def _shrunk(plan: Plan, wish: Wish) -> Iterator[Plan]:
    weights, setup, parallel = plan.model.weights, plan.setup, plan.parallel

    def now(**changes: object) -> Plan:
        nonlocal setup
        setup = replace(setup, **changes)  # type: ignore[arg-type]
        setup = setup.attending(lasting(wish), weights.heads)
        machine = this_machine(on_gpu=wish.gpu_layers != 0)
        return planned(plan.model, setup, parallel, machine, lora=wish.lora)

    if wish.flash_attn == "auto" and not setup.flash:  # whose scores take memory; only speed is lost
        yield now()
    while wish.parallel is None and parallel > 1:
        half = parallel // 2
        size = wish.per_request * half if wish.per_request else wish.ctx or default_context(weights, half)
        if size >= setup.n_ctx:  # fewer would share as much
            break
        parallel = half
        yield now(n_ctx=size, sequences=wish.sequences(parallel))
    if wish.kv is None and setup.kv == "f16" and wish.flash_attn != "off" and weights.quantizable:
        yield now(kv="q8_0")
    if wish.gpu_layers is None:
        for share in range(7, -1, -1):  # eighths of the layers that were to be there
            if (layers := plan.setup.gpu_layers * share // 8) < setup.gpu_layers:
                yield now(gpu_layers=layers)
    while wish.ctx is None and wish.per_request is None and setup.n_ctx // 2 >= min(512, weights.trained):
        size = setup.n_ctx // 2
        parallel = parallel if wish.parallel else max(1, min(parallel, size // SHARE))
        yield now(n_ctx=size, n_batch=min(setup.n_batch, size), sequences=wish.sequences(parallel))


def open_fitting(choice: Choice, wish: Wish, make: Callable[[Plan], Opened]) -> tuple[Opened, Plan]:
    """Open the chosen plan, or where memory is short after all, the next lesser one that should fit and does.

    `make` opens a plan and raises ShortMemoryError where it does not fit. A plan that what is free now no longer holds
    is not tried, as llama.cpp dies where memory ends in a small matter, unless nothing else is left. Raises
    ShortMemoryError where there is nothing left to give up.
    """
    failed: ShortMemoryError | MemoryError | None = None
    tried: Plan | None = None
    for plan in _attempts(choice, wish):
        if tried is not None and (plan.model is tried.model and plan.setup == tried.setup):
            continue
        try:
            return make(plan), plan
        except (ShortMemoryError, MemoryError) as error:
            tried, failed = plan, error
    if failed:
        raise failed
    free = amount(choice.ranking.machine.free or 0)
    raise ShortMemoryError(
        f"{choice.path.name} does not fit in the {free} of memory that are free, with as little as can be",
        "close other programs, take a lower level, or raise the limit (ulimit -v, the container's memory)",
    )


def _again(plan: Plan, wish: Wish, machine: Machine) -> Plan:
    """A plan as it stands on a machine with other memory free; what llama.cpp said of its buffers stays true."""
    return planned(plan.model, plan.setup, plan.parallel, machine, plan.need.buffers, wish.lora)


def _attempts(choice: Choice, wish: Wish) -> Iterator[Plan]:
    """The chosen plan, unless memory shrank since it was made; then the lesser ones that fit, and the last of all."""
    machine, plan = choice.ranking.machine, choice.plan
    if not machine.stated:
        machine = this_machine(on_gpu=wish.gpu_layers != 0)
    now = _again(plan, wish, machine)
    if now.fits or (not plan.fits and now.bearable(machine)):
        yield plan
    last = now
    for last in lesser(choice, wish):
        if last.short is None or last.short <= 0:
            yield last
    if last.bearable(this_machine(on_gpu=wish.gpu_layers != 0)):
        yield last


def prove(context: Context, adapted: bool = False) -> None:
    """Show that a context computes a full batch: what is still to be allocated then, is. Raises ShortMemoryError.

    On a GPU the batch is computed; it is looked first whether there is memory for it, and for what a full context and,
    if the model is to be `adapted`, adapters will take, as CUDA ends the process where there is none. On the processor
    everything was allocated, though not all of it was touched: it is compared with what is free, as computing would
    take the time of a long prompt.
    """
    if not context.offloaded:
        weights, setup = Weights.of(context.model.header), running(context)
        free, needed = available_memory(), work(weights, setup) + scratch(weights, setup)
        if free is not None and free < needed:
            raise ShortMemoryError(
                f"computing needs {needed / MIB:,.0f} MiB of memory, and {free / MIB:,.0f} MiB are free",
                "close other programs, or give a smaller --ctx",
            )
        return
    weights, setup, machine = Weights.of(context.model.header), running(context), this_machine()
    needed = pool(weights, setup, adapted) + _MARGIN
    if not machine.unified:
        needed += kernels(weights, setup, adapted) - max(machine.opened - CUDA_CONTEXT, 0)
    for device, share in zip(machine.gpus, setup.split or [1.0] * len(machine.gpus), strict=True):
        if share and device.total and device.free < needed:
            raise ShortMemoryError(
                f"computing needs {needed / MIB:,.0f} MiB of {device.name}, and {device.free / MIB:,.0f} MiB are free",
                "close other programs that use it, or give a smaller --ctx",
            )
    context.warm()
