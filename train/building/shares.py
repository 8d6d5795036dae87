"""How often each source's rows are put in, so that the categories have the shares that a recipe asks for.

Knows numbers of rows, not the rows: scarce categories are raised, and nothing is thrown away unless that is allowed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from stellar_local.errors import StellarError

Item = TypeVar("Item")


@dataclass(frozen=True)
class Part:
    """One source: its category, how many rows it has, and how often each counts before shares are looked at."""

    name: str
    category: str
    rows: int
    weight: float


@dataclass(frozen=True)
class Plan:
    """How many rows each source gives in the end; `capped`: the categories that `max_repeat` stopped, and the factor
    that they would have needed.
    """

    rows: dict[str, int]
    capped: dict[str, float]


def plan(parts: Sequence[Part], shares: dict[str, float], max_repeat: int, reduce: bool) -> Plan:
    """Choose the size at which no category needs fewer rows than it has: all others are repeated up to their share.

    A row is put in at most `max_repeat` times for the sake of shares; a category that would need more stays below its
    share. With `reduce` the size is chosen so that none does, and the others give up rows.
    Raises StellarError for a category that has a share and no row.
    """
    if not shares:
        return Plan({part.name: _rounded(part.rows * part.weight) for part in parts}, {})
    have = {name: math.fsum(p.rows * p.weight for p in parts if p.category == name) for name in shares}
    if empty := [name for name, rows in have.items() if not rows]:
        raise StellarError(f"no row is left in the category {empty[0]}, which has a share")
    # A weight above max_repeat is the user's own wish: the cap only stops what shares add to it.
    limit = {
        name: max(1.0, max_repeat / max(p.weight for p in parts if p.category == name and p.rows)) for name in shares
    }
    size = max(have[name] / share for name, share in shares.items())
    if reduce:
        size = min(size, min(limit[name] * have[name] / share for name, share in shares.items()))
    rows: dict[str, int] = {}
    capped: dict[str, float] = {}
    for name, share in shares.items():
        factor = share * size / have[name]
        if factor > limit[name] * (1 + 1e-9):
            capped[name], factor = factor, limit[name]
        rows |= _dealt([part for part in parts if part.category == name], factor)
    return Plan(rows, capped)


def _rounded(number: float) -> int:
    return math.floor(number + 0.5)


def _dealt(parts: Sequence[Part], factor: float) -> dict[str, int]:
    """Rows of a category's sources, rounded so that the sum is right too: the largest remainders get one more."""
    exact = {part.name: round(part.rows * part.weight * factor, 6) for part in parts}
    whole = {name: math.floor(number) for name, number in exact.items()}
    missing = _rounded(math.fsum(exact.values())) - sum(whole.values())
    for name in sorted(exact, key=lambda name: whole[name] - exact[name])[:missing]:
        whole[name] += 1
    return whole


def spread(items: Sequence[Item], number: int, seed: str) -> list[Item]:
    """`number` items: all of them as often as possible, and a drawn rest, none of them twice in it."""
    if not items:
        return []
    whole, rest = divmod(number, len(items))
    return list(items) * whole + (random.Random(seed).sample(list(items), rest) if rest else [])
