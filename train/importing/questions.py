"""One question of a sheet → the values that its phrasings take. Knows each kind's cells; knows no files.

Nothing is made up: a question whose sheet gives no answer is Unusable, and so is one whose answer cannot be told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stellar_local.tables import answers
from stellar_local.tables import questions as read


@dataclass(frozen=True)
class Question:
    """A question's kind and the values of its places, and what of the row was not used."""

    kind: str
    values: dict[str, str]
    notes: tuple[str, ...] = ()


def choice(question: str, options: Sequence[str], answer: str, parse: str, language: str, multiple: bool) -> Question:
    """A question with options A, B and so on; with several right ones, or in a sheet of such, a multiple choice."""
    found = read.choice(question, options, answer)
    why, note = answers.explanation(parse, found.right)
    values = {
        "question": question,
        "options": "\n".join(f"{letter}. {text}" for letter, text in found.options.items()),
        "letters": ("、" if language == "zh" else ", ").join(found.right),
        "run": found.right,
        "texts": ("；" if language == "zh" else "; ").join(found.options[one].rstrip("。.；;") for one in found.right),
        "chosen": "\n".join(f"{letter}. {found.options[letter]}" for letter in found.right),
        "why": why,
    }
    kind = "multiple choice" if multiple or len(found.right) > 1 else "single choice"
    return Question(kind, values, (note,) if note else ())


def judgment(question: str, answer: str, parse: str, language: str) -> Question:
    """A statement that is true or false."""
    true = read.judgment(question, answer)
    why, note = answers.explanation(parse)
    words = {
        "zh": {"correct": ("错误", "正确"), "right": ("错", "对")},
        "en": {"correct": ("incorrect", "correct"), "right": ("False", "True"), "truth": ("false", "true")},
    }[language]
    values = {"question": question, "why": why, **{name: pair[true] for name, pair in words.items()}}
    return Question("judgment", values, (note,) if note else ())


def matching(rows: Sequence[Sequence[str]], given: Sequence[str], language: str) -> Question:
    """Groups to be paired: `rows` are the lines of one question, each with an item of each group in no order.

    `given` are their answer cells.
    """
    found = read.matching(rows, given)
    group_name, match_name, colon = ("组别", "匹配组", "：") if language == "zh" else ("Group ", "Match ", ": ")
    listed = "\n".join(
        f"{group_name}{number}{colon.rstrip()}\n" + "\n".join(f"- {item}" for item in group)
        for number, group in enumerate(found.groups, 1)
    )
    shape = tuple(f"{group_name}{number}" for number in range(1, len(found.groups) + 1))
    values = {
        "question": listed,
        "groups": listed,
        "number": str(len(found.groups)),
        "shape": repr(shape),
        "tuples": "\n".join(f"{match_name}{number}{colon}{pair!r}" for number, pair in enumerate(found.pairs, 1)),
        "lines": "\n".join(" —— ".join(pair) for pair in found.pairs),
    }
    return Question("matching", values)


def subjective(question: str, answer: str, type: str, prompt: str, count: str) -> Question:
    """A term to explain or a question to answer freely."""
    found = read.free(question, answer, type, count)
    values = {"question": question, "answer": answer, "prompt": prompt, "count": found.count}
    return Question("terminology" if found.is_term else "short answer", values)
