"""Questions to put to both models: rows of JSON → the questions of conversations, with the broken rows named.

A row has its question in `turns`, `text`, `prompt` or `question` (a text, or a list of texts: one a turn), or in
`instruction` with `input`; optional `question_id` or `id`, `category`, `language`, and `reference` (an answer that is
right, or a list: one a turn). That covers Vicuna-80, MT-bench and BayLing-80 as they are published. Knows files and
fields; knows neither models nor judges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...tables.language import stated_language
from ..json_rows import BrokenRowError, read_rows
from ..ordering import spread

FIELDS = ("turns", "text", "prompt", "question", "instruction")
_HINT = f'give JSON lines, each with one of {", ".join(FIELDS)}: {{"question_id": 1, "text": "什么是黑洞？"}}'


@dataclass(frozen=True)
class Question:
    """One question, or the questions of a conversation, one a turn.

    `key` is unique among all that are asked; `id` is the file's own; `position` counts the file's rows from 0.
    `references` has a right answer for each turn, or is empty.
    """

    key: str
    id: str
    turns: tuple[str, ...]
    category: str = ""
    language: str = "en"
    references: tuple[str, ...] = ()
    position: int = 0


def read_questions(paths: Sequence[Path], limit: int | None = None) -> tuple[list[Question], int]:
    """The questions of all files, at most `limit`, in an order of which every beginning has some of all languages and
    categories; and the number of broken rows. Keys are the file's name and the id: without its suffix where it is the
    only file, with its number before it where another has the same name.

    Broken rows are warned about. Raises StellarError for a file that cannot be read or holds no question.
    """
    questions: dict[str, Question] = {}
    broken = 0
    for path, name in zip(paths, _names(paths), strict=True):
        known: set[str] = set()

        def question(row: dict[str, Any], name: str = name, known: set[str] = known) -> Question:
            found = _question(row, name, len(known))
            if found.key in known or found.key in questions:  # a name may end as another's id begins
                raise BrokenRowError(f"the id {found.id} is there twice")
            known.add(found.key)
            return found

        rows, left_out = read_rows(path, "questions file", _HINT, question)
        broken += len(left_out)
        questions.update((row.key, row) for row in rows)
    ordered = spread(list(questions.values()), lambda one: one.language, lambda one: one.category)
    return [question for _, question in ordered][:limit], broken


def _names(paths: Sequence[Path]) -> list[str]:
    """What each file's keys begin with."""
    if len(paths) == 1:
        return [paths[0].stem]
    names = [path.name for path in paths]
    return [name if names.count(name) == 1 else f"{number}:{name}" for number, name in enumerate(names, 1)]


def _question(row: dict[str, Any], name: str, position: int) -> Question:
    turns = _turns(row)
    id = identifier(row)
    id = str(position + 1) if id is None else id
    references = texts_of(row.get("reference"), "reference")
    if references and len(references) != len(turns):
        raise BrokenRowError(f"{len(references)} references for {len(turns)} turns")
    category = row.get("category")
    return Question(
        key=f"{name}:{id}",
        id=id,
        turns=turns,
        category="" if category is None else str(category),
        language=_language(row, " ".join(turns)),
        references=references,
        position=position,
    )


def identifier(row: dict[str, Any]) -> str | None:
    """The row's own id as text; None where it has none. Raises BrokenRowError for what can be none."""
    for name in ("question_id", "id"):
        value = row.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
            raise BrokenRowError(f"{name} must be a text or a whole number")
        return str(value)
    return None


def _turns(row: dict[str, Any]) -> tuple[str, ...]:
    name = next((name for name in FIELDS if row.get(name) not in (None, "", [])), None)
    if name is None:
        raise BrokenRowError(f"it has no question: one of {', '.join(FIELDS)}")
    turns = texts_of(row[name], name)
    if not all(turn.strip() for turn in turns):
        raise BrokenRowError(f"{name} has an empty question")
    if name == "instruction" and (more := row.get("input")):
        if not isinstance(more, str) or len(turns) > 1:
            raise BrokenRowError("input must be a text, and goes with one instruction")
        turns = (f"{turns[0]}\n{more}",)
    return turns


def texts_of(value: Any, name: str) -> tuple[str, ...]:
    """A text or a list of texts as a tuple; nothing as (). Raises BrokenRowError."""
    values = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(one, str) for one in values):
        raise BrokenRowError(f"{name} must be a text or a list of texts")
    return tuple(values)


def _language(row: dict[str, Any], text: str) -> str:
    """What the row says, else which of Chinese and English more of it is written in."""
    said = row.get("language", row.get("lang"))
    name = said.strip() if isinstance(said, str) else ""
    return stated_language(name, text)
