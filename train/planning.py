"""The memory plan of one run: what its settings ask for, what this device has, and what its data will really take.

Knows the run's settings and where it computes; the arithmetic is memory's and the choice fit's. Says the plan before
anything is loaded, and the measured peak after.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

from stellar_local.errors import StellarError
from stellar_local.plan.hardware import available_memory

from .budget import budget
from .config import TrainConfig
from .dataset import Sample
from .fit import Choice, Wish, choose, compare, describe
from .memory import Shape, estimate
from .packing import Limit, cut, own_share, packed_length
from .placing import PROCESSES_HERE, WORLD, Place, least, tell
from .steps import Steps

_LOOKED_AT = 2000  # steps: cutting them takes a second
_TRIAL = {"auto": None, "on": True, "off": False}


@dataclass(frozen=True)
class Plan:
    """What was chosen, and the most that a micro-batch may hold so that it stays true."""

    choice: Choice
    limit: Limit


def planned(
    config: TrainConfig,
    base: Mapping[str, Any],
    place: Place,
    samples: Sequence[Sample],
    steps: Steps,
    began: str = "",
) -> Plan:
    """Choose precision, tokens at once and what lies where, and say so. Raises UsageError and ModelError.

    `samples` may hold more than the steps are made of: the held-out ones, which are computed too. `began` is the
    precision of a run that goes on, which it keeps whatever is free by now.
    """
    if not began or began == config.dtype:
        return _planned(config, base, place, samples, steps)
    try:
        return _planned(replace(config, dtype=began), base, place, samples, steps)
    except StellarError as error:
        error.hint = f"this run began in {began}: go on where that can be, or begin anew with --overwrite"
        raise


def _planned(
    config: TrainConfig, base: Mapping[str, Any], place: Place, samples: Sequence[Sample], steps: Steps
) -> Plan:
    kind = place.device.type
    longest = max(len(sample.ids) for sample in samples)
    whole = _largest(samples, steps, Limit(config.micro_batch_size))
    wish = Wish(
        rank=config.lora_r,
        modules=config.lora_target_modules,
        dropout=config.lora_dropout > 0,
        dora=config.use_dora,
        dtype=None if config.dtype == "auto" else config.dtype,
        tokens=config.packing or None,
        most=max(longest, whole),
        checkpointing=_TRIAL[config.checkpointing],
        offload=_TRIAL[config.offload],
    )
    # Every process must come to the same setup: what the one with least has.
    free, host = least(place.free), (available_memory() or 0) // PROCESSES_HERE
    has_bnb = find_spec("bitsandbytes") is not None
    choice = choose(
        Shape.of(base), wish, budget(config.memory, free, kind), longest, kind, has_bnb, place.bf16, least(host)
    )
    limit = Limit(config.micro_batch_size, choice.setup.tokens)
    setup = replace(choice.setup, tokens=whole if whole <= limit.tokens else _largest(samples, steps, limit))
    choice = replace(choice, setup=setup, estimate=estimate(choice.shape, setup))
    for line in describe(choice):
        tell(line)
    return Plan(choice, limit)


def tell_peak(choice: Choice, measured: int) -> None:
    """Say the measured peak, in bytes, beside the plan; 0 is unknown."""
    if measured:
        tell(compare(choice, measured))


def _largest(samples: Sequence[Sample], steps: Steps, limit: Limit) -> int:
    """The tokens of the largest micro-batch that a process computes, under a limit; of long runs, in a part of them."""
    chosen = range(0, len(steps), -(-len(steps) // _LOOKED_AT))
    shares = (own_share([samples[i] for i in steps[number]], 0, WORLD) for number in chosen)
    return max(packed_length(batch) for share in shares for batch in cut(share, limit))
