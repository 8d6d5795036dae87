"""What the cells of a question sheet say: letters, verdicts, explanations, pairs. Knows no columns and no phrasing."""

from __future__ import annotations

import ast
import re
import unicodedata
from collections.abc import Sequence

from .unusable import Unusable

_VERDICTS = {
    **dict.fromkeys(("对", "正确", "是", "真", "√", "✓", "✔", "true", "t", "yes", "right", "correct", "1"), True),
    **dict.fromkeys(("错", "错误", "否", "假", "不对", "不正确", "×", "✗", "✘", "x", "false", "f", "no"), False),
    **dict.fromkeys(("wrong", "incorrect", "0"), False),
}
_OMITTED = re.compile(
    r"(?:解析|解释|说明|答案|explanation|analysis|parse)?\W*(?:从?略去?|无|暂无|没有|省略|omitted|none|nan|n/?a|null)?\W*",
    re.I,
)
# Astro-QA replaced each 0 by 略。 in some explanations: 3略。天 was 30天, 2略。略。4年 was 2004年.
_RUINED = re.compile(r"[\d.,×^]略。|略。[\d.,%°^]|略。略。")
_NAMED = re.compile(
    r"(?:故选|应选|应该选|答案[为是])\s*[:：]?\s*([A-H](?:[、，,]?[A-H])*)(?![A-Za-z])"
    r"|故([A-H](?:[、，,]?[A-H])*)(?:选项|项)?的?(?:描述|说法)?(?:都|均|是)*正确"
    r"|answers? (?:is|are):?\s+([A-H](?:(?:, | and )?[A-H])*)(?![A-Za-z])"
)
_LETTERS = re.compile("[A-H]+")
_EXCEL_DATES = range(36526, 54789)  # 2000 to 2049 as Excel counts days


def letters(answer: str, options: Sequence[str]) -> str:
    """The options that an answer such as "B", "ABD" or "A、C" names, in their order. Raises Unusable.

    `options` are the texts of A, B and so on, "" where the sheet has none.
    """
    plain = re.sub(r"[\s,.、，；;。()（）&/]|and|和", "", unicodedata.normalize("NFKC", answer))
    if not plain:
        raise Unusable("no answer")
    if not _LETTERS.fullmatch(plain.upper()):
        raise Unusable("the answer is no letter of an option")
    named = sorted(set(plain.upper()))
    for letter in named:
        text = options[ord(letter) - 65] if ord(letter) - 65 < len(options) else ""
        if not text:
            raise Unusable("the answer names an option that is not there")
        same = [chr(65 + place) for place, other in enumerate(options) if other.casefold() == text.casefold()]
        if not set(same) <= set(named):
            raise Unusable("another option reads the same as the answer")
    return "".join(named)


def lost_dates(options: Sequence[str]) -> bool:
    """Whether options such as 45354 and 45431 were dates of one year once: Excel's count of days is left of them."""
    numbers = [int(text) for text in options if re.fullmatch(r"\d{5}", text)]
    return (
        len(numbers) == len([text for text in options if text]) >= 2
        and all(number in _EXCEL_DATES for number in numbers)
        and max(numbers) - min(numbers) < 366
        and any(number % 5 for number in numbers)  # round numbers are more likely to be numbers
    )


def verdict(answer: str) -> bool | None:
    """Whether a judgment says true; None for what is neither."""
    return _VERDICTS.get(unicodedata.normalize("NFKC", answer).strip(" .。!！").lower())


def explanation(text: str, right: str = "") -> tuple[str, str]:
    """An explanation, or "" where it is left out, ruined or for other letters than `right`; and a note of why."""
    if _OMITTED.fullmatch(text):
        return "", "no explanation given"
    if _RUINED.search(text):
        return "", "explanation left out: its zeros were lost"
    for found in _NAMED.finditer(text):
        if right and right != "".join(sorted(set(re.findall("[A-H]", found[1] or found[2] or found[3])))):
            return "", "explanation left out: it is for another answer"
    return text, ""


def pairs(answers: Sequence[str], groups: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """The tuples of a matching question, in the order of its first group, each item of each group used once.

    `answers` are the cells of its rows: Python tuples, or one list of them, as Astro-QA's scorer reads them; or, of two
    groups, what each item of the first belongs to. Raises Unusable.
    """
    if not any(answers):
        raise Unusable("no answer")
    if len(groups) == 2 and len(answers) == len(groups[0]) and set(answers) <= set(groups[1]):
        found: list[tuple[str, ...]] = list(zip(groups[0], answers, strict=True))
    else:
        found = [group for answer in answers if answer for group in _tuples(answer)]
    whole = all(len(group) == len(groups) for group in found)
    if not whole or any(
        sorted(used) != sorted(group) for used, group in zip(zip(*found, strict=True), groups, strict=True)
    ):
        raise Unusable("the answer does not pair the items of the groups")
    return sorted(found, key=lambda group: groups[0].index(group[0]))


def _tuples(answer: str) -> list[tuple[str, ...]]:
    """The tuples that a cell holds, written as Python writes them; only literals are read."""
    try:
        value = ast.literal_eval(answer)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise Unusable("the answer is no list of tuples") from error
    single = isinstance(value, tuple) and not any(isinstance(item, tuple | list) for item in value)
    groups = [value] if single else value
    if not isinstance(groups, tuple | list) or not all(isinstance(group, tuple | list) for group in groups):
        raise Unusable("the answer is no list of tuples")
    return [tuple(str(item).strip() for item in group) for group in groups]
