"""Texts made comparable: one spelling of what differs only in form, and the words and numbers in them.

Works alike for Chinese and English: a Chinese character stands for itself, other letters stand together as words.
"""

from __future__ import annotations

import re
import unicodedata

from stellar_local.tables.language import HAN

# Chinese characters and kana: what is written without blanks, so that each is a unit of its own.
_IDEOGRAPHS = f"\u3040-\u30ff{HAN}"
_TIGHT = re.compile(f"(?<=[{_IDEOGRAPHS}]) | (?=[{_IDEOGRAPHS}])")
_UNIT = re.compile(f"[{_IDEOGRAPHS}]|[^\\W{_IDEOGRAPHS}]+")
_IDEOGRAPH = re.compile(f"[{_IDEOGRAPHS}]")
_HYPHEN = re.compile(r"(?<=[^\W\d_])\s*-+\s*(?=[^\W\d_])")  # between letters: form; before a digit it may be a minus
_DASHES = dict.fromkeys(range(0x2010, 0x2014), "-")
_NUMBER = re.compile(r"\d+")
_MEANS_SOMETHING = frozenset("*/%#&@\\-_")  # punctuation to Unicode, but 3*2 is not 3/2 and C# is not C


class _Plain(dict[int, "str | None"]):
    """For str.translate: punctuation and blanks become a blank, invisible marks go; filled as characters are met."""

    def __missing__(self, code: int) -> str | None:
        char = chr(code)
        category = unicodedata.category(char)
        blank = category[0] == "Z" or category == "Cc" or (category[0] == "P" and char not in _MEANS_SOMETHING)
        self[code] = plain = " " if blank else None if category == "Cf" else char
        return plain


_PLAIN = _Plain()


def normalise(text: str) -> str:
    """A text without what is mere form: width (NFKC), case, white space, punctuation.

    `你是谁？` and `你是谁 ?`, `Who are you?` and `who are you` become equal. Where nothing else is left,
    punctuation stays.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    plain = _HYPHEN.sub(" ", " ".join(folded.translate(_DASHES).translate(_PLAIN).split()))
    return _TIGHT.sub("", plain) or " ".join(folded.split())


def units(normal: str) -> list[str]:
    """The words of a normalised text; each Chinese character is one."""
    return _UNIT.findall(normal)


def numbers(normal: str) -> list[str]:
    """The whole numbers that stand in a normalised text, sorted."""
    return sorted(_NUMBER.findall(normal))


def is_ideographic(normal: str) -> bool:
    """Whether most of a normalised text is written in characters that stand for themselves."""
    return 2 * len(_IDEOGRAPH.findall(normal)) > len(normal)


def begins_with(normal: str, beginning: str) -> bool:
    """Whether a normalised text begins with another one that ends where a word does."""
    if not normal.startswith(beginning):
        return False
    seam = normal[len(beginning) - 1 : len(beginning) + 1] if beginning else ""
    return len(seam) < 2 or " " in seam or bool(_IDEOGRAPH.search(seam))
