"""Which options an answer calls right and which wrong: one by one, together, or in a list with a remark on each.

Knows letters and options' texts; knows nothing of answers that only name letters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from .found import bare

_I = re.IGNORECASE
ITEM = re.compile(r"^\s*[-•·\d.)\s]*[\"(\[]*([A-H])\s*[)\].:、,\"]+\s*(.*)$")
WRONG = re.compile(r"错|不[对是选属正符]|\b(?:not|wrong|incorrect|false|no)\b|n't\b|×|✗|✘", _I)
SUPPOSED = re.compile(r"(?:如果|假如|是否|\bif|\bwhether|\bwhy|\bneither|\bnor)\s*(?:选项|options?)?\s*$", _I)

# `A`, `ABD`, `A, C and D`, `(A)(C)`: letters of which one thing is said.
_LETTERS = (
    r"(?<![A-Za-z0-9])([A-H](?:\)?\s?(?:[,、;/&+]\s?(?:and\b|和|与|及)?|和|与|以?及|and\b|or\b|as well as\b)?"
    r"\s?\(?(?:选项\s?|option\s)?[A-H](?![a-z]))*)(?![A-Za-z0-9])"
)
# What is said of letters that stand before it.
_IS_RIGHT = (
    r"\"?\)?\s*(?:选?项)?(?:[二两三四]个?[项者])?(?:选项)?(?:的?(?:说法|描述|陈述|内容))?(?:才?是|为|也|全部|全|都|均)*\s*最?为?"
    r"(?:正确|对的|对(?=[\s,。;!)]|$)|符合题意|答案)"
    r"|\"?\)?\s+(?:is|are|would be|seems?(?: to be)?)\s+(?:also\s+|clearly\s+|all\s+|both\s+)?(?:the\s+)?(?:most\s+)?"
    r"(?:correct|right|true|best|accurate|the answer)"
)
_IS_WRONG = (
    r"\"?\)?\s*(?:选?项)?(?:(?!正确|(?:而|而并|,|,并|,而)(?:不是|非))[^A-H\n。;因]){0,12}?(?:错误|不正确|不对|不符|不是|错(?=[\s,。;!)]|$))"
    r"|\"?\)?\s+(?:is|are)\s+(?:all\s+|both\s+|also\s+)?(?:not|incorrect|wrong|false)"
)
_RIGHT = re.compile(rf"{_LETTERS}(?:{_IS_RIGHT})")
_RIGHT_PART = re.compile(r"(?<![A-Za-z])([A-H])\"?\)?\s*(?:选?项)[^A-H\n。;]{0,40}?(?<!不)正确")
_WRONG_MARK = re.compile(rf"{_LETTERS}(?:{_IS_WRONG})")
JUDGED_NEXT = re.compile(rf"(?:{_IS_RIGHT}|{_IS_WRONG})")
REFUSED_NEXT = re.compile(rf"(?:{_IS_WRONG})")
# A remark that begins or ends with the verdict.
_REMARK_RIGHT = re.compile(
    r"^\W*(?:是|is\s+)?(?:正确|对|√|✓|✔|(?:correct|true|right|yes)\b)|(?:正确|对)的?\W*$|(?:[√✓✔]|\b(?:correct|true|right))\W*$",
    _I,
)


def right_and_wrong(text: str, options: Mapping[str, str]) -> tuple[set[str], set[str]]:
    """The letters that a text calls right, and those that it calls wrong; what it calls both is wrong."""
    wrong = {one for found in _WRONG_MARK.finditer(text) for one in re.findall("[A-H]", found[1])}
    said = [*_RIGHT.finditer(text), *_RIGHT_PART.finditer(text)]
    named = [found[1] for found in said if not SUPPOSED.search(text[: found.start()])]
    right = {one for letters in named for one in re.findall("[A-H]", letters)}
    listed_right, listed_wrong = _listed(text, options)
    wrong |= listed_wrong
    return (right | listed_right) - wrong, wrong


def _listed(text: str, options: Mapping[str, str]) -> tuple[set[str], set[str]]:
    """The letters of a list with a remark on each option: `A. 水星：正确\\nB. 月球：错误`."""
    right, wrong = set[str](), set[str]()
    for line in text.split("\n"):
        item = ITEM.match(line)
        said = remark(item[2], options.get(item[1], "")) if item else ""
        if item and WRONG.search(said):
            wrong.add(item[1])
        elif item and _REMARK_RIGHT.search(said):
            right.add(item[1])
    return (right, wrong) if len(right | wrong) > 1 else (set(), set())


def remark(item: str, option: str) -> str:
    """What an answer's item adds to the option's own text."""
    return item[len(option.strip()) :] if bare(option) and bare(item).startswith(bare(option)) else item
