"""Which items an answer pairs in a matching question, however it writes them: tuples, arrows, lists, tables.

An item counts where its text stands in the answer; those of different groups that stand together are a tuple. Knows the
groups; knows nothing of right tuples.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from .found import NOTHING, bare, first_exercise, plain

_GAP = "ˮ"  # a letter to Unicode that no text has
_NONE = "it pairs no items of the groups"


@dataclass(frozen=True)
class Pairs:
    """The tuples that an answer gives, one item of each group, each item used no more often than it is there.

    `why` says why there are none.
    """

    tuples: tuple[tuple[str, ...], ...] = ()
    why: str = ""


@dataclass(frozen=True)
class _Place:
    start: int
    end: int
    groups: tuple[int, ...]  # more than one where groups have the same item
    text: str


def pairs(answer: str, groups: Sequence[Sequence[str]]) -> Pairs:
    """The tuples of an answer. What stands on one line belongs together; else what follows one another does."""
    whole = plain(answer)
    if not bare(whole):
        return Pairs(why=NOTHING)
    known = _items(groups)
    text = first_exercise(whole) or whole
    found = [one for line in text.split("\n") for one in _walk(_places(line, known), len(groups))]
    if not found:
        found = _whole(_places(text.replace("\n", " "), known), len(groups))
    if not found:
        return Pairs(why=_NONE)
    left = [Counter(group) for group in groups]
    kept = []
    for one in found:
        if all(left[number][item] > 0 for number, item in enumerate(one)):
            kept.append(one)
            for number, item in enumerate(one):
                left[number][item] -= 1
    return Pairs(tuple(kept))


def _items(groups: Sequence[Sequence[str]]) -> list[tuple[str, str, tuple[int, ...]]]:
    """Each item's letters and digits, its text and the groups it is in; the longest first, so that they win."""
    known: dict[str, tuple[str, list[int]]] = {}
    for number, group in enumerate(groups):
        for item in group:
            own = _joined(item)
            if own:
                at = known.setdefault(own, (item, []))[1]
                if number not in at:
                    at.append(number)
    return sorted(((own, item, tuple(at)) for own, (item, at) in known.items()), key=lambda one: -len(one[0]))


def _joined(text: str) -> str:
    """A text as `bare` gives it, but a blank stays between two numbers."""
    return bare(re.sub(r"(?<=\d)[\W_]+(?=\d)", _GAP, unicodedata.normalize("NFKC", text))).replace(_GAP, " ")


def _places(line: str, known: Sequence[tuple[str, str, tuple[int, ...]]]) -> list[_Place]:
    """Where items stand in a line, in order, none within another."""
    said = _joined(line)
    taken = [False] * len(said)
    found = []
    for own, item, groups in known:
        at = said.find(own)
        while at >= 0:
            end = at + len(own)
            before, after = said[max(at - 1, 0) : at], said[end : end + 1]
            within_number = (own[0].isdigit() and before.isdigit()) or (own[-1].isdigit() and after.isdigit())
            if not any(taken[at:end]) and not within_number:
                taken[at:end] = [True] * len(own)
                found.append(_Place(at, end, groups, item))
            at = said.find(own, at + 1)
    return sorted(found, key=lambda place: place.start)


def _walk(places: Sequence[_Place], groups: int) -> list[tuple[str, ...]]:
    """The tuples that items in a row make: one is whole when it has an item of each group."""
    found, held = [], dict[int, str]()
    for place in places:
        number = next((one for one in place.groups if one not in held), None)
        if number is None:
            held = {}  # an item without partners: a list of a group's items, or a remark
            number = place.groups[0]
        held[number] = place.text
        if len(held) == groups:
            found.append(tuple(held[one] for one in range(groups)))
            held = {}
    return found


def _whole(places: Sequence[_Place], groups: int) -> list[tuple[str, ...]]:
    """The tuples of an answer that puts each item on a line of its own: all of it must be tuples."""
    found = _walk(places, groups)
    return found if len(found) * groups == len(places) else []
