"""Near duplicates against a count by hand: sets of character runs, no hashes; and what must not be taken for one."""

from __future__ import annotations

import random
import sys

import pytest
from building_rows import row

from stellar_local.errors import MissingExtraError
from train.building.duplicates import NEAR, SAME_QUESTION, near_by, unique_questions, without_similar
from train.building.rows import DUPLICATE, Removals, Row
from train.building.similar import Index, Likeness, bands, pieces

pytest.importorskip("datasketch")

WORDS = [
    "star",
    "planet",
    "orbit",
    "light",
    "mass",
    "galaxy",
    "nebula",
    "comet",
    "dwarf",
    "giant",
    "core",
    "shell",
    "dust",
]
SIGNS = [*"恒星行轨道光质量系云彗矮巨核壳尘环月坑耀斑风天文学家观测到的在有是和从"]


def by_hand(one: str, other: str, size: int) -> float:
    """Jaccard's measure of two texts' runs of `size` characters, a blank on both sides."""
    first, second = ({f" {text} "[at : at + size] for at in range(len(text) + 3 - size)} for text in (one, other))
    return len(first & second) / len(first | second)


def edited(text: str, generator: random.Random) -> str:
    at = generator.randrange(len(text))
    return text[:at] + generator.choice("xyz") + text[at + 1 :]


def texts(count: int, seed: int) -> list[str]:
    """English and Chinese in turn."""
    generator = random.Random(seed)
    return [
        " ".join(generator.choices(WORDS, k=25)) if number % 2 else "".join(generator.choices(SIGNS, k=60))
        for number in range(count)
    ]


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
            assert likeness.reached((one,), (other,), truth)
            assert not likeness.reached((one,), (other,), truth + 1e-6)
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


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.85, 0.95])
def test_bands_find_99_of_100(threshold: float) -> None:
    count, hashes = bands(threshold)
    assert count * hashes <= 128
    assert 1 - (1 - threshold**hashes) ** count >= 0.99


def test_the_index_finds_what_is_near_and_little_else() -> None:
    generator = random.Random(2)
    originals = texts(300, 3)
    likeness = Likeness()
    index = Index(0.85, likeness)
    for number, text in enumerate(originals):
        index.add(number, index.sketch((text,)))
    found = near = extra = 0
    for number, text in enumerate(originals):
        twin = edited(text, generator)
        if by_hand(text, twin, 5 if text.isascii() else 3) < 0.85:
            continue
        near += 1
        candidates = index.candidates(index.sketch((twin,)))
        found += number in candidates
        extra += len([one for one in candidates if one != number])
    assert near > 200
    assert found >= 0.97 * near
    assert extra < near / 4


def kept(rows: list[Row], near: float | None = 0.85, same_question: str = "first") -> tuple[list[Row], Removals]:
    removals = Removals()
    return without_similar(rows, near_by(near, rows), same_question, removals), removals


LONG = "Explain how astronomers measure the distance of a nearby star by the small shift of its place in half a year"
ANSWER = (
    "They watch it from both ends of the orbit of the Earth and compute the distance from the angle between the two"
)


def test_which_rows_go_and_why() -> None:
    rows = [
        row(LONG, ANSWER, line=1),
        row(LONG.upper() + "?", ANSWER + ".", line=2),
        row(LONG, "By parallax.", line=3),
        row(LONG.replace("small", "smal"), ANSWER.replace("watch", "watched"), line=4),
        row(LONG.replace("small", "smal"), "Quite another answer.", line=5),
        row("什么是恒星？", "发光的天体。", line=6),
        row("什么是恒星", "发光的天体", line=7),
    ]
    left, removals = kept(rows)
    assert [one.line for one in left] == [1, 5, 6]
    assert removals.totals() == {DUPLICATE: 2, SAME_QUESTION: 1, NEAR: 1}
    assert removals.examples[NEAR][0]["line"] == 4
    assert removals.examples[NEAR][0]["because"] == "any (any.jsonl, line 1)"
    assert [one.line for one in kept(rows, near=None)[0]] == [1, 4, 6]  # row 5 asks what row 4 asks
    assert [one.line for one in kept(rows, same_question="all")[0]] == [1, 3, 5, 6]


def test_another_number_is_another_problem() -> None:
    rows = [row(LONG + f" from {year}", ANSWER) for year in (2019, 2020)]
    assert len(kept(rows)[0]) == 2
    assert len(kept([rows[0], row(LONG + " since 2019", ANSWER)])[0]) == 1


def test_the_input_is_compared_by_itself() -> None:
    """One long instruction, other short inputs: the questions as a whole would be alike."""
    rows = [row(LONG, "yes", given) for given in ("Vega", "Sirius", "织女星", "vega!")]
    assert [one.triple.input for one in kept(rows)[0]] == ["Vega", "Sirius", "织女星"]


def test_what_a_task_shares_is_form() -> None:
    """A long prefix before short texts: alike to the eye that counts characters, but 150 different rows."""
    words = random.Random(1)
    names = [" ".join(words.choices(WORDS, k=2)) + f" {words.choice(SIGNS)}{words.choice(SIGNS)}" for _ in range(150)]
    rows = [row(f"{LONG} {LONG[::-1]} {LONG[:60]}: {name}", "yes") for name in dict.fromkeys(names)]
    assert by_hand(rows[0].question, rows[1].question, 5) > 0.85
    assert len(kept(rows)[0]) >= 0.95 * len(rows)
    assert len(kept(rows[:50])[0]) < 10  # too few to tell a form from what they say


def test_a_source_may_keep_what_is_similar() -> None:
    identity = [
        row(text, "I am X.", line=at, keep_similar=True) for at, text in enumerate(("Who are you?", "who are you"))
    ]
    other = row("WHO are you", "I am X.", line=9)
    left, removals = kept([*identity, other])
    assert [one.line for one in left] == [0, 1]
    assert removals.totals() == {DUPLICATE: 1}
    assert [one.line for one in kept([other, *identity])[0]] == [9, 0, 1]


def test_validation_holds_a_question_once() -> None:
    removals = Removals()
    rows = [row("Who are you?", "1", keep_similar=True), row("who are you", "2", keep_similar=True), row("Why?", "3")]
    assert [one.answer for one in unique_questions(rows, removals)] == ["1", "3"]
    assert sum(removals.totals().values()) == 1


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasketch", None)
    with pytest.raises(MissingExtraError, match="finding near duplicates needs the package datasketch"):
        Index(0.85, Likeness())
    assert len(kept([row("a"), row("b")], near=None)[0]) == 2
