"""What is mere form goes, what changes a meaning stays; the shipped corpus is in the languages its files name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stellar_local.tables.language import language_of
from train import corpus
from train.corpus import Triple
from train.likeness.forms import Form
from train.likeness.normal import begins_with, normalise, numbers, units


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Who are you?", "who are you"),
        ("你是谁？", " 你是谁 ?"),
        ("什么是ＨＤ　209458？", "什么是hd 209458"),
        ("“黑洞”，是什么……", "黑洞是什么"),
        ("What's the Sun’s age?", "what s the sun's age"),
        ("a\u200bb \tc\r\n", "ab c"),
        ("Straße", "STRASSE"),
        ("Shoemaker–Levy 9, light-years", "shoemaker levy 9 light years"),
        ("1990–2000", "1990-2000"),
        ("用 Python 写", "用Python写"),
        ("ＡＢＣ，１２", "abc 12"),
        ("月球", "月 球"),
    ],
)
def test_form(one: str, other: str) -> None:
    assert normalise(one) == normalise(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("3*2", "3/2"),
        ("3-2", "32"),
        ("1 2", "12"),
        ("C", "C#"),
        ("C++", "C"),
        ("a<b", "a>b"),
        ("1.5", "15"),
        ("therapist", "the rapist"),
        ("？", "！"),
        ("火星", "金星"),
    ],
)
def test_meaning(one: str, other: str) -> None:
    assert normalise(one) != normalise(other)


@given(st.text())
def test_normalising_again_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


def test_units_and_numbers() -> None:
    assert units(normalise("M31 距离我们 254万 light-years!")) == ["m31", *"距离我们", "254", "万", "light", "years"]
    assert numbers(normalise("from 12 to 3.5, M31")) == ["12", "3", "31", "5"]


def test_languages_of_the_shipped_corpus() -> None:
    """The files say in their names what they are in; translations are neither."""
    for name in ("en", "zh"):
        for category in ("astronomy", "identity"):
            rows = corpus.read(corpus.data_folder() / f"{category}.{name}.jsonl")
            found = [language_of(f"{row.instruction}\n{row.input}\n{row.output}") for row in rows]
            assert found.count(name) >= 0.95 * len(rows), (category, name)


@pytest.mark.parametrize(
    ("text", "beginning", "begins"),
    [
        ("What is C? It is a letter.", "what is c", True),
        ("What is C# good for?", "What is C", False),
        ("therapist", "the", False),
        ("什么是恒星？恒星是发光的天体。", "什么是恒星", True),
        ("什么是HD星", "什么是HD", True),
        ("a", "a", True),
        ("a", "b", False),
    ],
)
def test_a_beginning_ends_where_a_word_does(text: str, beginning: str, begins: bool) -> None:
    assert begins_with(normalise(text), normalise(beginning)) is begins


def test_the_form_of_a_row() -> None:
    form = Form.of(Triple("Translate:", "你好，世界！", "Hello, world."))
    assert (form.instruction, form.input, form.question) == ("translate", "你好世界", "translate你好世界")
    assert form.answer == "hello world"
    blank = Form.of(Triple("Who are you?", " \n", "X"))
    assert (blank.question, blank.input) == (blank.instruction, "")
