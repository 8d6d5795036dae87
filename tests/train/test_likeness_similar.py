"""Likeness against a count by hand: sets of character runs, no hashes."""

from __future__ import annotations

import random

from alike_texts import by_hand, edited, texts

from train.likeness.similar import Likeness, pieces


def test_likeness_is_the_one_counted_by_hand() -> None:
    generator = random.Random(5)
    likeness = Likeness()
    compared = 0
    for one in texts(40, 1):
        other = one
        for _ in range(4):
            other = edited(other, generator)
            truth = by_hand(one, other, 5 if one.isascii() else 3)
            compared += 1
            assert likeness.degree((one,), (other,)) == likeness.degree((one,), (other,), truth) == truth
            assert likeness.degree((one,), (other,), truth + 1e-6) == 0
    assert compared == 160


def test_pieces_are_the_same_in_every_process() -> None:
    """A value worked out with Python's own integers."""
    expected = set()
    for at in range(3):
        total = 1
        for char in " 黑洞吗 "[at : at + 3]:
            total = (total * 0x9E3779B97F4A7C15 + ord(char)) % 2**64
        total ^= total >> 29
        expected.add(total * 0x9E3779B97F4A7C15 % 2**64)
    assert set(pieces("黑洞吗").tolist()) == expected
    assert not expected & set(pieces("黑洞吗", 1).tolist())


def test_form_is_what_many_of_the_counted_rows_have() -> None:
    likeness = Likeness()
    task = "Judge whether this is right or wrong"
    items = [(f"{task}: {text}",) for text in texts(202, 1)[1::2]]
    for item in items:
        likeness.count(item)
    form = set(pieces(task).tolist())
    assert not form & set(likeness.telling(items[0][0], 0).tolist())


def test_the_least_alike_text_decides() -> None:
    likeness = Likeness()
    one, other = texts(2, 1)
    assert likeness.degree((one, one), (one, one)) == 1
    assert likeness.degree((one, one), (one, other)) == likeness.degree((other, one), (one, one)) < 0.1
    assert likeness.degree((one, ""), (one, other)) == 0
