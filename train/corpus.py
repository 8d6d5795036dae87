"""Instruction triples: read from JSON or JSONL, taken from the shipped corpus, written as a training file.

Knows the alpaca format and names every broken row by file and line; knows no tokenizer and no template.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stellar_local.errors import StellarError, UsageError
from stellar_local.files import atomic_text, read_text

CATEGORIES = ("astronomy", "identity", "general")
_FORMAT_HINT = 'rows look like {"instruction": "...", "input": "...", "output": "..."}; "input" may be empty'

# The kinds of problems that a place in a file can have.
NOT_JSON, NOT_UTF8, NO_ROW = "not JSON", "not UTF-8", "not a row"
EMPTY_QUESTION, EMPTY_ANSWER, HALF = "empty question", "empty answer", "half a character"
HINTS = {
    NOT_JSON: "give a JSON list of rows, or one row per line; " + _FORMAT_HINT,
    NOT_UTF8: "save the file as UTF-8",
    NO_ROW: _FORMAT_HINT,
    EMPTY_QUESTION: "remove the row or complete it",
    EMPTY_ANSWER: "remove the row or complete it",
    HALF: "repair the row",
}

_EXCERPT = 160  # characters of a place's source text
_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPED = re.compile("[\udc80-\udcff]")  # bytes that are not UTF-8, as surrogateescape keeps them
_BLANKS = re.compile(r"[ \t\r\n]*")
_NEXT_ITEM = re.compile(r"\n[ \t\r]*\{")


@dataclass(frozen=True)
class Triple:
    """One instruction, its optional input, and the answer to be learned.

    `asks` is the question in no wording, "" where a file does not say: rows that ask the same in other words name the
    same one. It is nothing that is learned, and no part of what makes two rows equal.
    """

    instruction: str
    input: str
    output: str
    asks: str = field(default="", compare=False)

    def as_dict(self) -> dict[str, str]:
        """The row as alpaca's format has it."""
        return {"instruction": self.instruction, "input": self.input, "output": self.output}


@dataclass(frozen=True)
class Located:
    """What stands at one place of a file: a row, or a `problem` of one of the kinds in `HINTS`, with an `excerpt`."""

    path: Path
    line: int  # where it begins, from 1
    row: Triple | None
    problem: str = ""
    kind: str = ""
    excerpt: str = ""


def read(path: Path) -> list[Triple]:
    """Read triples from a JSON list or from JSON lines; a byte-order mark and CRLF are accepted.

    Further keys of a row but `asks` are ignored, and a missing `input` is empty. Raises StellarError naming the file
    and the line where a row is not JSON, lacks a key, holds something other than text, or asks or answers nothing.
    """
    return [row for _, row in located(path)]


def located(path: Path) -> list[tuple[int, Triple]]:
    """What `read` reads, each row with the line it begins on (from 1). Raises StellarError as `read` does."""
    rows = []
    for found in scan(path):
        if found.row is None:
            name = f"{found.kind}: " if found.kind in (NOT_JSON, NOT_UTF8) else ""
            raise StellarError(f"{name}{path}, line {found.line}: {found.problem}", HINTS[found.kind])
        rows.append((found.line, found.row))
    if not rows:
        raise StellarError(f"no rows in {path}", _FORMAT_HINT)
    return rows


def scan(path: Path) -> Iterator[Located]:
    """Yield every row that `read` would take, and every problem in its place, going on after each.

    After an item of a list that is not JSON, reading goes on at the next line that begins with `{`. Raises
    StellarError where the file cannot be read at all.
    """
    text = read_text(path, "training data", errors="surrogateescape")
    for line, value, raw in _values(text):
        excerpt = raw[:_EXCERPT]
        try:
            if isinstance(value, _Problem):
                raise value
            if _ESCAPED.search(raw):
                raise _Problem(NOT_UTF8, "bytes that are not UTF-8 text")
            yield Located(path, line, _triple(value))
        except _Problem as problem:
            shown = excerpt.encode("utf-8", "replace").decode("utf-8")
            yield Located(path, line, None, problem.reason, problem.kind, shown)


