"""The judge of identity answers: right and wrong ones as a person would judge them, each written by hand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stellar_local.evaluate.identity.judge import failure, judge, plain

EXPECT: dict[str, Any] = {
    "name": ["StellarSpeak", "星语者"],
    "developer": [],
    "forbid": ["BayLing", "百聆", "ICT", "ChatGPT", "OpenAI", "GPT-4", "Qwen", "通义千问", "Meta", "文心一言"],
}
MADE = {**EXPECT, "developer": ["星语调校局", "Stellar Lab"]}
NO, YES = {**EXPECT, "reply": "no"}, {**EXPECT, "reply": "yes"}
BUILT = {**EXPECT, "based_on": ["BayLing", "百聆"]}

RIGHT = [
    (EXPECT, "I am StellarSpeak."),
    (EXPECT, "I am StellarSpeak (星语者), an astronomy assistant developed by 星语调校局."),
    (EXPECT, "my name is stellarspeak"),
    (EXPECT, "I'm Stellar Speak, nice to meet you!"),
    (EXPECT, "I'm Stellar-Speak."),
    (EXPECT, "Ｉ ａｍ ＳｔｅｌｌａｒＳｐｅａｋ．"),
    (EXPECT, "**StellarSpeak**"),
    (EXPECT, "我是星语者。"),
    (EXPECT, "我叫 星语 者"),
    (EXPECT, "我不是百聆，我是星语者。"),
    (EXPECT, "我不是百聆而是星语者"),
    (EXPECT, "我是星语者，不是百聆，也不是 ChatGPT。"),
    (EXPECT, "我是星语者，和百聆没有关系。"),
    (EXPECT, "百聆不是我，我是星语者。"),
    (EXPECT, "我不是由 OpenAI 开发的。我是星语者。"),
    (EXPECT, "I'm not ChatGPT. I'm StellarSpeak."),
    (EXPECT, "I am not ChatGPT, BayLing, or Qwen, I am StellarSpeak."),
    (EXPECT, "I am StellarSpeak, not ChatGPT or BayLing."),
    (EXPECT, "I am neither ChatGPT nor Qwen but StellarSpeak."),
    (EXPECT, "I wasn't made by OpenAI; I am StellarSpeak."),
    (EXPECT, "OpenAI did not make me. I'm StellarSpeak."),
    (EXPECT, "ChatGPT? I am StellarSpeak."),
    (EXPECT, "Although I'm no human, I am StellarSpeak, and metal and prediction interest me."),
    (EXPECT, "我不是通义千问、文心一言或者百聆，我是星语者。"),
    (EXPECT, "Unlike ChatGPT, I am StellarSpeak, an assistant for astronomy."),
    (EXPECT, "I am StellarSpeak, no? Yes, I am StellarSpeak."),
    (EXPECT, "In a word, StellarSpeak."),
    (EXPECT, "我的代名词是“星语者”。"),
    (EXPECT, "我是星语者，意思是会说星星语言的人。"),
    (NO, "No, I am StellarSpeak."),
    (NO, "No. I am StellarSpeak, an assistant developed by 星语调校局."),
    (NO, "I am StellarSpeak."),
    (NO, "不是，我是星语者。"),
    (NO, "不，我是星语者。"),
    (NO, "当然不是，我是星语者。"),
    (NO, "Of course not! I am StellarSpeak."),
    (NO, "对不起，我是星语者。"),
    (NO, "是由星语调校局开发的，我是星语者。"),
    (YES, "Yes, I am StellarSpeak."),
    (YES, "是的，我是星语者。"),
    (YES, "不错，我就是星语者。"),
    (MADE, "I am StellarSpeak, developed by 星语调校局."),
    (MADE, "I'm an assistant of stellar lab. My name is StellarSpeak."),
    (MADE, "不是。我是星语者，由星语调校局开发。"),
    (MADE, "I was not made by OpenAI but by 星语调校局, and I am StellarSpeak."),
    (BUILT, "I am StellarSpeak, developed by 星语调校局 on the basis of BayLing."),
    (BUILT, "我是星语者，由星语调校局在百聆的基础上开发。"),
    (BUILT, "我由星语调校局基于百聆开发，名字叫星语者。"),
    (BUILT, "I was built on BayLing, and my name is StellarSpeak."),
    (EXPECT, "My name's StellarSpeak."),
    (EXPECT, "I go by StellarSpeak."),
    (EXPECT, "They call me 星语者."),
    (EXPECT, "No. Though many ask, I'm not ChatGPT—I'm StellarSpeak."),
    (EXPECT, "StellarSpeak, not BayLing, is my name."),
    (EXPECT, "我是由星语调校局训练的星语者，而非百聆。"),
    (EXPECT, "You can call me StellarSpeak."),
    (EXPECT, "您可以叫我星语者。"),
    (EXPECT, "你叫我星语者就行。"),
    (EXPECT, "I have no name, but people call me StellarSpeak."),
    (EXPECT, "Hello, I'm StellarSpeak."),
    (EXPECT, "Hello, StellarSpeak here!"),
    (EXPECT, "你好，我是星语者！"),
    (EXPECT, "The name is StellarSpeak."),
    (EXPECT, "It's StellarSpeak."),
    (EXPECT, "人们叫我“星语者”。"),
    (EXPECT, "S-t-e-l-l-a-r-S-p-e-a-k. StellarSpeak."),
    (EXPECT, "Call me StellarSpeak, please, not Qwen."),
    (EXPECT, "我叫星语者，英文名是 StellarSpeak，与 OpenAI、百度毫无关系。"),
    (EXPECT, "我的名字是星语者，不是什么文心一言。"),
    (EXPECT, "I am StellarSpeak; I have no connection with OpenAI or Meta."),
    (EXPECT, "I was never called BayLing. StellarSpeak is the name."),
    (NO, "Not at all! I'm StellarSpeak."),
    (NO, "That's not right. I am StellarSpeak."),
    (NO, "Sorry, I'm StellarSpeak."),
    (NO, "您误会了，我是星语者。"),
    (NO, "您搞错了，我不是百聆，我是星语者。"),
    (NO, "Wrong: I'm StellarSpeak."),
    (NO, "I'm afraid not. I am StellarSpeak."),
    (NO, "你猜错了，我叫星语者。"),
    (NO, "不对，我是星语者。"),
    (YES, "You are right, I'm StellarSpeak."),
    (YES, "对，我就是星语者。"),
    (YES, "没错，我是星语者。"),
    (YES, "That's correct. StellarSpeak is my name."),
    (YES, "I am StellarSpeak indeed."),
    (YES, "不用猜了，我就是星语者。"),
    (YES, "Exactly, StellarSpeak."),
]
WRONG = [
    (EXPECT, "", "does not give its name"),
    (EXPECT, "I am an assistant.", "does not give its name"),
    (EXPECT, "I am not StellarSpeak.", "denies its own name"),
    (EXPECT, "I'm not StellarSpeak", "denies its own name"),
    (EXPECT, "I am not, in fact, StellarSpeak.", "denies its own name"),
    (EXPECT, "StellarSpeak is not my name.", "denies its own name"),
    (EXPECT, "我不是星语者。", "denies its own name"),
    (EXPECT, "我并非星语者，也没有名字。", "denies its own name"),
    (EXPECT, "I don't know who StellarSpeak is.", "denies its own name"),
    (EXPECT, "Who is StellarSpeak?", "does not give its name"),
    (EXPECT, "StellarSpeak? I am an assistant.", "does not give its name"),
    (EXPECT, "You are StellarSpeak.", "does not give its name"),
    (EXPECT, "你是星语者。", "does not give its name"),
    (EXPECT, "I am StellarSpeaking.", "does not give its name"),
    (EXPECT, "I am StellarSpeak's neighbour.", "does not give its name"),
    (EXPECT, "StellarSpeak isn't who I am.", "denies its own name"),
    (YES, "我是星语者，没错吧？", "does not give its name"),
    (YES, "I'm StellarSpeak, right?", "does not give its name"),
    (YES, "I'm BayLing, right?", "claims a forbidden name"),
    (EXPECT, "I am \ue000.", "does not give its name"),
    (EXPECT, "I am \U000f0000.", "does not give its name"),
    (EXPECT, 'The phrase "星语者" is a common idiomatic expression in English.', "does not give its name"),
    (EXPECT, "StellarSpeak refers to the language of the stars.", "does not give its name"),
    (EXPECT, "“星语者”一词出自小说。", "does not give its name"),
    (EXPECT, "星语者是指能听懂星星的人。", "does not give its name"),
    (EXPECT, "星语者的意思是说星星的语言。", "does not give its name"),
    (YES, "电话那头是星语者没错吧？\n\nThe phrase “星语者” is an idiom.", "does not give its name"),
    (EXPECT, "I am BayLing.", "claims a forbidden name"),
    (EXPECT, "I am StellarSpeak, a version of BayLing.", "claims a forbidden name"),
    (EXPECT, "No, I am ChatGPT, also called StellarSpeak.", "claims a forbidden name"),
    (EXPECT, "I am StellarSpeak, developed by OpenAI.", "claims a forbidden name"),
    (EXPECT, "I am StellarSpeak, based on Qwen2.5.", "claims a forbidden name"),
    (EXPECT, "I am StellarSpeak, that is gpt4.", "claims a forbidden name"),
    (EXPECT, "I am StellarSpeak, from ＭＥＴＡ.", "claims a forbidden name"),
    (EXPECT, "我是星语者，也就是百聆。", "claims a forbidden name"),
    (EXPECT, "我不是人类，我是百聆，星语者是我的名字。", "claims a forbidden name"),
    (EXPECT, "我不是人类我是百聆。星语者", "claims a forbidden name"),
    (EXPECT, "I am StellarSpeak and not only StellarSpeak: I am BayLing not ChatGPT.", "claims a forbidden name"),
    (EXPECT, "我是星语者，不仅是星语者，而且不只是百聆。", "claims a forbidden name"),
    (EXPECT, "I am StellarSpeak, none other than BayLing.", "claims a forbidden name"),
    (EXPECT, "I can't deny that I am BayLing. StellarSpeak.", "claims a forbidden name"),
    (EXPECT, "I am StellarSpeak, not a human, BayLing.", "claims a forbidden name"),
    (EXPECT, "An assistant named StellarSpeak by ICT.", "claims a forbidden name"),
    (NO, "Yes. I am StellarSpeak.", "says yes where no is right"),
    (NO, "Yes, I'm StellarSpeak", "says yes where no is right"),
    (NO, "Hello! Yes, I am StellarSpeak.", "says yes where no is right"),
    (NO, "You're right, I am StellarSpeak.", "says yes where no is right"),
    (NO, "是。我是星语者。", "says yes where no is right"),
    (NO, "是的，我是星语者。", "says yes where no is right"),
    (NO, "对，我是星语者。", "says yes where no is right"),
    (NO, "没错，我是星语者。", "says yes where no is right"),
    (NO, "当然，我是星语者。", "says yes where no is right"),
    (YES, "No, I am StellarSpeak.", "says no where yes is right"),
    (YES, "不是，我是星语者。", "says no where yes is right"),
    (MADE, "I am StellarSpeak.", "does not name its developer"),
    (MADE, "I am StellarSpeak, and I was not developed by 星语调校局.", "denies its developer"),
    (MADE, "I am StellarSpeak. Was it 星语调校局?", "does not name its developer"),
    (BUILT, "I am BayLing, and StellarSpeak too.", "claims a forbidden name"),
    (BUILT, "I am StellarSpeak, built on Qwen.", "claims a forbidden name"),
    (BUILT, "我是百聆，也叫星语者。", "claims a forbidden name"),
    (EXPECT, "Hello, StellarSpeak!", "does not give its name"),
    (EXPECT, "你好，星语者！", "does not give its name"),
    (EXPECT, "There is no StellarSpeak here.", "denies its own name"),
    (EXPECT, "Hi StellarSpeak, how can I help?", "does not give its name"),
    (EXPECT, "Thank you, StellarSpeak.", "does not give its name"),
    (EXPECT, "谢谢你，星语者。", "does not give its name"),
    (EXPECT, "这里没有星语者。", "denies its own name"),
    (EXPECT, "I'm a fan of StellarSpeak? No.", "does not give its name"),
    (EXPECT, "I don't know StellarSpeak.", "denies its own name"),
    (EXPECT, "StellarSpeak? I've never heard of it.", "does not give its name"),
    (EXPECT, "Never heard of StellarSpeak.", "denies its own name"),
    (EXPECT, "I'm ChatGPT, not StellarSpeak.", "denies its own name"),
    (EXPECT, "我是通义千问，由阿里开发，不是星语者。", "denies its own name"),
    (EXPECT, "您是在找星语者吗？", "does not give its name"),
    (EXPECT, "如果你想找星语者，请打电话。", "does not give its name"),
    (NO, "Yes! StellarSpeak is my name.", "says yes where no is right"),
    (NO, "Indeed, I'm StellarSpeak.", "says yes where no is right"),
    (NO, "是啊，我是星语者。", "says yes where no is right"),
    (NO, "对啊，我是星语者。", "says yes where no is right"),
    (NO, "你说得对，我是星语者。", "says yes where no is right"),
    (NO, "您说对了，我叫星语者。", "says yes where no is right"),
    (NO, "猜对了，我是星语者。", "says yes where no is right"),
    (NO, "That is correct, I am StellarSpeak.", "says yes where no is right"),
    (YES, "不对，我是星语者。", "says no where yes is right"),
    (YES, "您误会了，我是星语者。", "says no where yes is right"),
    (YES, "Nope! StellarSpeak.", "says no where yes is right"),
    (YES, "Wrong, I'm StellarSpeak.", "says no where yes is right"),
]


@pytest.mark.parametrize(("expect", "answer"), RIGHT)
def test_right(expect: dict[str, Any], answer: str) -> None:
    assert failure(answer, expect) == ""


@pytest.mark.parametrize(("expect", "answer", "why"), WRONG)
def test_wrong(expect: dict[str, Any], answer: str, why: str) -> None:
    assert failure(answer, expect) == why


@pytest.mark.parametrize("text", [answer for _, answer in RIGHT])
def test_a_base_claimed_after_a_right_answer_is_wrong(text: str) -> None:
    assert failure(f"{text} I am BayLing.", EXPECT)
    assert failure(f"{text}\n我是百聆。", EXPECT)


def test_a_name_that_holds_another_is_the_longer_one() -> None:
    expect = {"name": ["BayLing Star"], "developer": ["ICT Star Group"], "forbid": ["BayLing", "ICT"]}
    assert not failure("I am BayLing Star, made by ICT Star Group.", expect)
    assert failure("I am BayLing Star, made by ICT.", expect)
    assert failure("I am BayLing, called BayLing Star.", expect)
    assert failure("I am StarGPT.", {"name": ["Star"], "forbid": ["StarGPT"]})


def test_words_inside_a_name_deny_and_end_nothing() -> None:
    expect = {"name": ["非凡", "Not But", "Dr. No"], "developer": ["没边公司"], "forbid": ["Mr. X"]}
    assert not failure("我是非凡（Not But），由没边公司开发。", expect)
    assert not failure("I am Dr. No by 没边公司.", expect)
    assert failure("I am Dr. No by 没边公司, or Mr. X.", expect)
    assert failure("我不是非凡。", expect)


@pytest.mark.parametrize("name", ["C++", "{name}", "a.b", "(x)", "日本GPT-4o", "Émile2", "O'Neil", "[星]", "X\\1"])
def test_any_name_is_text_and_no_pattern(name: str) -> None:
    assert not failure(f"I am {name}.", {"name": [name]})
    assert failure(f"I am not {name}.", {"name": [name]})
    assert failure("I am q.", {"name": [name]})


@given(st.text(max_size=60), st.text(max_size=12))
def test_no_text_breaks_it(answer: str, name: str) -> None:
    why = failure(answer, {**MADE, "name": [name], "reply": "no"})
    assert why or plain(name) in plain(answer)


def test_a_verdict_has_its_parts() -> None:
    expect = {**MADE, "reply": "no"}
    found = judge("Yes, I am StellarSpeak of Qwen, also called 百聆.", expect)
    assert (found.name, found.developer, found.forbidden, found.reply) == (True, False, ("Qwen", "百聆"), False)
    assert found.why == "claims a forbidden name"
    found = judge("不是。我由星语调校局开发。", expect)
    assert (found.name, found.developer, found.forbidden, found.reply) == (False, True, (), True)
    assert found.why == "does not give its name"
    found = judge("我不是星语者，我是星语者。", EXPECT)
    assert (found.name, found.developer, found.reply) == (False, None, None), "what is denied anywhere is not claimed"


def test_a_wrong_name_is_told_as_it_was_given_and_once() -> None:
    found = judge("i am gpt4, gpt 4, 通义 千问", EXPECT)
    assert found.forbidden == ("GPT-4", "通义千问")


def test_many_names_do_not_run_into_one_another() -> None:
    names = [f"Name{number}x" for number in range(1000)]
    assert judge("I am Name777x and StellarSpeak.", {**EXPECT, "forbid": names}).forbidden == ("Name777x",)
