"""Tables → triples: Astro-QA's question sheets, known by their columns, and tables of questions and answers.

Knows which columns each kind of sheet has and what language it is in; how a question is put is for `phrasings`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from stellar_local.errors import UsageError

from ..likeness.language import has_script, main_language
from . import questions
from .answers import verdict
from .choices import Choices, Names
from .columns import Columns, find
from .outcome import Outcome, Unusable, checked
from .phrasings import put
from .questions import Question
from .table import Line, Table, cell, key

_NAMES = {  # by `table.key`; Astro-QA's own spelling of "Word Count" among them
    "question": ("question", "问题", "题目", "题干"),
    "answer": ("answer", "答案", "参考答案", "正确答案"),
    "parse": ("parse", "解析", "解释", "explanation"),
    "type": ("type", "类型", "题型"),
    "prompt": ("prompt", "提示", "提示词"),
    "count": ("worldcount", "wordcount", "字数"),
    "title": ("titleid", "题号"),
}
_PLAIN_VERDICTS = ("对", "错", "正确", "错误", "true", "false")
_GROUP = re.compile(r"(?:group|组别|分组)(\d+)")
_LETTERS = "abcdefgh"
_MANY = 0.5  # a sheet is one of multiple choices where at least so many answers have several letters


@dataclass(frozen=True)
class Sheet:
    """What a table turned out to be, and what becomes of its rows."""

    kind: str
    language: str
    outcomes: Iterator[Outcome]


def read(table: Table, choices: Choices) -> Sheet:
    """Recognise a table by its columns. Raises UsageError where they say nothing, or not what `choices` asks for."""
    places = _places(table)
    plain = choices.format == "csv" or (choices.format == "auto" and choices.names != Names())
    kind = "" if plain else _kind(table, places)
    if kind:
        language = _language(table, places) if choices.language == "auto" else choices.language
        return Sheet(f"Astro-QA {kind}", language, _READERS[kind](_Reading(table, places, language, choices)))
    if choices.format == "astro-qa":
        raise UsageError(
            f"the columns are not those of an Astro-QA sheet: {', '.join(table.header)[:200]}",
            "such a sheet has Question and Answer with A, B …, Parse or Prompt; or Title ID and Group 1 …",
        )
    columns = find(tuple(table.header), choices.names)
    named = [table.header[place] for place in (columns.instruction, columns.input, columns.output) if place is not None]
    return Sheet(f"table ({' → '.join(named)})", "", _plain(table, columns))


def _plain(table: Table, columns: Columns) -> Iterator[Outcome]:
    def one(line: Line) -> Outcome:
        texts = (cell(line, place) for place in (columns.instruction, columns.input, columns.output))
        return Outcome(line.number, (checked(*texts),), kind="table")

    for line in table.lines:
        yield _tried(line, one)


@dataclass(frozen=True)
class _Reading:
    """A sheet with what its rows are read by."""

    table: Table
    places: dict[str, int]
    language: str
    choices: Choices

    def get(self, line: Line, name: str) -> str:
        return cell(line, self.places.get(name))

    def outcome(self, line: Line, question: Question, rows: int = 1) -> Outcome:
        triples = put(self.language, question.kind, question.values, self.choices.phrasings, self.choices.seed)
        for triple in triples:
            checked(triple.instruction, triple.input, triple.output)
        return Outcome(line.number, triples, kind=question.kind, notes=question.notes, rows=rows)

    def asked(self, line: Line) -> str:
        """The question, in the sheet's language: a translation that failed left some in the other one."""
        question = self.get(line, "question")
        if self.choices.language == "auto" and question:
            other = "en" if self.language == "zh" else "zh"
            if has_script(question, other) and not has_script(question, self.language):
                raise Unusable("the question is not in the sheet's language")
        return question


def _choice(reading: _Reading) -> Iterator[Outcome]:
    letters = [letter for letter in _LETTERS if letter in reading.places]
    sizes = [len(set(re.findall("[A-H]", reading.get(line, "answer").upper()))) for line in reading.table.lines]
    answered = [size for size in sizes if size]
    multiple = bool(answered) and sum(size > 1 for size in answered) >= _MANY * len(answered)

    def one(line: Line) -> Outcome:
        options = [reading.get(line, letter) for letter in letters]
        answer, parse = reading.get(line, "answer"), reading.get(line, "parse")
        asked = reading.asked(line)
        return reading.outcome(line, questions.choice(asked, options, answer, parse, reading.language, multiple))

    for line in reading.table.lines:
        yield _tried(line, one)


def _judgment(reading: _Reading) -> Iterator[Outcome]:
    def one(line: Line) -> Outcome:
        asked, answer, parse = reading.asked(line), reading.get(line, "answer"), reading.get(line, "parse")
        return reading.outcome(line, questions.judgment(asked, answer, parse, reading.language))

    for line in reading.table.lines:
        yield _tried(line, one)


def _subjective(reading: _Reading) -> Iterator[Outcome]:
    def one(line: Line) -> Outcome:
        type, prompt, count, answer = (reading.get(line, name) for name in ("type", "prompt", "count", "answer"))
        return reading.outcome(line, questions.subjective(reading.asked(line), answer, type, prompt, count))

    for line in reading.table.lines:
        yield _tried(line, one)


def _matching(reading: _Reading) -> Iterator[Outcome]:
    groups = [place for name, place in sorted(reading.places.items()) if name.startswith("group")]
    together: list[list[Line]] = []
    for line in reading.table.lines:
        # The number stands on a question's first row only: its cell is merged with those below.
        if reading.get(line, "title") or not together:
            together.append([])
        together[-1].append(line)
    for lines in together:

        def one(line: Line, lines: list[Line] = lines) -> Outcome:
            rows = [[cell(each, place) for place in groups] for each in lines]
            given = [reading.get(each, "answer") for each in lines]
            return reading.outcome(line, questions.matching(rows, given, reading.language), len(lines))

        yield _tried(lines[0], one, len(lines))


_READERS: dict[str, Callable[[_Reading], Iterator[Outcome]]] = {
    "choice": _choice,
    "judgment": _judgment,
    "matching": _matching,
    "subjective": _subjective,
}


def _tried(line: Line, one: Callable[[Line], Outcome], rows: int = 1) -> Outcome:
    if line.problem:
        return Outcome(line.number, reason=line.problem, rows=rows)
    try:
        return one(line)
    except Unusable as reason:
        return Outcome(line.number, reason=str(reason), rows=rows)


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
        return "matching"
    if not {"question", "answer"} <= places.keys():
        return ""
    if {"a", "b"} <= places.keys():
        return "choice"
    if {"type", "prompt"} & places.keys():
        return "subjective"
    given = [text for text in table.column(places["answer"]) if text]
    if "parse" in places:
        judged = 2 * sum(verdict(text) is not None for text in given) > len(given)
    else:  # a table of any questions may answer some with x or 1
        judged = bool(given) and all(text.casefold() in _PLAIN_VERDICTS for text in given)
    return "judgment" if judged else ""


def _language(table: Table, places: dict[str, int]) -> str:
    """Whether a sheet's questions are written in Chinese or in English."""
    columns = [place for name, place in places.items() if name == "question" or name.startswith("group")]
    text = "\n".join("\n".join(table.column(place)) for place in columns)
    return main_language(text)
