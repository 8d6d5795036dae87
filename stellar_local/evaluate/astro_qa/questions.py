"""Astro-QA's spreadsheets → questions to ask, each with what is right; and what cannot be asked, with the reason.

Knows files and what makes a question of each kind; knows neither wording nor scoring.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import MissingExtraError, StellarError
from ...files import files_below, is_there
from ...tables import astro_qa, questions, workbook
from ...tables.table import Line
from ...tables.unusable import Unusable

SINGLE_4, SINGLE_5, MULTI, JUDGMENT = "single-4", "single-5", "multi", "judgment"
TERMINOLOGY, SHORT_ANSWER, MATCHING = "terminology", "short-answer", "matching"
KINDS = (SINGLE_4, SINGLE_5, MULTI, JUDGMENT, TERMINOLOGY, SHORT_ANSWER, MATCHING)
SINGLE = (SINGLE_4, SINGLE_5)
FREE = (TERMINOLOGY, SHORT_ANSWER)
LANGUAGES = ("zh", "en")
_ENDINGS = (".xlsx", ".xlsm")
_NAMED = 10  # rows that are named for each reason
_NO_ANSWER = "no answer"
_NOT_IN_SHEETS = "the published matching sheets come without answers: add a column Answer that holds tuples"


@dataclass(frozen=True)
class Question:
    """One question. `key` names its file and row; `place` counts the questions of its sheet from 1, those that cannot
    be asked included.

    `right` is the letters of the right options, or "true" or "false"; `reference` the right answer of free text, whose
    length the sheet may state as `count`; `pairs` the tuples of a matching question, one item of each of its `groups`.
    `gold` is the sheet's answer cell as it stands there.
    """

    key: str
    kind: str
    language: str
    place: int
    asked: str
    subfield: str = ""
    gold: str = ""
    options: dict[str, str] = field(default_factory=dict)
    right: str = ""
    reference: str = ""
    prompt: str = ""
    count: str = ""
    groups: list[list[str]] = field(default_factory=list)
    pairs: list[tuple[str, ...]] = field(default_factory=list)


@dataclass(frozen=True)
class Problem:
    """Why something was left out: a whole file or sheet, or (from `row` on) one row or more of it."""

    name: str
    reason: str
    row: int = 0
    rows: int = 1


@dataclass
class Loaded:
    """What a folder holds: questions, the files they are from, and what was left out."""

    questions: list[Question] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def told(self) -> list[str]:
        """What was left out, in words: a line for each file and reason."""
        lines, rows = [], dict[tuple[str, str], list[Problem]]()
        for problem in self.problems:
            if problem.row:
                rows.setdefault((problem.name, problem.reason), []).append(problem)
            else:
                lines.append(f"{problem.name} is left out: {problem.reason}")
        for (name, reason), found in rows.items():
            count = sum(one.rows for one in found)
            named = ", ".join(str(one.row) for one in found[:_NAMED]) + (", …" if len(found) > _NAMED else "")
            what = f"{count} row{'s' if count > 1 else ''}"
            lines.append(f"{name}: {what} left out: {reason} (row{'s' if len(found) > 1 else ''} {named})")
        return lines


def load(data: Path, kinds: Collection[str] = KINDS, languages: Collection[str] = LANGUAGES) -> Loaded:
    """The questions of a folder of spreadsheets, or of one file, of these kinds and languages, in the files' order.

    What cannot be read or asked is in `problems`. Raises StellarError where nothing can be asked, MissingExtraError.
    """
    if not is_there(data):
        raise StellarError(f"not found: {data}", "give the folder of Astro-QA's spreadsheets, such as Astro-QA/data")
    paths = [path for path in files_below(data) if path.suffix.lower() in _ENDINGS] if data.is_dir() else [data]
    if not paths:
        raise StellarError(f"there is no spreadsheet below {data}", f"its files must end in {' or '.join(_ENDINGS)}")
    loaded, seen = Loaded(), dict[tuple[object, ...], str]()
    for path in paths:
        name = path.relative_to(data).as_posix() if data.is_dir() else path.name
        found = 0
        for question in _of_file(path, name, loaded.problems):
            found += 1
            if question.kind not in kinds or question.language not in languages:
                continue
            # Older releases and copies lie in the same folder; what one sheet asks twice is its own affair.
            same = (question.kind, question.asked, *question.options.values(), question.gold, *question.pairs)
            if (first := seen.setdefault(same, name)) != name:
                loaded.problems.append(Problem(name, f"they stand in {first} too", _row_of(question)))
            else:
                loaded.questions.append(question)
        if found:
            loaded.files.append(path)
    if not loaded.questions:
        why = f": {loaded.told()[0]}" if loaded.problems else ""
        raise StellarError(
            f"there is no question to ask in {data}{why}",
            "give the folder of Astro-QA's spreadsheets; --types and --language choose among them",
        )
    return loaded


def _row_of(question: Question) -> int:
    return int(question.key.rpartition(":")[2])


def _of_file(path: Path, name: str, problems: list[Problem]) -> Iterator[Question]:
    try:
        tables = workbook.read(path, "eval")
    except MissingExtraError:
        raise
    except StellarError as error:
        problems.append(Problem(name, error.message.replace(f": {path}", "")))
        return
    for table in tables:
        called = f"{name}, sheet {table.name}" if len(tables) > 1 else name
        sheet = astro_qa.recognised(table)
        if sheet is None:
            columns = ", ".join(filter(None, table.header))[:200]
            problems.append(
                Problem(called, f"its columns are those of no question sheet ({columns}): one has Question and Answer")
            )
            continue
        if not table.lines:
            problems.append(Problem(called, "it has columns and no rows"))
            continue
        yield from _READERS[sheet.kind](_Reading(sheet, name, table.name if len(tables) > 1 else "", called, problems))


@dataclass(frozen=True)
class _Reading:
    """A sheet being read, and where what cannot be asked is noted."""

    sheet: astro_qa.Sheet
    file: str
    page: str  # the sheet's name where the file has several
    called: str
    problems: list[Problem]

    def questions(self, parts: list[list[Line]], one: Callable[[int, list[Line]], Question]) -> Iterator[Question]:
        for place, lines in enumerate(parts, 1):
            try:
                yield one(place, lines)
            except Unusable as reason:
                self.problems.append(Problem(self.called, str(reason), lines[0].number, len(lines)))

    def singly(self, one: Callable[[int, Line], Question]) -> Iterator[Question]:
        return self.questions([[line] for line in self.sheet.table.lines], lambda place, lines: one(place, lines[0]))

    def key(self, line: Line) -> str:
        return ":".join(filter(None, [self.file, self.page, str(line.number)]))

    def subfield(self, line: Line) -> str:
        named = self.sheet.get(line, "subfield")
        return "" if named == "无" else named


def _choice(reading: _Reading) -> Iterator[Question]:
    sheet = reading.sheet
    several = sheet.is_multiple()
    kind = MULTI if several else SINGLE_5 if "e" in sheet.places else SINGLE_4

    def one(place: int, line: Line) -> Question:
        asked, gold = sheet.asked(line), sheet.get(line, "answer")
        found = questions.choice(asked, sheet.options(line), gold)
        if not several and len(found.right) > 1:
            raise Unusable("several answers are right in a sheet of single choices")
        return Question(
            reading.key(line),
            kind,
            sheet.language,
            place,
            asked,
            reading.subfield(line),
            gold,
            options=found.options,
            right=found.right,
        )

    return reading.singly(one)


def _judgment(reading: _Reading) -> Iterator[Question]:
    sheet = reading.sheet

    def one(place: int, line: Line) -> Question:
        asked, gold = sheet.asked(line), sheet.get(line, "answer")
        right = "true" if questions.judgment(asked, gold) else "false"
        subfield = reading.subfield(line)
        return Question(reading.key(line), JUDGMENT, sheet.language, place, asked, subfield, gold, right=right)

    return reading.singly(one)


def _subjective(reading: _Reading) -> Iterator[Question]:
    sheet = reading.sheet
    count = {TERMINOLOGY: 0, SHORT_ANSWER: 0}

    def one(place: int, line: Line) -> Question:
        type, stated, gold = (sheet.get(line, name) for name in ("type", "count", "answer"))
        asked = sheet.asked(line)
        found = questions.free(asked, gold, type, stated)
        kind = TERMINOLOGY if found.is_term else SHORT_ANSWER
        count[kind] += 1  # one sheet holds both
        return Question(
            reading.key(line),
            kind,
            sheet.language,
            count[kind],
            asked,
            reading.subfield(line),
            gold,
            reference=gold,
            prompt=sheet.get(line, "prompt"),
            count=found.count,
        )

    return reading.singly(one)


def _matching(reading: _Reading) -> Iterator[Question]:
    sheet = reading.sheet

    def one(place: int, lines: list[Line]) -> Question:
        given = [sheet.get(line, "answer") for line in lines]
        try:
            found = questions.matching([sheet.items(line) for line in lines], given)
        except Unusable as reason:
            if str(reason) == _NO_ANSWER:
                raise Unusable(f"{_NO_ANSWER}; {_NOT_IN_SHEETS}") from reason
            raise
        asked = "\n".join("; ".join(group) for group in found.groups)
        gold = "\n".join(filter(None, given))
        subfield = reading.subfield(lines[0])
        return Question(
            reading.key(lines[0]),
            MATCHING,
            sheet.language,
            place,
            asked,
            subfield,
            gold,
            groups=found.groups,
            pairs=found.pairs,
        )

    return reading.questions(sheet.matching_questions(), one)


_READERS: dict[str, Callable[[_Reading], Iterator[Question]]] = {
    astro_qa.CHOICE: _choice,
    astro_qa.JUDGMENT: _judgment,
    astro_qa.MATCHING: _matching,
    astro_qa.SUBJECTIVE: _subjective,
}
