"""What was found in an answer, and answers made plain for looking: shared by all kinds. Knows no kind."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

NOTHING = "it says nothing"

_THOUGHTS = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL | re.IGNORECASE)
_BOXED = re.compile(r"\\(?:boxed|text(?:bf|rm|it)?|mathrm|mathbf)\s*\{([^{}]*)\}")
_MARKS = re.compile(r"[*`$]+|(?<!\w)_+|_+(?!\w)|(?m:^\s*#+\s*)|(?m:^\s*>\s+)|\\[()\[\]]")
# Models that do not know when to stop go on with an exercise of their own.
_ANEW = re.compile(
    r"\n\s*(?:#+\s*)?(?:(?:下一|另一)?道?(?:题目|问题|陈述内容|例题)\s*\d*\s*:"
    r"|(?:next )?(?:question|statement|exercise)\s*\d*\s*[:.]|instruction\s*:|(?:human|user)\s*:)",
    re.IGNORECASE,
)
_LONGEST = 4000  # characters of each end: searches take a time that grows with the square


@dataclass(frozen=True)
class Found:
    """What an answer says: letters such as "B" or "ACD", "true" or "false"; None where nothing can be told, with `why`.

    `span` is the words that it was read from, as they stand in the answer made plain; `written` the letters in order
    and as often as they stand there.
    """

    value: str | None
    span: str = ""
    why: str = ""
    written: str = ""


def plain(text: str) -> str:
    """An answer without what is mere form: wide letters, Markdown's and LaTeX's marks, thoughts before the answer.

    Of a very long one only the beginning and the end are kept.
    """
    text = _THOUGHTS.sub("", text)
    if len(text) > 2 * _LONGEST:
        text = text[:_LONGEST] + "\n" + text[-_LONGEST:]
    text = unicodedata.normalize("NFKC", text).replace("\r\n", "\n").replace("\r", "\n")
    text = re.sub(r"\n\s*\n", "\n\n", re.sub(r"[^\S\n]+", " ", text))  # blanks without end make searches slow
    text = re.sub("[“”„«»「」『』]", '"', re.sub("[‘’]", "'", text))
    return _MARKS.sub("", _BOXED.sub(r"\1", text)).strip()


def first_exercise(text: str) -> str:
    """A plain answer up to where it begins another exercise."""
    return _ANEW.split(text, maxsplit=1)[0].strip()


def bare(text: str) -> str:
    """The letters and digits of a text in one case: what texts are compared by."""
    return "".join(char for char in unicodedata.normalize("NFKC", text).casefold() if char.isalnum())
