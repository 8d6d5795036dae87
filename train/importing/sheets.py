"""Tables → triples: Astro-QA's question sheets, and tables of questions and answers.

Knows what becomes of each row; how sheets are known is `stellar_local.tables`' matter, how a question is put is for
`phrasings`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from stellar_local.errors import UsageError
from stellar_local.tables import astro_qa
from stellar_local.tables.table import Line, Table, cell
from stellar_local.tables.unusable import Unusable

from . import questions
from .choices import Choices, Names
from .columns import Columns, find
from .outcome import Outcome, checked
from .phrasings import put
from .questions import Question


@dataclass(frozen=True)
class Sheet:
    """What a table turned out to be, and what becomes of its rows."""

    kind: str
    language: str
    outcomes: Iterator[Outcome]


def read(table: Table, choices: Choices) -> Sheet:
    """Recognise a table by its columns. Raises UsageError where they say nothing, or not what `choices` asks for."""
    plain = choices.format == "csv" or (choices.format == "auto" and choices.names != Names())
    found = None if plain else astro_qa.recognised(table)
    if found:
        language = found.language if choices.language == "auto" else choices.language
        return Sheet(f"Astro-QA {found.kind}", language, _READERS[found.kind](_Reading(found, language, choices)))
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
    """A sheet with the language that its questions are put in."""

    sheet: astro_qa.Sheet
    language: str
    choices: Choices

    @property
    def lines(self) -> list[Line]:
        return self.sheet.table.lines

    def get(self, line: Line, name: str) -> str:
        return self.sheet.get(line, name)

    def outcome(self, line: Line, question: Question, rows: int = 1) -> Outcome:
        triples = put(self.language, question.kind, question.values, self.choices.phrasings, self.choices.seed)
        for triple in triples:
            checked(triple.instruction, triple.input, triple.output)
        return Outcome(line.number, triples, kind=question.kind, notes=question.notes, rows=rows)

    def asked(self, line: Line) -> str:
        """The question, in the sheet's language unless the user names another."""
        return self.sheet.asked(line) if self.choices.language == "auto" else self.get(line, "question")


def _choice(reading: _Reading) -> Iterator[Outcome]:
    multiple = reading.sheet.is_multiple()

    def one(line: Line) -> Outcome:
        answer, parse = reading.get(line, "answer"), reading.get(line, "parse")
        asked, options = reading.asked(line), reading.sheet.options(line)
        return reading.outcome(line, questions.choice(asked, options, answer, parse, reading.language, multiple))

    for line in reading.lines:
        yield _tried(line, one)


def _judgment(reading: _Reading) -> Iterator[Outcome]:
    def one(line: Line) -> Outcome:
        asked, answer, parse = reading.asked(line), reading.get(line, "answer"), reading.get(line, "parse")
        return reading.outcome(line, questions.judgment(asked, answer, parse, reading.language))

    for line in reading.lines:
        yield _tried(line, one)


def _subjective(reading: _Reading) -> Iterator[Outcome]:
    def one(line: Line) -> Outcome:
        type, prompt, count, answer = (reading.get(line, name) for name in ("type", "prompt", "count", "answer"))
        return reading.outcome(line, questions.subjective(reading.asked(line), answer, type, prompt, count))

    for line in reading.lines:
        yield _tried(line, one)


def _matching(reading: _Reading) -> Iterator[Outcome]:
    for lines in reading.sheet.matching_questions():

        def one(line: Line, lines: list[Line] = lines) -> Outcome:
            rows = [reading.sheet.items(each) for each in lines]
            given = [reading.get(each, "answer") for each in lines]
            return reading.outcome(line, questions.matching(rows, given, reading.language), len(lines))

        yield _tried(lines[0], one, len(lines))


_READERS: dict[str, Callable[[_Reading], Iterator[Outcome]]] = {
    astro_qa.CHOICE: _choice,
    astro_qa.JUDGMENT: _judgment,
    astro_qa.MATCHING: _matching,
    astro_qa.SUBJECTIVE: _subjective,
}


def _tried(line: Line, one: Callable[[Line], Outcome], rows: int = 1) -> Outcome:
    if line.problem:
        return Outcome(line.number, reason=line.problem, rows=rows)
    try:
        return one(line)
    except Unusable as reason:
        return Outcome(line.number, reason=str(reason), rows=rows)
