"""Which model to run and how, so that it fits: every level's best setup on a machine, ranked.

What the user fixed is honoured, and checked all the same. Knows arithmetic and preferences; opens nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from ..native.devices import check_shares
from ..runtime import DEFAULT_CONTEXT, sequences_of
from .estimate import CUDA_KERNELS, Buffers, Need, Setup, estimate
from .hardware import CUDA_CONTEXT, Machine
from .models import Candidate
from .quality import Loss
from .weights import Weights

PARALLEL = 16  # requests at once in a batch, where nobody says otherwise
PARALLEL_GPU, _LEFT = 64, 0.1  # … where cards have room for them, and so much of what is free is left then
SHARE = 512  # tokens of the shared KV memory for each of them, likewise
_LEAST_CONTEXT = 1024  # tokens, below which no context is planned unless asked for
_SMALLEST = CUDA_CONTEXT + CUDA_KERNELS + (512 << 20)  # bytes free of a card, below which it is left to the desktop
_SPARE = 128 << 20  # bytes of each place that are left alone: what is free there goes up and down
# Percent of perplexity. Within the first, levels count as equally good, and the smaller and faster one is preferred;
# up to the second, a whole model on the GPU is preferred to a better one that leaves layers to the processor.
_SAME, _LITTLE, _MUCH = 0.1, 5.0, 15.0
_NEVER = (1 << 30,)  # after every other
_MOSTLY, _HALF = 0.8, 0.5  # of the layers on the GPU: slower, but not by as much as a lower level loses


@dataclass(frozen=True)
class Wish:
    """What is asked for; None is the planner's to choose. `parallel` requests run at once; with `per_request` each has
    that many tokens of its own, else they share `ctx`; `separate` means that no request keeps what others could use.
    `lora` are the bytes of adapters, `outputs` the logits of a batch that are wanted at once, where that is many.
    """

    ctx: int | None = None
    kv: str | None = None
    gpu_layers: int | None = None
    parallel: int | None = 1
    per_request: int | None = None
    separate: bool = False
    n_batch: int = 512
    flash_attn: str = "auto"
    split: tuple[float, ...] = ()
    lora: int = 0
    outputs: int = 0

    def sequences(self, parallel: int) -> int:
        """The sequences of a context for so many requests at once."""
        return sequences_of(parallel, self.separate or self.per_request is not None)


@dataclass(frozen=True)
class Plan:
    """A model at a level with a setup, what it needs, and `short`: the bytes missing, 0 or less where it fits, None
    where the system does not say what is free. `ideal` is the context that it should have.
    """

    model: Candidate
    setup: Setup
    parallel: int
    need: Need
    short: int | None
    loss: Loss
    ideal: int = 0

    @property
    def fits(self) -> bool:
        """Whether it surely fits."""
        return self.short is not None and self.short <= 0

    def bearable(self, machine: Machine) -> bool:
        """Whether it can be tried although it does not surely fit: mapped weights run from the disk as well, slowly,
        unless it is the address space that is limited. llama.cpp dies where memory ends in a small matter.
        """
        host = self.need.host
        needed = host.total if machine.limited else host.kv + host.compute
        known = [one for one in machine.gpus if one.total or one.free]
        return all(self.need.places[one.name].total <= one.free + machine.opened for one in known) and (
            machine.ram is None or needed <= machine.ram
        )

    @property
    def whole(self) -> bool:
        """Whether nothing is left to the processor that a GPU could have, if there is one."""
        return self.setup.gpu_layers >= self.model.weights.layers or len(self.need.places) == 1

    @property
    def percent(self) -> float:
        """The loss of quality in percent of perplexity; where nobody knows it, as if it were hardly any."""
        return max(self.loss.percent or 0.0, 0.0)


@dataclass(frozen=True)
class Ranking:
    """All that was planned: `plans` that fit, the best first; and `refused`, each level's ideal setup where that does
    not fit, whether or not a lesser one does.
    """

    machine: Machine
    plans: tuple[Plan, ...] = ()
    refused: tuple[Plan, ...] = field(default=())

    def ideal(self, plan: Plan) -> Plan | None:
        """The ideal setup of a plan's model, if that does not fit."""
        return next((one for one in self.refused if one.model is plan.model), None)

    def lesser(self, plan: Plan) -> Plan | None:
        """The plan that fits in the place of a refused one, if there is any."""
        return next((one for one in self.plans if one.model is plan.model), None)


Estimate = Callable[[Candidate, Setup], Buffers | None]


