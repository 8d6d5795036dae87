"""Which options answers name: the forms that models write, in both languages, and what must not mislead."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stellar_local.evaluate.astro_qa.letters import multiple, single

ZH = {"A": "猎户座", "B": "大犬座", "C": "小犬座", "D": "天鹅座"}
EN = {"A": "Orion", "B": "Canis Major", "C": "Canis Minor", "D": "A part of Cygnus"}
NUMBERS = {"A": "0", "B": "6", "C": "12", "D": "18"}

SINGLE = [
    ("B", "B"),
    ("b", "B"),
    ("B.", "B"),
    ("(B)", "B"),
    ("（Ｂ）", "B"),
    ("Ｂ", "B"),
    ("**B**", "B"),
    ("答案是：B", "B"),
    ("答案是:B\n解释说明：天狼星在大犬座，而A选项猎户座不对。", "B"),
    ("答案是：\nB", "B"),
    ("答案：Ｂ、大犬座", "B"),
    ("正确答案是“B”。", "B"),
    ("正确答案为B选项，因为A、C、D都不对。", "B"),
    ("**答案是：** B. 大犬座", "B"),
    ("选B", "B"),
    ("我选择B。", "B"),
    ("应该选B，不是A。", "B"),
    ("本题选B项。", "B"),
    ("故选B。", "B"),
    ("选项A错误，选项C错误，选项D错误，所以正确答案是选项B。", "B"),
    ("B. 大犬座", "B"),
    ("B 大犬座", "B"),
    ("B、大犬座", "B"),
    ("B是正确的。", "B"),
    ("大犬座", "B"),
    ("大犬座。", "B"),
    ("答案是：大犬座", "B"),
    ("天狼星位于大犬座。", "B"),
    ("天狼星不是猎户座的星，而是位于大犬座。", "B"),
    ("答案不是A，而是B。", "B"),
    ("答案不是A。选B。", "B"),
    ("A选项：猎户座，错误。\nB选项：大犬座，正确。\nC选项：小犬座，错误。\nD选项：错误。", "B"),
    ("答案是：A\n解释说明：……\n更正：答案是B", "B"),
    ("答案是：B\n解释说明：如果选A，则不对。", "B"),
    ("首先看A，它是猎户座。再看C。因此，最终答案是：B", "B"),
    ("最终答案：A？不，让我再想想。最终答案：B", "B"),
    ('{"answer": "B"}', "B"),
    ('{"答案": "B", "解释": "A不对"}', "B"),
    ("\\boxed{B}", "B"),
    ("$\\boxed{\\text{B}}$", "B"),
    ("<think>也许是A？答案是A。</think>\n答案是：B", "B"),
    ("答案是：B\n\n题目：下一题\n答案是：C", "B"),
    ("A. 猎户座\nB. 大犬座\nC. 小犬座\nD. 天鹅座\n答案是：B", "B"),
    ("好的，答案是：B。", "B"),
    ("根据题目，正确的选项是B。", "B"),
    ("答案是：<B>", "B"),
    ("答案是：B（大犬座）", "B"),
    ("答案是：A、B", None),
    ("答案是：A或B", None),
    ("答案是：G", None),
    ("答案是：正确选项的字母", None),
    ("我不知道。", None),
    ("", None),
    ("  \n ", None),
    ("。。。", None),
    ("A. 猎户座\nB. 大犬座\nC. 小犬座\nD. 天鹅座", None),
    ("猎户座和大犬座都有可能。", None),
    ("A. 猎户座\nB. 大犬座\nC. 小犬座\nD. 天鹅座\n\nA. 猎户座\nB. 大犬座\nC. 小", None),
    ("A. 猎户星座\nB. 大犬星座\nC. 小犬星座", None),
    # A title of the options announces none.
    ("我们来分析各个选项：\nA. 猎户座：猎人。\nB. 大犬座：猎犬。\n因此，答案是B。", "B"),
    ("选项：\nA. 猎户座\nB. 大犬座\nC. 小犬座\nD. 天鹅座\n答案是：C", "C"),
    ("选项：A. 猎户座 B. 大犬座 C. 小犬座 D. 天鹅座\n答案是：C", "C"),
    ("下列说法正确的是：\nA. 猎户座\nB. 大犬座\nC. 小犬座\nD. 天鹅座\n答案是：C", "C"),
    ("根据选项：A是猎户座，B是大犬座，因此答案是B", "B"),
    ("选项：A. 猎户座", "A"),
    ("正确选项：A\nB. 大犬座不对", "A"),
    ("不选A，选B", "B"),
    ("不能选A，应该选B", "B"),
    ("答案是：A。不对，应该是B。", "B"),
    ("答案是A。\n不对的选项有B、C、D", "A"),
    ("【答案】B\n【解析】A项错误", "B"),
    ("B、C、D都不对，所以是A", "A"),
    ("B、C、D都不对。A呢？", "A"),
    ("A. 猎户座 - 错误\nB. 大犬座 - 正确\nC. 小犬座 - 错误\nD. 天鹅座 - 错误", "B"),
    ("从四个选项A、B、C、D中，正确的是C", "C"),
    ("不正确的是A，所以选C", "C"),
    ("答案是B而不是A", "B"),
    ("A型星不是答案。", None),
    ("A不对。", None),
]
SINGLE_EN = [
    ("The answer is (B).", "B"),
    ("The answer is: B", "B"),
    ("The answer is: B\nExplanation: A is Orion, which is wrong.", "B"),
    ("The answer is **B**.", "B"),
    ("The correct answer is option B.", "B"),
    ("The correct option is B: Canis Major", "B"),
    ("The correct answer to this question is B.", "B"),
    ("Answer: B", "B"),
    ("answer: b", "B"),
    ("Answer: (b) Canis Major", "B"),
    ("I would choose B.", "B"),
    ("I choose option B because A is wrong.", "B"),
    ("Option B is correct.", "B"),
    ("B is the correct answer; A is not.", "B"),
    ("It is not A. The answer is B.", "B"),
    ("The answer is not A but B.", "B"),
    ("The answer isn't A. I pick B.", "B"),
    ("A is wrong, C is wrong, D is wrong, so the answer must be B.", "B"),
    ("A star such as Sirius belongs to a constellation. Therefore, the answer is B.", "B"),
    ("A star such as Sirius is bright.", None),
    ("Let's see. Final answer: B", "B"),
    ("The answer is A. Wait, that is Orion. The final answer is B.", "B"),
    ("Canis Major", "B"),
    ("The answer is: Canis Major", "B"),
    ("Sirius is in Canis Major.", "B"),
    ("The answer is A part of Cygnus", "D"),
    ("Answer: D. A part of Cygnus", "D"),
    ("Canis Minor", "C"),
    ("Canis", None),
    ("The answer is a star in the sky.", None),
    ("The answer is: the letter of the correct option", None),
    ("The answer is E.", None),
    ("A and B are both plausible.", None),
    ("I am an assistant for astronomy.", None),
    ("The answer is: B\n\nQuestion: What next?\nThe answer is: C", "B"),
    ("(B) Canis Major\nExplanation: (A) is a hunter.", "B"),
    ("A B0-type star is hot, and M31 is far.", None),
    ("Vitamin C/2020 F3 is a comet.", None),
    ("Let's analyze each option:\nA. Orion: a hunter.\nB. Canis Major: his dog.\nTherefore, the answer is B.", "B"),
    ("Let's see each option:\nA. Orion: Incorrect.\nB. Canis Major: Correct.\nC. Canis Minor: Incorrect.", "B"),
    ("Options:\nA. Orion\nB. Canis Major\nC. Canis Minor\nD. A part of Cygnus\nThe answer is: B", "B"),
    ("Given the options: A) Orion B) Canis Major C) Canis Minor, the answer is C", "C"),
    ("Correct option:\nA. Orion\nB. Canis Major is no hunter.", "A"),
    ("The answer is: A. Wait, no. The answer is B.", "B"),
    ("The answer is A. No other one has a belt.", "A"),
    ("The answer is either A or B", None),
    ("I would not choose A. The answer is B.", "B"),
    ("Do not select A; select B", "B"),
]


@pytest.mark.parametrize(("answer", "letter"), SINGLE)
def test_one_option_in_chinese(answer: str, letter: str | None) -> None:
    found = single(answer, ZH)
    assert found.value == letter
    assert bool(found.why) is (letter is None)


@pytest.mark.parametrize(("answer", "letter"), SINGLE_EN)
def test_one_option_in_english(answer: str, letter: str | None) -> None:
    assert single(answer, EN).value == letter


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("12", "C"),
        ("答案是：12", "C"),
        ("答案是：120", None),
        ("The answer is: 6 hours", "B"),
        ("The answer is: 60", None),
        ("18小时", "D"),
    ],
)
def test_numbers_as_options(answer: str, letter: str | None) -> None:
    assert single(answer, NUMBERS).value == letter


def test_why_there_is_no_answer() -> None:
    assert single("", ZH).why == "it says nothing"
    assert single("我不知道", ZH).why == "it names no option"
    assert single("答案是：A、C", ZH).why == "it names several options"
    assert single("答案是：H", ZH).why == "it names an option that is not there"
    assert single("A. 猎户座\nB. 大犬座\nC. 小犬座\nD. 天鹅座", ZH).why == "it repeats the options and names none"


PLANETS = {"A": "水星", "B": "月球", "C": "火星", "D": "以上选项都是"}
PLANETS_EN = {"A": "Mercury", "B": "The Moon", "C": "Mars", "D": "Jupiter"}


@pytest.mark.parametrize(
    ("answer", "letters"),
    [
        ("AC", "AC"),
        ("CA", "AC"),
        ("ＡＣ", "AC"),
        ("A、C", "AC"),
        ("A,C", "AC"),
        ("A和C", "AC"),
        ("答案是：A、C", "AC"),
        ("答案是：AC。", "AC"),
        ("答案是：A、C\n解释说明：B选项月球是卫星，D选项错误。", "AC"),
        ("答案是：A. 水星、C. 火星", "AC"),
        ("答案是：\nA. 水星\nC. 火星\n解释说明：B不是行星。", "AC"),
        ("A. 水星\nC. 火星", "AC"),
        ("正确的选项是A、C，不选B。", "AC"),
        ("水星和火星", "AC"),
        ("答案是：水星、火星", "AC"),
        ("A选项正确，B选项错误，C选项正确，D选项错误。", "AC"),
        ("答案是：A", "A"),
        ("答案是：A、A、C", "AC"),
        ("答案是：以上选项都是", "D"),
        ("答案是：A、G", None),
        ("不知道", None),
        ("", None),
        ("A. 水星\nB. 月球\nC. 火星\nD. 以上选项都是\n答案是：A、C", "AC"),
        ("A. 水星呢\nB. 月亮\nC. 火星呢\nD. 都不是", None),
        ("A. 水星\nB. 火星\nC. 火", None),  # the options in its own words, cut
        ("A、B、D正确，C错误。", "ABD"),
        ("选项A、B和D都是正确的", "ABD"),
        ("A、B、C、D都正确", "ABCD"),
        ("ABD正确", "ABD"),
        ("B错误，A、C、D正确", "ACD"),
        ("A、B错误，C正确", "C"),
        ("A、C正确，不是B", "AC"),
        ("A、C、D三项正确", "ACD"),
        ("正确的有A、B、D", "ABD"),
        ("正确的选项有：A、C。", "AC"),
        ("正确的选项包括A、C", "AC"),
        ("正确的是A、C、D", "ACD"),
        ("答案包括：A、C、D", "ACD"),
        ("正确答案有三个：A、C、D", "ACD"),
        ("答案是：\nA\nC\nD", "ACD"),
        ("A\nC\nD", "ACD"),
        ("答案：\n- A\n- B\n- D", "ABD"),
        ("（A）（B）（D）", "ABD"),
        ("答案是：①A ②C", "AC"),
        ("A B D", "ABD"),
        ("A: 对\nB: 对\nC: 错\nD: 对", "ABD"),
        ("A. 水星：正确\nB. 月球：错误\nC. 火星：正确", "AC"),
        ("不选C", None),
        ("选项：A、C", "AC"),
        ("正确选项：\nA. 水星\nC. 火星", "AC"),
        ("选项：\nA. 水星\nB. 月球\nC. 火星\nD. 以上选项都是\n答案是：A、C", "AC"),
    ],
)
def test_several_options_in_chinese(answer: str, letters: str | None) -> None:
    assert multiple(answer, PLANETS).value == letters


@pytest.mark.parametrize(
    ("answer", "letters"),
    [
        ("A, C and D", "ACD"),
        ("A, C, and D", "ACD"),
        ("The answers are A, C, D.", "ACD"),
        ("The answer is: A, C, D\nExplanation: B is a moon.", "ACD"),
        ("The correct options are (A), (C) and (D).", "ACD"),
        ("ACD", "ACD"),
        ("Answer:\n- A. Mercury\n- C. Mars\n- D. Jupiter", "ACD"),
        ("Mercury, Mars and Jupiter", "ACD"),
        ("All of the above.", "ABCD"),
        ("The answer is: all of the above", "ABCD"),
        ("A is correct. B is incorrect. C is correct. D is correct.", "ACD"),
        ('{"answer": ["A", "C", "D"]}', "ACD"),
        ("A planet moves around a star.", None),
        ("A and D are correct", "AD"),
        ("Options A, C, and D are correct, while B is incorrect.", "ACD"),
        ("A, B, C, and D are all correct.", "ABCD"),
        ("A, B, and C are incorrect; D is correct", "D"),
        ("Neither B nor C is correct.", None),
        ("Both A and D", "AD"),
        ("A as well as D", "AD"),
        ("The answer is: A D", "AD"),
        ("The correct ones are A and D", "AD"),
        ("The following options are correct: A, C, D", "ACD"),
        ("A only", "A"),
        ("1. A\n2. D", "AD"),
        ("A: true\nB: false\nC: false\nD: true", "AD"),
        (
            "Each option:\nA. Mercury: hot.\nB. The Moon: no.\nC. Mars: red.\nD. Jupiter: big.\nThe answer is A, C.",
            "AC",
        ),
    ],
)
def test_several_options_in_english(answer: str, letters: str | None) -> None:
    assert multiple(answer, PLANETS_EN).value == letters


def test_letters_as_they_are_written() -> None:
    assert multiple("答案是：A、A、C", PLANETS).written == "AAC"
    assert multiple("A. 水星\nC. 火星", PLANETS).written == "AC"
    assert multiple("All of the above.", PLANETS_EN).written == "ABCD"
    assert multiple("不知道", PLANETS).written == ""


def test_long_answers_are_read_at_both_ends() -> None:
    middle = "答案是A、" * 8000
    assert single("答案是：B\n" + middle, ZH).value == "B"
    assert single(middle + "\n最终答案是：C", ZH).value == "C"


@given(st.text(max_size=200))
def test_any_text_gives_an_option_or_a_reason(answer: str) -> None:
    for find in (single, multiple):
        found = find(answer, ZH)
        assert (found.value is None) is bool(found.why)
        assert found.value is None or set(found.value) <= set(ZH)
