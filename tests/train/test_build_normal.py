"""What is mere form goes, what changes a meaning stays; languages by their scripts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.building.language import LANGUAGES, language_of
from train.building.normal import normalise, numbers, units


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


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("月球是地球唯一的天然卫星。", "zh"),
        ("The Moon is Earth's only natural satellite.", "en"),
        ("I am StellarSpeak (星语者), an astronomy assistant.", "en"),
        ("Translate into English: 我每天早上喝一杯牛奶", "mixed"),
        ("Луна — спутник", "other"),
        ("42", "other"),
        ("", "other"),
    ],
)
def test_languages(text: str, language: str) -> None:
    assert language_of(text) == language
    assert language in LANGUAGES
