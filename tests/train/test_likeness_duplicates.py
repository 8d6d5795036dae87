"""Repetitions against all pairs compared by hand, in both languages; and that a second look finds none."""

from __future__ import annotations

import random
import re

import pytest
from alike_texts import SIGNS, WORDS, by_hand, edited, texts

from train import corpus
from train.corpus import Triple
from train.likeness import sketches
from train.likeness.duplicates import NEAR, SAME, SAME_QUESTION, THRESHOLD, Near, Repeat, Rules, counted, repeats
from train.likeness.forms import Form
from train.likeness.similar import Likeness

DEFAULT = Rules()


def found(
    rows: list[Triple], rules: Rules = DEFAULT, kept: list[bool] | None = None, likeness: Likeness | None = None
) -> list[Repeat]:
    return repeats([Form.of(row) for row in rows], rules, kept or [], likeness)


def form_of(rows: list[Triple]) -> Likeness:
    return counted([Form.of(row) for row in rows])


def left(rows: list[Triple], rules: Rules = DEFAULT, likeness: Likeness | None = None) -> list[Triple]:
    gone = {repeat.row for repeat in found(rows, rules, None, likeness)}
    return [row for number, row in enumerate(rows) if number not in gone]


def test_kinds() -> None:
    answer = (
        "A parsec is the distance at which one astronomical unit spans an angle of one arcsecond, 3.26 light-years."
    )
    rows = [
        Triple("What is a parsec?", "", answer),
        Triple("What is a parsec?", "", answer),
        Triple("what is a parsec", "", answer + "!"),
        Triple("What is a parsec?", "", "A unit of length."),
        Triple("What is a quasar?", "", "A bright nucleus."),
        Triple("Please, what is a parsec?", "", answer.replace("spans", "has")),  # its question is another
        Triple("什么是秒差距？", "", "一个长度单位。"),
        Triple("什么是 秒差距", "", "一个长度单位"),
    ]
    assert found(rows) == [
        Repeat(SAME, 1, 0),
        Repeat(SAME, 2, 0),
        Repeat(SAME_QUESTION, 3, 0),
        Repeat(SAME, 7, 6),
    ]
    assert [repeat.row for repeat in found(rows, Rules(near=None, one_answer=False))] == [1, 2, 7]
    assert found(rows, kept=[True] * 8) == []
    assert [repeat.row for repeat in found(rows, kept=[False, True, False, True, *[False] * 4])] == [2, 7]


def test_other_numbers_are_other_problems() -> None:
    rows = [
        Triple(f"How many seconds are there in {n} hours of observation time?", "", f"{n * 3600}") for n in range(9)
    ]
    assert found(rows) == []


def varied(count: int, seed: int) -> list[Triple]:
    """Rows in both languages, each followed by one that is more or less like it."""
    rng = random.Random(seed)
    shipped = [row for category in corpus.CATEGORIES for row in corpus.shipped(category)]
    rows: list[Triple] = []
    for _ in range(count):
        parts = rng.sample(shipped, 3)
        base = Triple(parts[0].instruction, "", " ".join(part.output for part in parts))
        letters = list(base.output)
        for _ in range(rng.choice((0, 1, 2, 3, 6))):
            place = rng.randrange(len(letters))
            if not letters[place].isdigit():
                letters[place] = "x"
        rows += [base, Triple(base.instruction + rng.choice(("", " 呢")), "", "".join(letters))]
    return rows


def test_near_duplicates_are_those_that_a_true_count_finds() -> None:
    """All pairs by brute force, with sets of characters; the hashing may miss one in a hundred."""
    rows = varied(100, 5)
    forms = [Form.of(row) for row in rows]

    def size(text: str) -> int:
        return 3 if 2 * len(re.findall("[\u3400-\u9fff]", text)) > len(text) else 5

    def alike(one: str, other: str) -> float:
        return 1.0 if one == other else by_hand(one, other, size(one)) if size(one) == size(other) else 0.0

    pairs, questions, kept, near = set(), set(), [], set()
    for number, form in enumerate(forms):
        if (form.question, form.answer) in pairs or form.question in questions:
            continue
        pairs.add((form.question, form.answer))
        if any(
            all(alike(a, b) >= THRESHOLD for a, b in zip(form.whole, forms[other].whole, strict=True))
            and sorted(re.findall(r"\d+", form.answer)) == sorted(re.findall(r"\d+", forms[other].answer))
            for other in kept
        ):
            near.add(number)
        else:
            kept.append(number)
            questions.add(form.question)
    got = {repeat.row for repeat in found(rows) if repeat.kind == NEAR}
    assert len(near) >= 10
    assert got <= near
    assert len(got) >= 0.95 * len(near)


def test_how_alike_near_ones_are() -> None:
    one = texts(4, 9)[1]
    other = one.replace("star", "stars", 1)
    (repeat,) = found([Triple(one, "", "yes"), Triple(other, "", "yes")], Rules(near=0.5))
    assert repeat == Repeat(NEAR, 1, 0, by_hand(one, other, 5))


def task(count: int, near: int, rng: random.Random) -> list[Triple]:
    """Rows of a task whose wording is longer than what they say, and rows that are near to some of them."""
    wording = "Judge with care whether this statement of a student about the sky is right or wrong, and say why: "
    names = [" ".join(rng.choices(WORDS, k=12)) + "".join(rng.choices(SIGNS, k=3)) for _ in range(count)]
    rows = [Triple(wording + name, "", "wrong") for name in names]
    return rows + [Triple(wording + name[:-1] + "q", "", "wrong") for name in names[:near]]


def test_what_is_form_stays_form_however_much_goes() -> None:
    """130 rows of a task, 40 of them near others: 40 go. By themselves, the 90 others are too few to have a form."""
    rng = random.Random(8)
    rows = task(90, 40, rng)
    assert (
        len({row.instruction for row in left(rows)} & {row.instruction for row in rows[:90]}) == len(left(rows)) == 90
    )
    rng.shuffle(rows)
    assert 88 <= len(left(rows)) <= 92


@pytest.mark.parametrize("crowd", [2, 64])
def test_a_second_look_finds_nothing_in_any_order(crowd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as the same is form."""
    monkeypatch.setattr(sketches, "_CROWD", crowd)
    rng = random.Random(8)
    rows = task(90, 40, rng)
    rows += varied(60, 6)
    rows += [Triple(edited(text, rng), "", "是") for text in texts(10, 2) for _ in range(12)]
    rng.shuffle(rows)
    for rules in (Rules(), Rules(one_answer=False), Rules(near=0.6)):
        form = form_of(rows)
        once = left(rows, rules, form)
        assert len(once) < len(rows)
        for _ in range(3):
            rng.shuffle(once)
            assert found(once, rules, None, form) == []


def test_questions_near_those_that_are_known_whatever_the_number() -> None:
    one = texts(4, 9)[1]
    items = [(one + " 12", ""), (one + " 13", ""), (texts(4, 9)[3], "")]
    likeness = Likeness()
    for item in items:
        likeness.count(item)
    near = Near(0.8, items, likeness, of_questions=1)
    near.add(0)
    twin = near.find(1)
    assert twin is not None and twin[0] == 0 and twin[1] < 1
    assert near.find(2) is None
