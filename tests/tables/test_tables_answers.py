"""What cells of question sheets say, as people write them."""

from __future__ import annotations

import pytest

from stellar_local.tables.answers import explanation, letters, verdict
from stellar_local.tables.unusable import Unusable


@pytest.mark.parametrize(
    ("text", "right", "kept"),
    [
        ("略", "", False),
        ("略。", "", False),
        ("Explanation omitted", "", False),
        ("Omitted.", "", False),
        ("（略）", "", False),
        ("", "", False),
        ("采用快速飞行策略。", "", True),
        ("两次月圆之间的时间相隔一般是3略。天。", "A", False),
        ("木星的体积约为1.43×1略。^15立方千米", "C", False),
        ("A项错误。故BC的描述是正确的。", "BD", False),
        ("A项错误。故BD的描述是正确的。", "BD", True),
        ("地球比金星要大些。故D选项错误", "ABC", True),
        ("The answer is B, because it shines.", "A", False),
        ("The answer is A, because it shines.", "A", True),
    ],
)
def test_explanations(text: str, right: str, kept: bool) -> None:
    assert explanation(text, right)[0] == (text if kept else "")


def test_letters_and_verdicts_as_people_write_them() -> None:
    options = ["a", "b", "c", "d"]
    for text in ("BD", "B、D", "ＢＤ", "b, d", "D B", "B and D", "B和D", "BBD"):
        assert letters(text, options) == "BD"
    with pytest.raises(Unusable):
        letters("BX", options)
    assert [verdict(text) for text in ("对", "√", "TRUE", "Ｔ", "1", "正确。")] == [True] * 6
    assert [verdict(text) for text in ("错", "×", "False", "0", "不正确")] == [False] * 5
    assert verdict("也许") is None
