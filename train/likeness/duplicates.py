"""Rows that say what an earlier row says: the same but for form, the same question, nearly the same.

The first of several always stays; the others are given with the row that they repeat. Rows that are left repeat
nothing, in whatever order one looks at them again, as long as the same is form: `stellar data check` finds none in what
`stellar data build` wrote, unless so much of a task went that what is left of it is too little to tell its wording from
what its rows say.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .forms import Form
from .normal import numbers
from .showing import shown
from .similar import Likeness, Texts
from .sketches import Neighbours, Sketcher

SAME, SAME_QUESTION, NEAR = "same", "same question", "near"
THRESHOLD = 0.85  # of the likeness of near duplicates, where nothing else is asked for


@dataclass(frozen=True)
class Repeat:
    """A row, by number, that repeats the earlier row `first`; `degree` says how alike near ones are."""

    kind: str
    row: int
    first: int
    degree: float = 1.0


@dataclass(frozen=True)
class Rules:
    """What counts as a repetition. `near` None: nothing that is merely alike; `one_answer`: a question has one."""

    near: float | None = THRESHOLD
    one_answer: bool = True


def repeats(
    forms: Sequence[Form], rules: Rules, kept: Sequence[bool] = (), likeness: Likeness | None = None
) -> list[Repeat]:
    """All repetitions, by row. Rows that are `kept` repeat nothing, but others may repeat them. `likeness` knows what
    is form, where that hangs on more rows than these.

    Near duplicates have instruction, input and answer each at least `near` alike, and the same numbers in all, since
    another number is another problem.
    """
    kept = kept or [False] * len(forms)
    found: list[Repeat] = []
    left: list[int] = []
    pairs: dict[tuple[str, str], int] = {}
    for row, form in enumerate(forms):
        first = pairs.setdefault((form.question, form.answer), row)
        if first == row or kept[row]:
            left.append(row)
        else:
            found.append(Repeat(SAME, row, first))
    near = None
    if rules.near is not None:
        # What is form is decided once, on the rows as they came. Were it decided anew among those that are left, the
        # wording of a task might count as what its rows say once some have gone, and then nearly all of them would go.
        near = Near(
            rules.near,
            [forms[row].whole for row in left],
            counted([forms[row] for row in left]) if likeness is None else likeness,
        )
    places = list(range(len(left)))
    # In a crowd only some are compared (see `sketches`), and among those that are left others: until there are none.
    while new := list(_looked_through(forms, left, places, rules, kept, near)):
        found += new
        gone = {repeat.row for repeat in new}
        places = [place for place in places if left[place] not in gone]
        if near is None:
            break
    return sorted(found, key=lambda repeat: repeat.row)


def _looked_through(
    forms: Sequence[Form],
    rows: Sequence[int],
    places: Sequence[int],
    rules: Rules,
    kept: Sequence[bool],
    near: Near | None,
) -> Iterator[Repeat]:
    """One pass over the rows at these places, by which `near` knows them: each that repeats one that stays."""
    if near is not None:
        near.begin(places)
    questions: dict[str, int] = {}
    for place in shown(places, len(places), "comparing rows"):
        row = rows[place]
        form = forms[row]
        if not kept[row]:
            if rules.one_answer and form.question in questions:
                yield Repeat(SAME_QUESTION, row, questions[form.question])
                continue
            if near is not None and (twin := near.find(place)):
                yield Repeat(NEAR, row, rows[twin[0]], twin[1])
                continue
        if near is not None:
            near.add(place)
        questions.setdefault(form.question, row)


def counted(forms: Sequence[Form]) -> Likeness:
    """The likeness of rows, which knows what is form among them; those that are the same count once."""
    likeness = Likeness()
    seen: set[tuple[str, str]] = set()
    for form in shown(forms, len(forms), "counting what is common"):
        if (key := (form.question, form.answer)) not in seen:
            seen.add(key)
            likeness.count(form.whole)
    return likeness


class Near:
    """Items that are near to others that were added; `of_questions`: the others are the first so many, and another
    number makes no difference.
    """

    def __init__(
        self, threshold: float, items: Sequence[Texts], likeness: Likeness, of_questions: int | None = None
    ) -> None:
        self._threshold, self._items, self._exact = threshold, items, of_questions is None
        self._likeness = likeness
        self._sketcher = sketcher = Sketcher(threshold)
        self._sketches = np.empty((len(items), sketcher.size), np.uint32)
        self._keys = np.empty((len(items), sketcher.bands), np.uint64)
        for item, texts in enumerate(shown(items, len(items), "looking for what is alike")):
            self._sketches[item] = sketcher.sketch(likeness.all_telling(texts))
            self._keys[item] = sketcher.keys(self._sketches[item], _figures(texts) if self._exact else b"")
        self._neighbours = Neighbours(self._keys, of_questions)

    def begin(self, items: Sequence[int]) -> None:
        """Look at these items alone, none of which is added yet."""
        if len(items) < len(self._items):
            self._neighbours = Neighbours(self._keys, among=items)

    def add(self, item: int) -> None:
        """Let others be found near to this item."""
        self._neighbours.add(item)

    def find(self, item: int) -> tuple[int, float] | None:
        """The first item that was added and is near to this one, and how alike they are."""
        own = self._items[item]
        near = self._neighbours.of(item)
        for place in self._sketcher.promising(self._sketches[item], self._sketches[near]) if near else ():
            other = near[place]
            texts = self._items[other]
            if (degree := self._likeness.degree(own, texts, self._threshold)) and (
                not self._exact or _figures(own) == _figures(texts)
            ):
                return other, degree
        return None


def _figures(texts: Texts) -> bytes:
    """The numbers in each text of a row."""
    return repr([numbers(text) for text in texts]).encode()
