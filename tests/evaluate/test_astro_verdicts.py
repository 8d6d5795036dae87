"""Whether answers call a statement true: the forms that models write, in both languages, and denials."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stellar_local.evaluate.astro_qa.verdicts import verdict

TRUE = [
    "对",
    "对。",
    "正确",
    "是的",
    "√",
    "1",
    "True",
    "T",
    "true.",
    "**True**",
    "Yes, it is.",
    "答案是：对",
    "该陈述是正确的。",
    "“该陈述是正确的。”",
    "该陈述是正确的。\n解释：月球上没有大气，所以说有大气是错误的。",
    "这个说法是正确的。",
    "这句话没有错，是正确的。",
    "该陈述正确。如果陈述错误，则不然。",
    "我认为该陈述是正确的。",
    "这个陈述并非错误。",
    "判断：正确",
    "The statement is true.",
    "The statement is correct. If it were false, we would see no stars.",
    "The statement is not false.",
    "This statement is accurate.",
    "It is true that Mars has two moons.",
    "Answer: True",
    "The statement is: True",
    "Whether it is true or false depends on the epoch; the statement is true.",
    "At first the statement is false. Final answer: the statement is true.",
    "<think>It is false?</think>The statement is true.",
    '{"answer": true}',
    "没错",
    "该陈述无误",
    "该陈述不存在错误",
    "No. 1 star is Sirius. The statement is true.",
    "The statement is scientifically accurate.",
    "该陈述不能说是错误的",
    "该陈述无疑是正确的",
    "该陈述不仅正确而且重要",
    "我不认为该陈述是错误的",
    "该陈述说月球不发光是正确的",
    "题目中宇宙不断膨胀的说法是正确的",
    "该陈述符合事实",
    "没有错误",
    "I do not think the statement is false.",
    "The Sun is not a planet so the statement is true.",
    "It is true that Mars has two moons.",
    "该陈述是正确的吗？是的，该陈述是正确的。",
    "It is not false.",
    "The statement cannot be false",
]
FALSE = [
    "错",
    "错误",
    "不对",
    "不正确。",
    "否",
    "×",
    "0",
    "False",
    "F",
    "No.",
    "答案是：错",
    "答案：错误",
    "该陈述是错误的。",
    "该陈述是不正确的。",
    "该陈述并不正确。",
    "这种说法不对。",
    "这一说法不完全正确，因为……",
    "该陈述有误。",
    "该陈述是错误的。\n正确的说法是：月球没有大气。",
    "The statement is false.",
    "The statement is incorrect. The true reason is gravity.",
    "The statement is not correct.",
    "The statement isn't true.",
    "The statement is not entirely true.",
    "This statement is inaccurate.",
    "That's false.",
    "It is not true that Mars has three moons.",
    "Answer: False. It is true that the Moon is bright, though.",
    "True or false? The statement is false.",
    "I don't think the statement is true.",
    "I do not believe this statement is correct",
    "It is not the case that the statement is true",
    "The statement cannot be true.",
    "The statement can't be true",
    "This statement does not appear to be correct",
    "The statement is never true",
    "The statement is no longer true",
    "not exactly true",
    "The statement is not exactly true.",
    "The statement is not at all true",
    "That is not a true statement.",
    "我不认为该陈述是正确的",
    "不能说该陈述是正确的",
    "该陈述不能算正确",
    "该陈述不总是正确的",
    "该陈述不是很准确",
    "该陈述未被证明是正确的",
    "该陈述是正确的吗？不，是错误的。",
    "It is true that Venus is hot, but the statement is false.",
    "答:错",
    "The statement is not scientifically accurate.",
    "not scientifically accurate",
    "该陈述不符合事实",
    "不符合事实",
    "该陈述与事实不符",
    "月球是卫星，这是对的，但该陈述是错误的",
    "不，这是错误的，太阳是恒星的说法才是正确的。",
    "【答案】错误",
    "I doubt that the statement is true",
    "The statement couldn't be true",
    "The statement is in fact false",
    "该陈述并不是完全正确的",
    "That's not a correct claim",
    "The statement is not a correct one",
]
NONE = [
    "",
    " \n",
    "月球没有大气。",
    "The Moon is far away.",
    "如果陈述正确，请回复：“该陈述是正确的。”\n如果陈述错误，请回复：“该陈述是错误的。”",
    "对于这个问题，我不知道。",
    "It depends.",
    "1.5 million kilometres",
    "The statement may be true or false.",
    "No one knows.",
    "That is a right angle.",
    "The statement is neither true nor false",
    "正确吗？",
    "Is the statement true?",
    "该陈述是正确的吗？",
    "I am not sure",
]


@pytest.mark.parametrize("answer", TRUE)
def test_true(answer: str) -> None:
    assert verdict(answer).value == "true"


@pytest.mark.parametrize("answer", FALSE)
def test_false(answer: str) -> None:
    assert verdict(answer).value == "false"


@pytest.mark.parametrize("answer", NONE)
def test_neither(answer: str) -> None:
    found = verdict(answer)
    assert found.value is None
    assert found.why


@given(st.text(max_size=200))
def test_any_text_gives_a_verdict_or_a_reason(answer: str) -> None:
    found = verdict(answer)
    assert (found.value is None) is bool(found.why)