def rank(
    models: Sequence[Candidate], wish: Wish, machine: Machine, buffers: Estimate = lambda _model, _setup: None
) -> Ranking:
    """Every model's best setups on a machine, ranked; `buffers` are a probe's, if there was one. Where nobody says what
    is free, the smallest model comes first. Raises ModelError.
    """
    if wish.split:
        check_shares(wish.split, machine.gpus)
    wishes = [wish] if wish.split else [replace(wish, split=split) for split in _shares(machine)]
    plans: list[Plan] = []
    refused: list[Plan] = []
    for model in models:
        tried = [_Planner(model, one, machine, buffers).plans() for one in wishes]
        ideal, *found = min(tried, key=lambda made: min(map(_order, made[1:]), default=_NEVER))  # the first of equals
        plans += found
        if not ideal.fits:
            refused.append(ideal)
    ranked = reversed(plans) if machine.free is None else sorted(plans, key=_order)
    return Ranking(machine, tuple(ranked), tuple(refused))


def _shares(machine: Machine) -> Iterator[tuple[float, ...]]:
    """The shares to try: by free memory, then with the smallest card left out, the next one … Layers are spread by what
    is free, though each card takes some for itself first, so that a small one can be worse than none.
    """
    shares = _without_small(machine)
    yield shares
    left = list(shares or [float(device.free) for device in machine.gpus])
    while sum(size > 0 for size in left) > 1 and all(one.total for one in machine.gpus):
        left[left.index(min(size for size in left if size > 0))] = 0.0
        yield tuple(left)


def _without_small(machine: Machine) -> tuple[float, ...]:
    """Shares that leave out cards with room for hardly more than what a process needs there; () where all have it."""
    least = _SMALLEST - machine.opened
    free = [device.free if device.free >= least or not device.total else 0 for device in machine.gpus]
    return tuple(map(float, free)) if any(free) and not all(free) and any(one.total for one in machine.gpus) else ()


