"""Shares hold to the row; nothing is thrown away unless that is allowed; nobody is repeated beyond the cap."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stellar_local.errors import StellarError
from train.building.shares import Part, plan, spread

HALF = {"general": 0.5, "domain": 0.3, "identity": 0.2}


def parts(general: int, domain: int, identity: int) -> list[Part]:
    return [
        Part("a", "general", general, 1.0),
        Part("b", "domain", domain, 1.0),
        Part("c", "identity", identity, 1.0),
    ]


def test_scarce_categories_are_raised() -> None:
    assert plan(parts(1000, 300, 40), HALF, 20, False).rows == {"a": 1000, "b": 600, "c": 400}
    assert plan(parts(100, 300, 40), HALF, 20, False).rows == {"a": 500, "b": 300, "c": 200}


def test_without_shares_weights_alone_count() -> None:
    weighted = [Part("a", "x", 10, 1.0), Part("b", "x", 10, 2.5), Part("c", "y", 3, 0.5)]
    assert plan(weighted, {}, 1, False).rows == {"a": 10, "b": 25, "c": 2}


def test_weights_within_a_category() -> None:
    weighted = [Part("a", "x", 10, 1.0), Part("b", "x", 10, 3.0), Part("c", "y", 10, 1.0)]
    chosen = plan(weighted, {"x": 0.5, "y": 0.5}, 20, False)
    assert chosen.rows == {"a": 10, "b": 30, "c": 40}


def test_the_cap() -> None:
    chosen = plan(parts(1000, 300, 10), HALF, 20, False)
    assert chosen.rows == {"a": 1000, "b": 600, "c": 200}
    assert chosen.capped == {"identity": pytest.approx(40)}
    reduced = plan(parts(1000, 300, 10), HALF, 20, True)
    assert (reduced.rows, reduced.capped) == ({"a": 500, "b": 300, "c": 200}, {})
    assert plan(parts(1000, 300, 10), HALF, 1, True).rows == {"a": 25, "b": 15, "c": 10}


def test_a_share_without_rows() -> None:
    with pytest.raises(StellarError, match="no row is left in the category identity"):
        plan(parts(10, 10, 0), HALF, 20, False)


@given(*[st.integers(1, 5000)] * 3, st.sampled_from([HALF, {"general": 0.9, "domain": 0.07, "identity": 0.03}]))
def test_shares_hold_to_the_row(general: int, domain: int, identity: int, shares: dict[str, float]) -> None:
    given_parts = parts(general, domain, identity)
    chosen = plan(given_parts, shares, 10**6, False)
    total = sum(chosen.rows.values())
    for part in given_parts:
        assert chosen.rows[part.name] >= part.rows
        assert abs(chosen.rows[part.name] - shares[part.category] * total) <= 2
    assert any(chosen.rows[part.name] == part.rows for part in given_parts)


@given(*[st.integers(1, 300)] * 3, st.integers(1, 5))
def test_reducing_holds_shares_under_any_cap(general: int, domain: int, identity: int, cap: int) -> None:
    given_parts = parts(general, domain, identity)
    chosen = plan(given_parts, HALF, cap, True)
    total = sum(chosen.rows.values())
    for part in given_parts:
        assert chosen.rows[part.name] <= cap * part.rows
        assert abs(chosen.rows[part.name] - HALF[part.category] * total) <= 2


@given(st.lists(st.integers(), unique=True, min_size=1, max_size=20), st.integers(0, 99))
def test_spread(items: list[int], number: int) -> None:
    taken = Counter(spread(items, number, "seed"))
    assert sum(taken.values()) == number
    counts = [taken[item] for item in items]
    assert max(counts) - min(counts) <= 1
    assert spread(items, number, "seed") == spread(items, number, "seed")
