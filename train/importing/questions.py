"""One question of a sheet → the values that its phrasings take. Knows each kind's cells; knows no files.

Nothing is made up: a question whose sheet gives no answer is Unusable, and so is one whose answer cannot be told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from . import answers
from .outcome import Unusable

_COUNT_SLACK = 0.1  # a stated length further off than this share is not asked for


@dataclass(frozen=True)
class Question:
    """A question's kind and the values of its places, and what of the row was not used."""

    kind: str
    values: dict[str, str]
    notes: tuple[str, ...] = ()


def choice(question: str, options: Sequence[str], answer: str, parse: str, language: str, multiple: bool) -> Question:
    """A question with options A, B and so on; with several right ones, or in a sheet of such, a multiple choice."""
    _asked(question)
    if answers.lost_dates(options):
        raise Unusable("the options are dates that Excel turned into numbers")
    right = answers.letters(answer, options)
    why, note = answers.explanation(parse, right)
    lettered = {chr(65 + place): text for place, text in enumerate(options) if text}
    if len(lettered) < 2:
        raise Unusable("fewer than two options")
    values = {
        "question": question,
        "options": "\n".join(f"{letter}. {text}" for letter, text in lettered.items()),
        "letters": ("、" if language == "zh" else ", ").join(right),
        "run": right,
        "texts": ("；" if language == "zh" else "; ").join(lettered[letter].rstrip("。.；;") for letter in right),
        "chosen": "\n".join(f"{letter}. {lettered[letter]}" for letter in right),
        "why": why,
    }
    kind = "multiple choice" if multiple or len(right) > 1 else "single choice"
    return Question(kind, values, (note,) if note else ())


def judgment(question: str, answer: str, parse: str, language: str) -> Question:
    """A statement that is true or false."""
    _asked(question)
    if not answer:
        raise Unusable("no answer")
    true = answers.verdict(answer)
    if true is None:
        raise Unusable("the answer is neither true nor false")
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
    groups = [[item for item in column if item] for column in zip(*rows, strict=True)]
    groups = [group for group in groups if group]
    if len(groups) < 2:
        raise Unusable("fewer than two groups")
    pairs = answers.pairs(given, groups)
    group_name, match_name, colon = ("组别", "匹配组", "：") if language == "zh" else ("Group ", "Match ", ": ")
    listed = "\n".join(
        f"{group_name}{number}{colon.rstrip()}\n" + "\n".join(f"- {item}" for item in group)
        for number, group in enumerate(groups, 1)
    )
    shape = tuple(f"{group_name}{number}" for number in range(1, len(groups) + 1))
    values = {
        "question": listed,
        "groups": listed,
        "number": str(len(groups)),
        "shape": repr(shape),
        "tuples": "\n".join(f"{match_name}{number}{colon}{pair!r}" for number, pair in enumerate(pairs, 1)),
        "lines": "\n".join(" —— ".join(pair) for pair in pairs),
    }
    return Question("matching", values)


def subjective(question: str, answer: str, type: str, prompt: str, count: str) -> Question:
    """A term to explain or a question to answer freely."""
    _asked(question)
    if not answer:
        raise Unusable("no answer")
    whole = count.isdecimal() and len(count) < 10  # isdigit would take ② and ²
    holds = whole and abs(int(count) - len(answer)) <= _COUNT_SLACK * len(answer)
    values = {"question": question, "answer": answer, "prompt": prompt, "count": count if holds else ""}
    is_term = any(word in type.casefold() for word in ("名词", "术语", "term"))
    return Question("terminology" if is_term else "short answer", values)


def _asked(question: str) -> None:
    if not question:
        raise Unusable("no question")
