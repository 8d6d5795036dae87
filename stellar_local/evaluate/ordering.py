"""An order of items in which every beginning has some of all kinds, so that a limited run measures a fair sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain, zip_longest
from typing import TypeVar

Row = TypeVar("Row")


def spread(rows: Sequence[Row], language: Callable[[Row], str], kind: Callable[[Row], str]) -> list[tuple[int, Row]]:
    """All rows, each with its number in the file's order, from 1: the languages in turn, and within each the kinds."""
    ordered: dict[str, list[tuple[int, int, Row]]] = {}
    seen: Counter[tuple[str, str]] = Counter()
    for number, row in enumerate(rows, 1):
        group = language(row), kind(row)
        ordered.setdefault(group[0], []).append((seen[group], number, row))
        seen[group] += 1
    in_turn = zip_longest(*(sorted(own, key=lambda one: one[:2]) for own in ordered.values()))
    return [one[1:] for one in chain.from_iterable(in_turn) if one is not None]
