"""What to run on which card: the plans for common cards, computed for BayLing's sizes.

NVIDIA's rows rest on the planner's arithmetic, which was compared with measurements on larger cards; Apple's rows are
computed only, nobody has tried them. Knows cards' sizes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..native.devices import Device
from .choose import Plan, Wish, rank
from .hardware import Machine, stated_machine
from .models import named
from .shapes import SHAPES

_GIB = 1 << 30
# What a desktop, or a driver alone, takes of a card before we come.
_TAKEN = _GIB // 2
# Of a Mac's memory Metal recommends so much as its working set (recommendedMaxWorkingSetSize): two thirds, three
# quarters from 36 GB on. The system takes the rest.
_METAL, _METAL_LARGE, _LARGE = 2 / 3, 3 / 4, 36


@dataclass(frozen=True)
class Card:
    """A card or a Mac by its size in GiB. `computed` means that its kind was never tried."""

    kind: str
    size: int
    computed: bool = False

    @property
    def machine(self) -> Machine:
        """What of it is free for a model."""
        if self.kind == "NVIDIA":
            return stated_machine([self.size * _GIB - _TAKEN])
        share = _METAL_LARGE if self.size >= _LARGE else _METAL
        room = int(self.size * _GIB * share)
        return Machine(None, (Device("Metal", self.kind, room, room, integrated=True),), stated=True)


CARDS = (
    *(Card("NVIDIA", size) for size in (8, 10, 12, 16, 24)),
    *(Card("Apple", size, computed=True) for size in (8, 16, 24, 36)),
)


def card_plans(parallel: int | None = 1) -> Iterator[tuple[Card, dict[str, Plan | None]]]:
    """Each card with the first plan for each of the three sizes, None where none fits."""
    models = {name: named(name) for name in SHAPES}
    for card in CARDS:
        found = {name: rank(models[name], Wish(parallel=parallel), card.machine).plans for name in SHAPES}
        yield card, {name: plans[0] if plans else None for name, plans in found.items()}
