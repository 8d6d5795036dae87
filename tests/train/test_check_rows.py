"""What looks suspicious in a row, and what may look so."""

from __future__ import annotations

import pytest

from train import corpus
from train.checking import findings
from train.checking.suspicions import suspicions
from train.corpus import Triple


@pytest.mark.parametrize(
    ("row", "kinds"),
    [
        (("What is a parsec?", "", "A parsec is a unit."), {}),
        (
            ("What is the parallax of a star?", "", "What is the parallax of a star? It is an angle."),
            {findings.ECHO: ""},
        ),
        (("你好", "", "你好"), {findings.ECHO: ""}),
        (("你好", "", "你好，有什么可以帮你？"), {}),
        (("请简单说明什么是恒星的光谱分类？", "", "请简单说明什么是恒星的光谱分类？就是……"), {findings.ECHO: ""}),
        (("What are the stars of C", "", "What are the stars of C# programming?"), {}),
        (("a", "", "b\x07c"), {findings.CONTROL: "U+0007"}),
        (("a", "", "tab\tand\r\nbreaks stay"), {}),
        (("a", "<|eot_id|>", "b"), {findings.SPECIAL: "<|eot_id|>"}),
        (("a", "", "b</s>"), {findings.SPECIAL: "</s>"}),
        (("a", "", "x < s > y and <strong>"), {}),
        (("你是谁？", "", "我是[NAME]，由[机构]开发。"), {findings.PLACEHOLDER: "[NAME]"}),
        (("你是ChatGPT吗？", "", "我是ChatGPT。"), {findings.FOREIGN_NAME: "ChatGPT"}),
        (("Who made you?", "", "I was made by the team of BayLing."), {findings.FOREIGN_NAME: "BayLing"}),
        (("What is Gemini?", "", "Gemini is a constellation."), {}),
        (("你是百聆吗？", "", "不是，我是星语者。"), {}),
    ],
)
def test_suspicions(row: tuple[str, str, str], kinds: dict[str, str]) -> None:
    assert dict(suspicions(Triple(*row))) == kinds


def test_the_shipped_corpus_is_above_suspicion() -> None:
    for category in corpus.CATEGORIES:
        for row in corpus.shipped(category):
            assert not list(suspicions(row)), row
