"""A plan in words, in the interface's language: why it was chosen, what does not fit and what would, what was given up.

Knows the texts; knows nothing of how a plan comes about.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..console import amount
from ..texts import Texts
from .choose import Plan, Ranking
from .hardware import Machine
from .opening import Choice, Reason


def describe(choice: Choice, texts: Texts) -> str:
    """Why a level was chosen, in one line; "" for a file given itself, whole."""
    plan, machine = choice.plan, choice.ranking.machine
    if choice.reason is Reason.FILE:
        return ""
    values = {"file": choice.path.name, "level": plan.model.level, "count": str(len(choice.models))}
    if choice.reason is Reason.NAMED:
        return texts("plan.named", **values)
    if choice.reason is Reason.UNKNOWN:
        return texts("plan.unknown", **values)
    values |= {
        "ctx": f"{plan.setup.n_ctx:,}",
        "needed": amount(weighing(plan, machine)),
        "free": amount(machine.free or 0),
        "layers": str(plan.model.weights.layers),
        "held": str(plan.setup.gpu_layers),
    }
    place = "gpu" if machine.gpus else "ram"
    if choice.reason is Reason.FITTING:
        above = choice.models[: choice.models.index(plan.model)]
        better = [one for one in choice.ranking.refused if one.model in above]
        if not better:  # only in full: what was given up of it is said beside
            return texts(f"plan.best_{place}", **values) + lowered(plan, choice.ranking, texts)
        nearest = better[-1]
        values |= {"better": nearest.model.level, "more": amount(weighing(nearest, machine))}
    return texts(f"plan.{choice.reason.value}_{place}", **values) + lowered(plan, choice.ranking, texts)


def weighing(plan: Plan, machine: Machine) -> int:
    """The bytes that decide whether a plan fits: those on the GPUs, or in main memory where there are none."""
    return plan.need.on_gpus.total if machine.gpus else plan.need.host.total


def lowered(plan: Plan, ranking: Ranking, texts: Texts) -> str:
    """What a plan gives up of the ideal for its model, to be put behind a line; "" for nothing."""
    ideal = ranking.ideal(plan)
    return "" if ideal is None else texts("plan.lowered", what=given_up(ideal, plan, texts))


def given_up(before: Plan, after: Plan, texts: Texts) -> str:
    """What the later plan has less of."""
    old, new = before.setup, after.setup
    found = []
    if before.model is not after.model:
        found.append(texts("plan.less_level", old=before.model.level, new=after.model.level))
    if after.parallel < before.parallel:
        found.append(texts("plan.less_parallel", old=before.parallel, new=after.parallel))
    if new.flash and not old.flash and new.kv == old.kv:  # a quantized KV implies it
        found.append(texts("plan.less_flash"))
    if new.kv != old.kv:
        found.append(texts("plan.less_kv", old=old.kv, new=new.kv))
    if new.gpu_layers < old.gpu_layers and not new.gpu_layers and before.model is after.model:
        found.append(texts("plan.no_layers", ram=amount(after.need.host.total)))
    elif new.gpu_layers < old.gpu_layers and before.model is after.model:
        found.append(texts("plan.less_layers", old=old.gpu_layers, new=new.gpu_layers))
    if new.n_ctx < old.n_ctx:
        found.append(texts("plan.less_ctx", old=f"{old.n_ctx:,}", new=f"{new.n_ctx:,}"))
    return joined(found, texts)


def joined(parts: Sequence[str], texts: Texts) -> str:
    """An enumeration as the language has it."""
    return ("，" if texts.language == "zh" else ", ").join(parts)


def in_short(plan: Plan, texts: Texts) -> str:
    """A plan in one cell: "Q4_K_M, 4,096, q8_0 KV, 36 of 41 layers"."""
    setup = plan.setup
    parts = [plan.model.level, f"{setup.n_ctx:,}"]
    parts += [texts("plan.at_once", count=plan.parallel)] if plan.parallel > 1 else []
    parts += [] if setup.kv == "f16" else [f"{setup.kv} KV"]
    if not plan.whole:
        parts.append(texts("plan.some_layers", held=setup.gpu_layers, layers=plan.model.weights.layers))
    return joined(parts, texts)


def refusal(plan: Plan, ranking: Ranking, name: str, texts: Texts) -> str:
    """Why a model's ideal setup does not fit, and what of it would: "13B Q4_K_M needs 11.1 GiB at 4,096 …"."""
    machine = ranking.machine
    values = {
        "name": name,
        "needed": amount(weighing(plan, machine)),
        "ctx": f"{plan.setup.n_ctx:,}",
        "free": amount(machine.free or 0),
    }
    lesser = ranking.lesser(plan)
    if lesser is None:
        if machine.gpus and machine.ram is not None:
            return texts("plan.refused_both", ram=amount(machine.ram), **values)
        return texts("plan.refused", **values)
    if not lesser.setup.gpu_layers and machine.ram is not None:  # it is in main memory that it fits
        values["free"] = amount(machine.ram)
    how = given_up(plan, lesser, texts)
    return texts("plan.refused_but" if lesser.whole else "plan.refused_slower", how=how, **values)


def noted(choice: Choice, texts: Texts) -> list[str]:
    """What must be said of a choice whose reasons nobody has read: that it has less than is usual, or does not fit."""
    plan, machine = choice.plan, choice.ranking.machine
    values = {"file": choice.path.name, "free": amount(machine.free or 0)}
    if plan.short is None:
        return []
    if plan.fits:
        ideal = choice.ranking.ideal(plan)
        return [texts("plan.runs_with", what=given_up(ideal, plan, texts), **values)] if ideal else []
    needed = weighing(plan, machine)
    if machine.gpus and machine.ram is not None and needed <= (machine.free or 0):  # it is the main memory that lacks
        needed, values["free"] = plan.need.host.total, amount(machine.ram)
    return [texts("plan.too_large", needed=amount(needed), **values)]
