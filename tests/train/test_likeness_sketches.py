"""Candidates against all pairs: nearly all that are near and little else, in whatever order they are given."""

from __future__ import annotations

import random

import numpy as np
import pytest
from alike_texts import by_hand, edited, texts

from train.likeness import sketches
from train.likeness.similar import all_pieces
from train.likeness.sketches import Neighbours, Sketcher, bands


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.85, 0.95])
def test_bands_find_99_of_100(threshold: float) -> None:
    count, hashes = bands(threshold)
    assert count * hashes <= 128
    assert 1 - (1 - threshold**hashes) ** count >= 0.99


def keys_of(items: list[str], threshold: float = 0.85) -> sketches.Hashes:
    sketcher = Sketcher(threshold)
    return np.stack([sketcher.keys(sketcher.sketch(all_pieces((text,)))) for text in items])


def pairs(keys: sketches.Hashes, order: list[int]) -> set[frozenset[int]]:
    """Which items are compared with each other, where they are looked at in an order."""
    neighbours = Neighbours(keys[order])
    found = set()
    for item, number in enumerate(order):
        found |= {frozenset((number, order[other])) for other in neighbours.of(item)}
        neighbours.add(item)
    return found


def test_what_is_near_is_found_and_little_else() -> None:
    generator = random.Random(2)
    originals = texts(300, 3)
    twins = [edited(text, generator) for text in originals]
    found = pairs(keys_of(originals + twins), list(range(600)))
    near = {
        frozenset((number, number + 300))
        for number, (one, other) in enumerate(zip(originals, twins, strict=True))
        if by_hand(one, other, 5 if one.isascii() else 3) >= 0.85
    }
    assert len(near) > 200
    assert len(found & near) >= 0.97 * len(near)
    assert len([pair for pair in found if max(pair) - min(pair) != 300]) < len(near) / 4


def test_the_minimum_is_pythons() -> None:
    """One key, worked out with Python's own integers from what the sketcher drew."""
    sketcher = Sketcher(0.85)
    own = all_pieces(("什么是黑洞的事件视界",))
    count, hashes = bands(0.85)
    lows = [
        min(((int(piece) >> 32) * int(factor) + int(offset)) % 2**32 for piece in own)
        for factor, offset in zip(sketcher._factors, sketcher._offsets, strict=True)
    ]
    expected = [
        sum(lows[band * hashes + at] * int(sketcher._mixers[band, at]) for at in range(hashes)) % 2**64
        for band in range(count)
    ]
    assert sketcher.sketch(own).tolist() == lows
    assert sketcher.keys(sketcher.sketch(own)).tolist() == expected
    assert not set(sketcher.keys(sketcher.sketch(own), b"12").tolist()) & set(expected)
    assert len({int(piece) >> 32 for piece in own}) == len(own)


def test_long_texts_are_hashed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    own = all_pieces((" ".join(texts(40, 7)),))
    whole = Sketcher(0.85).sketch(own)
    monkeypatch.setattr(sketches, "_CHUNK", 100)
    assert len(own) > 300 and Sketcher(0.85).sketch(own).tolist() == whole.tolist()


@pytest.mark.parametrize("crowd", [4, 64])
def test_the_order_changes_nothing(crowd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even in a crowd, where all are compared with a few."""
    monkeypatch.setattr(sketches, "_CROWD", crowd)
    generator = random.Random(3)
    items = [edited(text, generator) for text in texts(8, 4) for _ in range(25)]
    keys = keys_of(items)
    order = list(range(len(items)))
    first = pairs(keys, order)
    assert len(first) > len(items)
    for _ in range(3):
        generator.shuffle(order)
        assert pairs(keys, order) == first


def test_a_crowd_is_compared_with_few(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = random.Random(3)
    (text,) = texts(1, 5)
    items = list(dict.fromkeys(edited(text, generator) for _ in range(400)))
    keys, order = keys_of(items), list(range(len(items)))
    everything = len(pairs(keys, order))
    monkeypatch.setattr(sketches, "_CROWD", 2)
    assert len(items) <= len(pairs(keys, order)) < everything / 2


def test_a_sketch_tells_what_is_worth_a_true_count() -> None:
    generator = random.Random(4)
    sketcher = Sketcher(0.85)
    originals = texts(200, 8)
    twins = [edited(text, generator) for text in originals]
    one, other = (np.stack([sketcher.sketch(all_pieces((text,))) for text in part]) for part in (originals, twins))
    missed = unlike = 0
    for number, (text, twin) in enumerate(zip(originals, twins, strict=True)):
        found = set(sketcher.promising(one[number], other).tolist())
        missed += number not in found and by_hand(text, twin, 5 if text.isascii() else 3) >= 0.85
        unlike += len(found - {number})
    assert missed <= 2 and unlike <= 2


def test_of_very_many_that_look_alike_the_closest_are_told() -> None:
    """Rows of one pattern look promising by the hundred, and a true count of each would take time without end."""
    generator = random.Random(5)
    sketch = Sketcher(0.85).sketch(all_pieces((texts(1, 9)[0],)))
    others = np.repeat(sketch[None], 200, axis=0)
    unlike = [generator.randrange(len(sketch) // 5) for _ in others]  # places in which each differs
    for other, count in zip(others, unlike, strict=True):
        other[generator.sample(range(len(sketch)), count)] ^= np.uint32(1)
    told = Sketcher(0.85).promising(sketch, others).tolist()
    assert told == sorted(sorted(range(200), key=lambda number: (unlike[number], number))[: sketches._CLOSEST])
    assert Sketcher(0.85).promising(sketch, others[: sketches._CLOSEST]).tolist() == list(range(sketches._CLOSEST))


def test_only_the_first_are_found() -> None:
    one, other = texts(2, 6)
    neighbours = Neighbours(keys_of([one, one, other]), known=1)
    neighbours.add(0)
    assert (list(neighbours.of(1)), list(neighbours.of(2))) == ([0], [])


def test_nothing_to_compare() -> None:
    assert Neighbours(np.empty((0, 15), np.uint64), 0)
