"""What is left out beside other rows and why, and what must not be taken for a duplicate."""

from __future__ import annotations

import random

from alike_texts import SIGNS, WORDS, by_hand
from building_rows import row

from train.building.rows import DUPLICATE, Removals, Row
from train.building.sifting import EVALUATION, NEAR, SAME_QUESTION, Barrier, unique_questions, without_similar
from train.likeness.overlap import Evaluation


def kept(rows: list[Row], near: float | None = 0.85, same_question: str = "first") -> tuple[list[Row], Removals]:
    removals = Removals()
    return without_similar(rows, near, same_question, removals), removals


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
    assert [one.form.answer for one in unique_questions(rows, removals)] == ["1", "3"]
    assert sum(removals.totals().values()) == 1


def test_the_report_names_both_places() -> None:
    removals = Removals()
    rows = [row(LONG, line=7), row("Why is Mars red?", line=8)]
    assert Barrier(Evaluation([("quiz.csv, line 3", LONG)]), EVALUATION).passed(rows, removals) == rows[1:]
    (example,) = removals.examples["in an evaluation set"]
    assert (example["source"], example["line"]) == ("any", 7)
    assert example["because"] == "quiz.csv, line 3: the same question"
