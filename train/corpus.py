"""Instruction triples: read from JSON or JSONL, taken from the shipped corpus, joined into one training file.

Knows the alpaca format and names every broken row by file and line; knows no tokenizer and no template.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from stellar_local.errors import StellarError, UsageError
from stellar_local.files import atomic_text, read_text

CATEGORIES = ("astronomy", "identity", "general")
_FORMAT_HINT = 'rows look like {"instruction": "...", "input": "...", "output": "..."}; "input" may be empty'


@dataclass(frozen=True)
class Triple:
    """One instruction, its optional input, and the answer to be learned."""

    instruction: str
    input: str
    output: str


@dataclass(frozen=True)
class Corpus:
    """Rows joined from several sources: `counts` says how many rows each gave, `duplicates` how many were removed."""

    rows: list[Triple]
    counts: dict[str, int]
    duplicates: int


def read(path: Path) -> list[Triple]:
    """Read triples from a JSON list or from JSON lines; a byte-order mark and CRLF are accepted.

    Further keys of a row are ignored and a missing `input` is empty. Raises StellarError naming the file and
    the line where a row is not JSON, lacks a key, holds something other than text, or asks or answers nothing.
    """
    text = read_text(path, "training data")
    rows = [_triple(value, f"{path}, line {line}") for line, value in _values(text, path)]
    if not rows:
        raise StellarError(f"no rows in {path}", _FORMAT_HINT)
    return rows


def _values(text: str, path: Path) -> Iterator[tuple[int, object]]:
    """The JSON values of a list, or one of each line that is not blank, with the line each begins on (from 1)."""
    if text.lstrip()[:1] == "[":
        yield from _list_items(text, path)
        return
    for line, row in enumerate(text.split("\n"), 1):
        if row.strip():
            try:
                yield line, json.loads(row)
            except (ValueError, RecursionError) as error:
                raise _broken(path, line, error) from error


def _list_items(text: str, path: Path) -> Iterator[tuple[int, object]]:
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
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            raise _broken(path, getattr(error, "lineno", line), error) from error
        yield line, value
        at = _skip_blanks(text, at)
        if text[at : at + 1] == "]":
            break
        if text[at : at + 1] != ",":
            unseparated = json.JSONDecodeError("Expecting ',' or ']'", text, at)
            raise _broken(path, unseparated.lineno, unseparated)
        at, expected = at + 1, ""
    rest = _skip_blanks(text, at + 1)
    if rest < len(text):
        extra = json.JSONDecodeError("Extra data after the list", text, rest)
        raise _broken(path, extra.lineno, extra)


def _skip_blanks(text: str, at: int) -> int:
    while text[at : at + 1] in (" ", "\t", "\r", "\n"):
        at += 1
    return at


def _broken(path: Path, line: int, error: Exception) -> StellarError:
    reason = str(getattr(error, "msg", error))  # a number of too many digits and brackets too deep have no msg
    return StellarError(
        f"not JSON: {path}, line {line}: {reason[:1].lower() + reason[1:]}",
        "give a JSON list of rows, or one row per line; " + _FORMAT_HINT,
    )


def _triple(value: object, where: str) -> Triple:
    if not isinstance(value, dict):
        raise StellarError(f"{where}: a row must be a JSON object, not {type(value).__name__}", _FORMAT_HINT)
    texts: dict[str, str] = {}
    for key in ("instruction", "input", "output"):
        text = value.get(key)
        if text is None and key == "input":
            text = ""
        elif key not in value:
            raise StellarError(f'{where}: the row lacks "{key}"', _FORMAT_HINT)
        if not isinstance(text, str):
            raise StellarError(f'{where}: "{key}" must be a text, not {json.dumps(text)[:40]}', _FORMAT_HINT)
        if key != "input" and not text.strip():
            raise StellarError(f'{where}: "{key}" is empty', "remove the row or complete it")
        if any("\ud800" <= char <= "\udfff" for char in text):
            raise StellarError(f'{where}: "{key}" holds half a character (a lone surrogate)', "repair the row")
        texts[key] = text
    return Triple(**texts)


def data_folder() -> Path:
    """Where the shipped corpus is: inside this package, in a wheel and in a checkout alike."""
    return Path(__file__).parent / "data"


def shipped(category: str) -> list[Triple]:
    """The shipped rows of one category, English first. Raises UsageError for an unknown one."""
    if category not in CATEGORIES:
        raise UsageError(f"unknown category: {category}", f"use one of {', '.join(CATEGORIES)}")
    return [row for language in ("en", "zh") for row in read(data_folder() / f"{category}.{language}.jsonl")]


def build(
    sources: Mapping[str, Sequence[Triple]],
    repeat: Mapping[str, int] | None = None,
    limit: Mapping[str, int] | None = None,
    seed: int = 42,
) -> Corpus:
    """Join named sources into one shuffled corpus; the same arguments always give the same rows in the same order.

    Exact duplicates are removed first, across sources; then a source with a `limit` is sampled down to it; then
    its rows are repeated `repeat` times. Raises UsageError for a name that is no source or a number below 1.
    """
    repeat, limit = repeat or {}, limit or {}
    for what, numbers in (("--repeat", repeat), ("--limit", limit)):
        for name, number in numbers.items():
            if name not in sources:
                raise UsageError(
                    f"{what} names {name}, which is no part of this corpus", f"it has {', '.join(sources)}"
                )
            if number < 1:
                raise UsageError(f"{what} {name}={number}: the number must be at least 1")
    seen: set[Triple] = set()
    rows: list[Triple] = []
    counts: dict[str, int] = {}
    for name, triples in sources.items():
        unique = [triple for triple in dict.fromkeys(triples) if triple not in seen]
        seen.update(unique)
        if name in limit and limit[name] < len(unique):
            # Each source has its own generator, so that a limit on one leaves the choice in another alone.
            unique = random.Random(f"{seed} {name}").sample(unique, limit[name])
        chosen = unique * repeat.get(name, 1)
        counts[name] = len(chosen)
        rows += chosen
    random.Random(seed).shuffle(rows)
    total = sum(len(triples) for triples in sources.values())
    return Corpus(rows, counts, total - len(seen))


def write(rows: Sequence[Triple], path: Path) -> None:
    """Write rows as a JSON list in alpaca's format, one row a line, complete or not at all. Raises StellarError."""
    lines = ",\n".join(json.dumps(asdict(row), ensure_ascii=False) for row in rows)
    atomic_text(path, f"[\n{lines}\n]\n")
