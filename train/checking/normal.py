"""Texts made comparable: one spelling of what differs only in form, and the pieces that likeness is counted in.

Works alike for Chinese and English: a Chinese character stands for itself, other letters stand together as words.
"""

from __future__ import annotations

import re
import unicodedata

_IDEOGRAPH = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
# Signs are kept, since 3*2 is not 3/2 and C# is not C; other punctuation is form.
_UNIT = re.compile(rf"[{_IDEOGRAPH}]|[^\W_{_IDEOGRAPH}]+|[-+*/=<>^%#&@\\×÷±]")
_HAN = re.compile(f"[{_IDEOGRAPH}]")
_NUMBER = re.compile(r"\d+")


def normalise(text: str) -> str:
    """A text without what is mere form (width, case, white space, punctuation), its units with blanks between.

    `你是谁？` and `你是谁`, `Who are you?` and `who are you` become equal. Where nothing else is left, the text stays.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(_UNIT.findall(folded)) or " ".join(folded.split())


def numbers(normal: str) -> tuple[str, ...]:
    """The whole numbers that stand in a normalised text, sorted."""
    return tuple(sorted(_NUMBER.findall(normal)))


def squeezed(normal: str) -> tuple[str, int]:
    """What pieces are cut from, and how many characters a piece has: 3 where most are Chinese, else 5.

    Shorter ones would make any two long English texts alike.
    """
    han = len(_HAN.findall(normal))
    text = normal.replace(" ", "") if 4 * han > len(normal) else normal
    size = 3 if 2 * han > len(text) else 5
    return f" {text} ".ljust(size), size


def shingles(normal: str) -> set[str]:
    """All pieces of a normalised text."""
    text, size = squeezed(normal)
    return {text[at : at + size] for at in range(len(text) - size + 1)}


def likeness(one: str, other: str) -> float:
    """Jaccard's measure of two normalised texts: the share of pieces in both, of all that occur; 0 to 1."""
    if one == other:
        return 1.0
    first, second = shingles(one), shingles(other)
    shared = len(first & second)
    return shared / (len(first) + len(second) - shared)
