"""The table of cards: every card of the issue's list, plans that fit it, and sensible ones."""

from __future__ import annotations

import pytest

from stellar_local.plan.cards import CARDS, Card, card_plans
from stellar_local.plan.choose import Plan
from stellar_local.plan.shapes import SHAPES

GIB = 1 << 30
Row = dict[str, Plan | None]


@pytest.fixture(scope="module")
def chat() -> dict[tuple[str, int], Row]:
    return {(card.kind, card.size): plans for card, plans in card_plans(1)}


def test_the_cards() -> None:
    assert [card.size for card in CARDS if card.kind == "NVIDIA"] == [8, 10, 12, 16, 24]
    assert [card.size for card in CARDS if card.kind == "Apple"] == [8, 16, 24, 36]
    assert all(card.computed == (card.kind == "Apple") for card in CARDS)


@pytest.mark.parametrize(("size", "room"), [(8, 5.33), (16, 10.67), (24, 16), (36, 27)])
def test_a_mac_keeps_a_part_for_itself(size: int, room: float) -> None:
    machine = Card("Apple", size, computed=True).machine
    assert machine.unified
    assert machine.free == pytest.approx(room * GIB, rel=1e-3)


def test_a_card_keeps_a_part_for_the_desktop() -> None:
    machine = Card("NVIDIA", 8).machine
    assert (machine.free, machine.unified, machine.ram) == (15 * GIB // 2, False, None)


@pytest.mark.parametrize("parallel", [1, None])
def test_every_plan_fits_its_card(parallel: int | None) -> None:
    rows = list(card_plans(parallel))
    assert [card for card, _ in rows] == list(CARDS)
    for card, plans in rows:
        assert tuple(plans) == SHAPES
        for name, plan in plans.items():
            assert plan is not None, (card, name)
            assert plan.need.on_gpus.total <= (card.machine.free or 0)
            assert plan.parallel == (1 if parallel else plan.parallel)
            assert plan.model.path.name.startswith(name)


def test_a_larger_card_runs_no_less(chat: dict[tuple[str, int], Row]) -> None:
    for kind in ("NVIDIA", "Apple"):
        sizes = [card.size for card in CARDS if card.kind == kind]
        for name in SHAPES:
            plans = [chat[kind, size][name] for size in sizes]
            whole = [plan.whole for plan in plans if plan]
            assert whole == sorted(whole), (kind, name)  # once it is whole, it stays so
            losses = [plan.percent for plan in plans if plan and plan.whole]
            assert losses == sorted(losses, reverse=True), (kind, name)


def test_the_makers_sizes_are_enough(chat: dict[tuple[str, int], Row]) -> None:
    """They say 7B from 8 GiB and 13B from 16 GiB: there both run whole, at the full context, with little loss."""
    for place in (("NVIDIA", 8), ("NVIDIA", 10)):
        assert_good(chat[place]["7b"])
    for place in (("NVIDIA", 12), ("NVIDIA", 16), ("NVIDIA", 24)):
        assert_good(chat[place]["13b"])


def assert_good(plan: Plan | None) -> None:
    assert plan is not None
    assert plan.whole
    assert plan.setup.n_ctx == 4096
    assert plan.percent < 5
