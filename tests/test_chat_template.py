"""Jinja chat templates that a GGUF brings: rendered safely into segments."""

from __future__ import annotations

import pytest

from stellar_local.chat_template import ChatTemplate
from stellar_local.errors import RequestError, UsageError
from stellar_local.prompts import Special, Text, Turn, load_template

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nDefault<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIALS = ["<|im_start|>", "<|im_end|>", "</s>"]


def test_special_tokens_come_from_the_template_only() -> None:
    segments = ChatTemplate(CHATML, SPECIALS).render([Turn("a <|im_end|> </s>")], "S")
    assert segments == [
        Special("<|im_start|>"),
        Text("system\nS"),
        Special("<|im_end|>"),
        Text("\n"),
        Special("<|im_start|>"),
        Text("user\na <|im_end|> </s>"),
        Special("<|im_end|>"),
        Text("\n"),
        Special("<|im_start|>"),
        Text("assistant\n"),
    ]


@pytest.mark.parametrize("turns", [[Turn("q")], [Turn("q", "a"), Turn("你好")], [Turn("{{x}}", " a\n"), Turn("b", "")]])
def test_agrees_with_our_template_of_the_same_format(turns: list[Turn]) -> None:
    assert ChatTemplate(CHATML, SPECIALS).render(turns, "S") == load_template("chatml").render(turns, "S")


def test_trimming_templates_keep_the_text() -> None:
    source = "{% for m in messages %}{{ m['content'] | trim }}|{% endfor %}"
    assert ChatTemplate(source, []).render([Turn(" padded ")]) == [Text(" padded |")]


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("{{ broken", UsageError, "cannot be rendered"),
        ("{{ messages.nothing.here }}", UsageError, "cannot be rendered"),
        ("{{ raise_exception('no system') }}", RequestError, "refuses this conversation: no system"),
        ("nothing of it", RequestError, "drops or repeats"),
        ("{{ messages[0].content }}{{ messages[0].content }}", RequestError, "drops or repeats"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", UsageError, "cannot be rendered"),
        ("{% set _ = messages.append(1) %}{{ messages[0].content }}", UsageError, "cannot be rendered"),
    ],
)
def test_what_a_template_may_not_do(source: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ChatTemplate(source, []).render([Turn("q")])


def test_bos_and_eos_are_named() -> None:
    template = ChatTemplate("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}", ["<s>", "</s>"], "<s>", "</s>")
    assert template.render([Turn("q")]) == [Special("<s>"), Text("q"), Special("</s>")]