def _order(plan: Plan) -> tuple[float, ...]:
    """Better plans come first, in tiers:

    0 whole, little loss of quality, nothing given up but the KV's precision; 1 as 0, but some layers are left to the
    processor; 2 whole, little loss, half the context or of the requests at once given up; 3 whole and as wished, much
    loss; 4 at least half of the layers on the GPU, or less context still; 5 what else there is, and 6 what loses very
    much besides.
    """
    share = plan.setup.gpu_layers / plan.model.weights.layers
    size, most = plan.setup.n_ctx, plan.ideal
    little, much = plan.percent <= _LITTLE, plan.percent <= _MUCH
    if plan.whole:
        tier = (0 if little else 3 if much else 5) if size >= most else 2 if little and 2 * size >= most else 4
        return (tier if much else 5, plan.percent // _SAME, -size, plan.model.weights.total)
    tier = 1 if little and share >= _MOSTLY else 4 if much and share >= _HALF else 5 if much else 6
    return (tier, -share // _SAME, plan.percent // _SAME, -size, plan.model.weights.total)


def default_context(weights: Weights, parallel: int) -> int:
    """Tokens of context where nobody says: as many as the model was trained with, at most 4,096; shared by several
    requests at least 512 for each.
    """
    one = min(DEFAULT_CONTEXT, weights.trained)
    return one if parallel == 1 else max(one, min(SHARE, weights.trained) * parallel)


class _Planner:
    """One model's setups."""

    def __init__(self, model: Candidate, wish: Wish, machine: Machine, buffers: Estimate) -> None:
        self._model, self._wish, self._machine, self._buffers = model, wish, machine, buffers
        self._weights = model.weights

    def plans(self) -> list[Plan]:
        """The ideal setup, whether or not it fits; then those that fit, at most two: the whole model with the least
        given up, and, where that is more than the KV type, the full context with layers left to the processor.
        """
        wishes = list(self._variants())
        ideal = self._plan(*wishes[0], self._all)
        if ideal.fits:
            return [ideal, self._grown(ideal)]
        for variant in wishes:
            plan = self._least(*variant, self._all)
            if plan.fits:
                if plan.setup.n_ctx == ideal.setup.n_ctx:
                    return [ideal, plan]
                return [ideal, plan, *self._partial(wishes)]
        if self._unknown:
            return [ideal, ideal]
        return [ideal, *self._partial(wishes)]

    def _grown(self, plan: Plan) -> Plan:
        """The same with as many requests at once as cards that have the whole model have room for, where nobody says
        how many: a step of more takes hardly longer, and nothing else is given up for them. Not measured where the GPU
        shares the main memory. The formula decides, with room to spare, so that a probe changes nothing; in a batch,
        prompts keep three quarters of the places.
        """
        wish, machine, count = self._wish, self._machine, PARALLEL_GPU
        separate = machine.gpus and not machine.unified and (machine.ram is not None or machine.stated)
        while separate and wish.parallel is None and plan.whole and count > plan.parallel:
            room = wish.ctx is None or wish.per_request or wish.ctx // SHARE >= count
            if room and 4 * count <= wish.n_batch:
                more = self._plan(self._context(count), plan.setup.kv, count, self._all)
                places = estimate(self._weights, more.setup, machine, lora=wish.lora).places
                left = [one.free + machine.opened - places[one.name].total for one in machine.gpus]
                if more.fits and all(
                    size >= _LEFT * one.free for size, one in zip(left, machine.gpus, strict=True) if one.free
                ):
                    return more
            count //= 2
        return plan

    @property
    def _all(self) -> int:
        """Layers to offload: what is asked for, else all."""
        if not self._machine.gpus:
            return 0
        asked = self._wish.gpu_layers
        return self._weights.layers if asked is None else min(asked, self._weights.layers)

    @property
    def _most(self) -> int:
        """Requests at once, as wished; a batch holds a token of each."""
        return self._wish.parallel or min(PARALLEL, self._wish.n_batch)

    @property
    def _unknown(self) -> bool:
        return self._machine.free is None

    def _variants(self) -> Iterator[tuple[int, str, int]]:
        """(context, KV type, requests at once), what is given up first coming first: KV precision, which costs hardly
        any quality; then requests at once; then context; and q4_0's precision last.
        """
        wish, weights = self._wish, self._weights
        free = wish.kv is None and wish.flash_attn != "off" and weights.quantizable
        kinds = [wish.kv or "f16", *(["q8_0"] if free else [])]
        most = self._most
        counts = [most]
        while wish.parallel is None and counts[-1] > (1 if wish.per_request else 4):
            counts.append(counts[-1] // 2)
        for kind in kinds:
            yield self._context(most), kind, most
        for count in counts[1:]:
            yield self._context(count), kinds[-1], count
        least = counts[-1]
        if wish.ctx is None and wish.per_request is None:
            size = self._context(least)
            while size // 2 >= min(_LEAST_CONTEXT, weights.trained):
                size //= 2
                yield size, kinds[-1], least if wish.parallel else max(1, min(least, size // SHARE))
        if free:
            yield self._context(most), "q4_0", most

    def _context(self, parallel: int) -> int:
        if self._wish.per_request:
            return self._wish.per_request * parallel
        return self._wish.ctx or default_context(self._weights, parallel)

    def _partial(self, wishes: Sequence[tuple[int, str, int]]) -> list[Plan]:
        """As many layers on the GPU as fit, at the full context; less of that where not even main memory holds it."""
        if not self._machine.gpus or self._wish.gpu_layers is not None:
            return []
        full = [one for one in wishes if one[0] == wishes[0][0] and one[1] in (self._wish.kv, "f16", "q8_0")]
        found = [plan for variant in full if (plan := self._most_layers(variant))]
        if found:
            return [max(found, key=lambda plan: plan.setup.gpu_layers)]  # the first of equals
        lesser = (plan for variant in wishes if variant not in full and (plan := self._most_layers(variant)))
        return list(islice(lesser, 1))

    def _most_layers(self, variant: tuple[int, str, int]) -> Plan | None:
        """A variant with as many layers on the GPU as fit, if it fits with any number, or none."""
        low, high = -1, self._weights.layers  # low fits, or none is known to; high does not
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._least(*variant, middle).fits else (low, middle)
        return self._least(*variant, low) if low >= 0 else None

    def _plan(self, n_ctx: int, kv: str, parallel: int, gpu_layers: int) -> Plan:
        wish = self._wish
        setup = Setup(
            n_ctx=n_ctx,
            kv=kv,
            gpu_layers=gpu_layers,
            sequences=wish.sequences(parallel),
            outputs=wish.outputs,
            n_batch=min(wish.n_batch, n_ctx),
            unified=wish.per_request is None,
            split=wish.split,
        ).attending(wish.flash_attn, self._weights.heads)
        return self._planned(setup, parallel)

    def _least(self, n_ctx: int, kv: str, parallel: int, gpu_layers: int) -> Plan:
        """The same, and where that does not fit with flash attention, by which only speed is lost."""
        found = self._plan(n_ctx, kv, parallel, gpu_layers)
        if found.fits or found.short is None:
            return found
        return self._planned(found.setup.attending(lasting(self._wish), self._weights.heads), parallel)

    def _planned(self, setup: Setup, parallel: int) -> Plan:
        buffers = self._buffers(self._model, setup)
        found = planned(self._model, setup, parallel, self._machine, buffers, self._wish.lora)
        return replace(found, ideal=self._context(self._most))


def lasting(wish: Wish) -> str:
    """What is left of a wish for attention where memory is short."""
    return "off" if wish.flash_attn == "off" else "on"


def planned(
    model: Candidate, setup: Setup, parallel: int, machine: Machine, buffers: Buffers | None = None, lora: int = 0
) -> Plan:
    """A setup with what it needs on a machine, and what is missing there beside a reserve."""
    need = estimate(model.weights, setup, machine, buffers, lora)
    short = None if machine.free is None else need.short(machine, _SPARE)
    return Plan(model, setup, parallel, need, short, model.loss(setup.kv))
