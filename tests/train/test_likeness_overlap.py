"""The rows that stand in an evaluation set: runs counted by hand, short questions, and what is only form."""

from __future__ import annotations

import random

import pytest
from conftest import SHARED

from train.corpus import Triple
from train.likeness.evaluation import files_of, texts_of, texts_of_row
from train.likeness.forms import Form
from train.likeness.normal import normalise, units
from train.likeness.overlap import Evaluation

HOLE = "A black hole is a region of space where gravity is so strong that nothing can escape"  # 17 words
STAR = "恒星是由自身引力束缚的发光等离子体球"  # 18 characters


def overlap(evaluation: Evaluation, question: str, answer: str = "x", given: str = "") -> str:
    row = Triple(question, given, answer)
    return evaluation.overlap(row, Form.of(row))


def test_runs_in_question_and_answer() -> None:
    evaluation = Evaluation([("en", HOLE), ("zh", STAR + "。")])
    part = " ".join(HOLE.split()[2:15])  # 13 words
    assert overlap(evaluation, f"Is it true that {part.upper()}?").startswith("en: hole is a region")
    assert overlap(evaluation, "Why?", f"Since {part}, I think.").startswith("en: hole is a region")
    assert overlap(evaluation, "Say:", given=part)
    assert overlap(evaluation, "Why?", " ".join(HOLE.split()[2:14])) == ""  # 12 words
    assert overlap(evaluation, f"请问，{STAR[2:15]}吗") == f"zh: {STAR[2:15]}"
    assert overlap(evaluation, f"请问，{STAR[2:14]}吗") == ""
    assert overlap(Evaluation([("zh", STAR)], ngram=12), f"请问，{STAR[2:14]}吗") == f"zh: {STAR[2:14]}"


def test_short_questions() -> None:
    evaluation = Evaluation([("a", "什么是秒差距？"), ("b", "Vega"), ("c", "Say\nhello"), ("d", "What is a star?")])
    assert overlap(evaluation, "什么是 秒差距") == "a: the same question"
    assert overlap(evaluation, "请用中文回答：什么是秒差距？谢谢。") == "a: the same question"
    assert overlap(evaluation, "什么是秒差距和光年？") == ""
    assert overlap(evaluation, "VEGA!") == "b: the same question"
    assert overlap(evaluation, "Is Vega bright?", "Vega") == ""  # an answer of one word is no leak
    assert overlap(evaluation, "Say", given="hello") == "c: the same question"
    assert overlap(evaluation, "What is a star cluster?") == ""


LONG = "Which of the following objects has the strongest gravitational pull on the oceans of the Earth today?"


@pytest.mark.parametrize(
    ("question", "leaks"),
    [
        (LONG, True),
        ("Answer with one letter. " + LONG.upper() + " A. Sun B. Moon", True),
        ("What is a parsec", True),
        ("What is a parsec in metres?", False),
        ("Which of the following objects has the strongest magnetic field?", False),
        ("请回答：黑洞的事件视界半径由什么决定", True),
        ("黑洞的事件视界是什么？", False),
    ],
)
def test_questions(question: str, leaks: bool) -> None:
    evaluation = Evaluation(
        [("a", LONG), ("b", "What is a parsec?"), ("c", "黑洞的事件视界半径由什么决定？"), ("d", " ")]
    )
    assert evaluation.texts == 3
    assert bool(overlap(evaluation, question)) is leaks


def test_short_texts_that_are_no_questions_are_stock_phrases() -> None:
    """An option of eight words stands in many a question that has nothing to do with it."""
    option = "The distance from the Earth to the Sun"
    evaluation = Evaluation([("a", option)])
    assert overlap(evaluation, option + ".")
    assert overlap(evaluation, f"What is meant by this? {option}.") == ""
    assert overlap(evaluation, "What is the distance from the Earth to the Sun in kilometres?") == ""


def test_what_many_evaluation_texts_share_is_form() -> None:
    form = "Read the following question with care and then write the letter of the right answer"
    ten = Evaluation([(str(number), f"{form}: {number}") for number in range(10)])
    eleven = Evaluation([(str(number), f"{form}: {number}") for number in range(11)])
    assert overlap(ten, f"{form}: other") and not overlap(eleven, f"{form}: other")
    assert overlap(eleven, f"{form}: 3")  # the whole question still counts


def test_against_a_count_by_hand() -> None:
    """Runs of words as Python tuples, over random texts of few words."""
    generator = random.Random(4)

    def sentence() -> list[str]:
        return generator.choices(["a", "b"], k=generator.randint(10, 30))

    known = [sentence() for _ in range(5)]
    runs = {tuple(one[at : at + 13]) for one in known for at in range(len(one) - 12)}
    evaluation = Evaluation([("e", " ".join(one)) for one in known])
    whole = {tuple(one) for one in known}
    hits = 0
    for _ in range(2000):
        words = sentence()
        truth = tuple(words) in whole or any(tuple(words[at : at + 13]) in runs for at in range(len(words) - 12))
        assert bool(overlap(evaluation, " ".join(words))) is truth
        hits += truth
    assert 20 < hits < 1980


def test_astro_qa() -> None:
    """Each question of the sample is found again where it stands, in another wording of the task."""
    folder = SHARED / "data" / "astro-qa-sample"
    if not folder.is_dir():
        pytest.skip("the sample of Astro-QA is not here")
    pytest.importorskip("openpyxl")
    known = [text for file in files_of("astro-qa", folder) for text in texts_of(*file)]
    evaluation = Evaluation(known)
    asked = [text for _, text in known if text.rstrip().endswith(("?", "？")) and len(units(normalise(text))) >= 5]
    assert len(asked) > 100
    missed = [text for text in asked if not overlap(evaluation, f"请回答下面的问题。\n{text}\n只写答案。")]
    assert missed == []
    assert overlap(evaluation, "太阳系里有几颗行星，它们叫什么名字？请按离太阳的远近排列。") == ""


WORDING = "Judge with care whether the following statement of a student on astronomy is right or wrong, and say why:"


def together(evaluation: Evaluation, questions: list[str]) -> list[str]:
    rows = [Triple(question, "", str(number)) for number, question in enumerate(questions)]
    forms = [Form.of(row) for row in rows]
    return evaluation.overlaps([evaluation.meeting(*one) for one in zip(rows, forms, strict=True)], forms)


def test_the_wording_that_rows_share_with_validation_is_form() -> None:
    """In more than 10 rows; a row that says the statement itself overlaps in whatever wording."""
    held_out = list(texts_of_row("val", Triple(f"{WORDING} {HOLE}.", "", "right")))
    rows = [f"{WORDING} a {name} shines" for name in "abcdefghijk"]
    told = together(Evaluation(held_out), [*rows, f"Is this so? {HOLE}", f"{WORDING} A black hole is round"])
    assert told == [""] * 11 + ["val: a black hole is a region of space where gravity is so strong", ""]
    assert all(together(Evaluation(held_out), rows[:10]))
    assert all(together(Evaluation([tuple(one) for one in held_out]), rows))  # no row: another set's question


def test_what_is_all_that_a_text_says_is_no_form() -> None:
    """However often it was put into training."""
    rows = [f"{name}: {HOLE}?" for name in "abcdefghijklmnop"]
    assert all(together(Evaluation(texts_of_row("val", Triple(HOLE, "", "right"))), rows))
    short = Evaluation(texts_of_row("val", Triple("Which one of these is right?", "A or B", "A")))
    asked = [f"Which one of these is right? {name} or {name}{name}" for name in "abcdefghijk"]
    assert not any(together(short, asked)) and all(together(short, asked[:10]))