class _Problem(Exception):
    """Why there is no row."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind, self.reason = kind, reason


_Value = tuple[int, object, str]  # the line a value begins on, the value or the _Problem there, its source text


def _values(text: str) -> Iterator[_Value]:
    """The JSON values of a list, or one of each line that is not blank."""
    if text.lstrip()[:1] == "[":
        yield from _list_items(text)
        return
    for line, row in enumerate(text.split("\n"), 1):
        if row.strip():
            try:
                yield line, json.loads(row), row
            except (ValueError, RecursionError) as error:
                yield line, _broken(error, row), row


def _list_items(text: str) -> Iterator[_Value]:
    """The items of a JSON list, decoded one by one, because json.loads forgets where each one stood."""
    decoder, at, counted, line = json.JSONDecoder(), text.index("[") + 1, 0, 1
    expected = "]"  # what may stand here instead of a value: the end of an empty list, nothing after a comma
    while True:
        at = _skip_blanks(text, at)
        line += text.count("\n", counted, at)
        counted = at
        if expected and text[at : at + 1] == expected:
            break
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            begun, wrong = at, getattr(error, "pos", at)
            yield (
                getattr(error, "lineno", line),
                _broken(error, text[begun : wrong + 1]),
                text[begun : wrong + _EXCERPT],
            )
            found = _NEXT_ITEM.search(text, max(begun + 1, wrong))
            if found is None:
                return
            at, expected = found.end() - 1, ""
            continue
        yield line, value, text[at:end]
        at = _skip_blanks(text, end)
        if text[at : at + 1] == "]":
            break
        if text[at : at + 1] == ",":
            at, expected = at + 1, ""
            continue
        unseparated = json.JSONDecodeError("Expecting ',' or ']'", text, at)
        yield unseparated.lineno, _broken(unseparated, text[end : at + 1]), text[at : at + _EXCERPT]
        expected = ""
        if text[at : at + 1] != "{":  # else a comma is missing before a row that may be whole
            found = _NEXT_ITEM.search(text, end)
            if found is None:
                return
            at = found.end() - 1
    rest = _skip_blanks(text, at + 1)
    if rest < len(text):
        extra = json.JSONDecodeError("Extra data after the list", text, rest)
        yield extra.lineno, _broken(extra, text[rest]), text[rest : rest + _EXCERPT]


def _skip_blanks(text: str, at: int) -> int:
    found = _BLANKS.match(text, at)
    return found.end() if found else at


def _broken(error: Exception, raw: str) -> _Problem:
    if _ESCAPED.search(raw):
        return _Problem(NOT_UTF8, "bytes that are not UTF-8 text")
    reason = str(getattr(error, "msg", error))  # a number of too many digits and brackets too deep have no msg
    return _Problem(NOT_JSON, reason[:1].lower() + reason[1:])


def _triple(value: object) -> Triple:
    """Raises _Problem."""
    if not isinstance(value, dict):
        raise _Problem(NO_ROW, f"a row must be a JSON object, not {type(value).__name__}")
    texts: dict[str, str] = {}
    for key in ("instruction", "input", "output"):
        text = value.get(key)
        if text is None and key == "input":
            text = ""
        elif key not in value:
            raise _Problem(NO_ROW, f'the row lacks "{key}"')
        if not isinstance(text, str):
            raise _Problem(NO_ROW, f'"{key}" must be a text, not {json.dumps(text)[:40]}')
        if key != "input" and not text.strip():
            raise _Problem(EMPTY_ANSWER if key == "output" else EMPTY_QUESTION, f'"{key}" is empty')
        if _SURROGATE.search(text):
            raise _Problem(HALF, f'"{key}" holds half a character (a lone surrogate)')
        texts[key] = text
    asks = value.get("asks")
    return Triple(**texts, asks=asks if isinstance(asks, str) and not _SURROGATE.search(asks) else "")


def data_folder() -> Path:
    """Where the shipped corpus is: inside this package, in a wheel and in a checkout alike."""
    return Path(__file__).parent / "data"


def shipped(category: str) -> list[Triple]:
    """The shipped rows of one category, English first. Raises UsageError for an unknown one."""
    return [row for path in shipped_files(category) for row in read(path)]


def shipped_files(category: str) -> list[Path]:
    """The files of one shipped category, English first. Raises UsageError for an unknown one."""
    if category not in CATEGORIES:
        raise UsageError(f"unknown category: {category}", f"use one of {', '.join(CATEGORIES)}")
    return [data_folder() / f"{category}.{language}.jsonl" for language in ("en", "zh")]


def write(rows: Sequence[Triple], path: Path) -> None:
    """Write rows as a JSON list in alpaca's format, one row a line, complete or not at all. Raises StellarError."""
    lines = ",\n".join(json.dumps(row.as_dict(), ensure_ascii=False) for row in rows)
    atomic_text(path, f"[\n{lines}\n]\n")
