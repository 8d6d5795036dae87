"""Astro-QA's question sheets, known by their columns: which kind a table is, in what language, and its rows' cells.

Knows which columns each kind of sheet has; what their cells say is for `questions`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .answers import verdict
from .language import has_script, main_language
from .table import Line, Table, cell, key
from .unusable import Unusable

CHOICE, JUDGMENT, MATCHING, SUBJECTIVE = "choice", "judgment", "matching", "subjective"
_NAMES = {  # by `table.key`; Astro-QA's own spellings of "Word Count" and "Subfield" among them
    "question": ("question", "问题", "题目", "题干"),
    "answer": ("answer", "答案", "参考答案", "正确答案"),
    "parse": ("parse", "解析", "解释", "explanation"),
    "type": ("type", "类型", "题型"),
    "prompt": ("prompt", "提示", "提示词"),
    "count": ("worldcount", "wordcount", "字数"),
    "title": ("titleid", "题号"),
    "subfield": ("subfield", "subfiled", "子领域", "领域"),
}
_PLAIN_VERDICTS = ("对", "错", "正确", "错误", "true", "false")
_GROUP = re.compile(r"(?:group|组别|分组)(\d+)")
_LETTERS = "abcdefgh"
_MANY = 0.5  # a sheet is one of multiple choices where at least so many answers have several letters


@dataclass(frozen=True)
class Sheet:
    """A question sheet: its table, kind (CHOICE …) and language (zh or en), and where its columns are by our names."""

    table: Table
    kind: str
    language: str
    places: dict[str, int]

    def get(self, line: Line, name: str) -> str:
        """A row's cell of a column by our name for it; "" where the sheet has no such column."""
        return cell(line, self.places.get(name))

    def asked(self, line: Line) -> str:
        """The question. Raises Unusable where it is in the other language: a translation that failed left some."""
        question = self.get(line, "question")
        other = "en" if self.language == "zh" else "zh"
        if has_script(question, other) and not has_script(question, self.language):
            raise Unusable("the question is not in the sheet's language")
        return question

    def options(self, line: Line) -> list[str]:
        """The texts of options A, B and so on, as many as the sheet has columns for."""
        return [self.get(line, letter) for letter in _LETTERS if letter in self.places]

    def is_multiple(self) -> bool:
        """Whether this is a sheet of multiple choices, where a question may yet have a single right option."""
        sizes = [len(set(re.findall("[A-H]", self.get(line, "answer").upper()))) for line in self.table.lines]
        answered = [size for size in sizes if size]
        return self.kind == CHOICE and bool(answered) and sum(size > 1 for size in answered) >= _MANY * len(answered)

    def matching_questions(self) -> list[list[Line]]:
        """The rows that make one matching question together."""
        together: list[list[Line]] = []
        for line in self.table.lines:
            # The number stands on a question's first row only: its cell is merged with those below.
            if self.get(line, "title") or not together:
                together.append([])
            together[-1].append(line)
        return together

    def items(self, line: Line) -> list[str]:
        """A matching question's row: an item of each group, "" where the group has no more."""
        places = [place for name, place in sorted(self.places.items()) if name.startswith("group")]
        return [cell(line, place) for place in places]


def recognised(table: Table) -> Sheet | None:
    """The question sheet that a table is, by its columns; None for another table."""
    places = _places(table)
    kind = _kind(table, places)
    return Sheet(table, kind, _language(table, places), places) if kind else None


def _places(table: Table) -> dict[str, int]:
    """Where the columns are that a question sheet may have: by our names for them, options by their letter."""
    places: dict[str, int] = {}
    for place, column in enumerate(map(key, table.header)):
        name = next((name for name, spellings in _NAMES.items() if column in spellings), "")
        if found := _GROUP.fullmatch(column):
            name = f"group {found[1]}"
        elif len(column) == 1 and column in _LETTERS:
            name = column
        if name:
            places.setdefault(name, place)
    return places


def _kind(table: Table, places: dict[str, int]) -> str:
    """The kind of question sheet; "" for another table."""
    if "title" in places and sum(name.startswith("group") for name in places) >= 2:
        return MATCHING
    if not {"question", "answer"} <= places.keys():
        return ""
    if {"a", "b"} <= places.keys():
        return CHOICE
    if {"type", "prompt"} & places.keys():
        return SUBJECTIVE
    given = [text for text in table.column(places["answer"]) if text]
    if "parse" in places:
        judged = 2 * sum(verdict(text) is not None for text in given) > len(given)
    else:  # a table of any questions may answer some with x or 1
        judged = bool(given) and all(text.casefold() in _PLAIN_VERDICTS for text in given)
    return JUDGMENT if judged else ""


def _language(table: Table, places: dict[str, int]) -> str:
    """Whether a sheet's questions are written in Chinese or in English."""
    columns = [place for name, place in places.items() if name == "question" or name.startswith("group")]
    text = "\n".join("\n".join(table.column(place)) for place in columns)
    return main_language(text)
