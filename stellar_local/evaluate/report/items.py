"""What the logs tell item by item: failures, which model was better on which items, and answers to show.

Knows records; knows nothing of pages.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from ...texts import Texts
from ..statistics import mean_interval, sign_test
from .blocks import Answer, Example
from .collected import Identity, Run, finite
from .comparison import Comparison, Models
from .wording import LONGEST_ANSWER, LONGEST_QUESTION, clean, known, language_name, name, number, shortened

# How many items of each language are shown: where models differ, where all are right, where all are wrong.
_SHOWN = {"differ": 2, "right": 1, "wrong": 1, "other": 2}
_MESSAGES, _LONGEST_NOTE = 3, 1000
_REPEATED = re.compile(r"#\d+$")  # of a key: which of a question's answers it is

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Failures:
    """A run's items, how many of them failed, the errors by their types, and some messages."""

    items: int
    failed: int
    types: Counter[str]
    messages: tuple[str, ...]


def notes_of(runs: Sequence[Run], names: Mapping[Identity, str]) -> tuple[str, ...]:
    """The runs' own notes; one that all have is told once, others with the names of those that have them."""
    owners: dict[str, list[str]] = {}
    for run in runs:
        for note in dict.fromkeys(" ".join(clean(one[:_LONGEST_NOTE]).split()) for one in run.notes):
            owners.setdefault(note, []).append(names[run.model.identity])
    return tuple(
        note if len(named) == len(runs) else f"{', '.join(named)}: {note}" for note, named in owners.items() if note
    )


def failures(run: Run) -> Failures | None:
    """What failed in a run; None where there is no log."""
    if run.records is None:
        return None
    types: Counter[str] = Counter()
    messages: dict[str, None] = {}
    for record in run.records.values():
        if "error" in record:
            error = record["error"] if isinstance(record["error"], Mapping) else {"message": record["error"]}
            types[name(str(error.get("type", "error")))] += 1
            messages.setdefault(name(str(error.get("message", ""))))
    return Failures(len(run.records), types.total(), types, tuple(messages)[:_MESSAGES])


@dataclass(frozen=True)
class Duel:
    """One model against another on the questions that both have answered.

    `difference` is the mean of the second's value less the first's, with a 95% bootstrap interval, None where there is
    no spread to draw from; `p` that of the sign test. Of questions judged right or wrong (`kind` "share"), of those
    with a score alone ("score"), or of texts whose likelihood was measured ("nats", a token: there less is better).
    `condition` is how they were put, where a task puts its questions in several ways: a mode, or a system line.
    """

    condition: str
    kind: str
    wins: int
    losses: int
    same: int
    difference: float
    low: float | None
    high: float | None
    p: float


def duels(first: Run, second: Run) -> list[Duel]:
    """The second run against the first, apart for each condition; none where they have no judged questions in common.

    A question that was asked several times is one, with the mean of its values: its answers are not independent.
    """
    before, after = _questions(first), _questions(second)
    changes: dict[tuple[str, str], list[float]] = defaultdict(list)
    for place, values in after.items():
        if place in before:
            changes[place[:2]].append(fmean(values) - fmean(before[place]))
    found = []
    for condition in dict.fromkeys(condition for condition, _ in changes):
        for kind, sign in (("share", 1), ("score", 1), ("nats", -1)):
            if own := changes.get((condition, kind)):
                wins, losses = (sum(way * sign * one > 0 for one in own) for way in (1, -1))
                mean, *ends = mean_interval(own)
                low, high = ends if min(own) < max(own) else (None, None)
                same = len(own) - wins - losses
                found.append(Duel(condition, kind, wins, losses, same, mean, low, high, sign_test(wins, losses)))
    return found


def _questions(run: Run) -> dict[tuple[str, str, str], list[float]]:
    """The values of each question's records, by condition, kind of value and question."""
    found: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for key, record in (run.records or {}).items():
        kind, value = _value(record)
        condition = _first([record], "mode") or _first([record], "system_line")
        # Of a text whose likelihood was measured, what follows # is another part and no repetition.
        question = _first([record], "id") or (key if kind == "nats" else _REPEATED.sub("", key))
        if kind:
            found[condition, kind, question].append(value)
    return found


def _value(record: Record) -> tuple[str, float]:
    right, score = record.get("right"), finite(record.get("score"))
    if isinstance(right, bool):
        return "share", float(right)
    if score is not None:
        return "score", score
    nats, tokens = finite(record.get("nats")), finite(record.get("tokens"))
    if nats is not None and tokens is not None and tokens > 0:
        return "nats", nats / tokens
    return "", 0.0


def examples(comparison: Comparison, models: Models, texts: Texts) -> list[Example]:
    """Items to show: of each language a few of each kind of outcome, in the order of their keys' SHA-256.

    So the choice depends on the items and on which were answered right, and on nobody's taste.
    """
    runs = [run for run in comparison.runs if run.records]
    rows: dict[str, list[Record | None]] = {}
    for run in runs:
        for key in run.records or {}:
            rows.setdefault(key, [(one.records or {}).get(key) for one in runs])
    left: dict[str, Counter[str]] = defaultdict(lambda: Counter(_SHOWN))
    chosen: list[tuple[str, str, str]] = []
    for key in sorted(rows, key=lambda key: hashlib.sha256(key.encode("utf-8", "replace")).digest()):
        row = rows[key]
        outcome, language = _outcome(row), _first(row, "language")
        if outcome and left[language][outcome] > 0:
            left[language][outcome] -= 1
            chosen.append((language, outcome, key))
    order = list(_SHOWN)
    languages = example_languages({one for one, _, _ in chosen}, texts)
    chosen.sort(key=lambda one: (languages.index(one[0]), order.index(one[1])))  # stable: by hash within
    return [_example(key, rows[key], runs, outcome, models, texts) for _, outcome, key in chosen]


def example_languages(found: Set[str], texts: Texts) -> list[str]:
    """The order of examples: those in the page's own language first."""
    own = [texts.language, *sorted({"zh", "en"} - {texts.language})]
    return [*own, *sorted(found - set(own))]


def _outcome(row: Sequence[Record | None]) -> str:
    """How an item came out, as a key of _SHOWN; "" for one with nothing to show."""
    there = [record for record in row if record is not None]
    if not any(isinstance(record.get("answer"), str) for record in there):
        return ""
    verdicts = {record.get("right") for record in there if isinstance(record.get("right"), bool)}
    if not verdicts:
        return "other"
    return "differ" if len(verdicts) > 1 else "right" if verdicts == {True} else "wrong"


def _first(row: Sequence[Record | None], field: str) -> str:
    """A field's text from the first record that has it."""
    return next((record[field] for record in row if record and isinstance(record.get(field), str)), "")


def _example(
    key: str, row: Sequence[Record | None], runs: Sequence[Run], outcome: str, models: Models, texts: Texts
) -> Example:
    told = {
        "differ": texts("report.outcome_differ"),
        "right": texts("report.outcome_right"),
        "wrong": texts("report.outcome_wrong"),
        "other": "",
    }[outcome]
    answers = (
        _answer(record, (models.name(run.model), models.index(run.model)), texts)
        for run, record in zip(runs, row, strict=True)
    )
    return heading_of(key, row, told, _joined(answers), texts)


def heading_of(key: str, row: Sequence[Record | None], told: str, answers: tuple[Answer, ...], texts: Texts) -> Example:
    """An example of an item: its key, language and kind, `told`, the question and what was expected."""
    language, kind = _first(row, "language"), _first(row, "kind")
    parts = [language_name(texts, language) if language else "", known(texts, "group", kind) if kind else "", told]
    question, note = shortened(_first(row, "question"), LONGEST_QUESTION, texts)
    expected, _ = shortened(_first(row, "expected"), LONGEST_ANSWER, texts)
    return Example(
        title=" · ".join([name(key), *filter(None, parts)]),
        question="\n".join(filter(None, [question, note and f"({note})"])),
        expected=expected,
        answers=answers,
        language=language if language in ("zh", "en") else "",
    )


def side_text(text: str, texts: Texts) -> tuple[str, str]:
    """An answer as it is shown, and a note where it was cut."""
    text, note = shortened(text, LONGEST_ANSWER, texts)
    return text if text.strip() else texts("report.empty"), note


def _joined(answers: Iterable[Answer]) -> tuple[Answer, ...]:
    """Answers that are the same in everything become one, of several models."""
    owners: dict[Answer, list[tuple[str, int]]] = {}
    for one in answers:
        owners.setdefault(replace(one, models=()), []).extend(one.models)
    return tuple(replace(one, models=tuple(models)) for one, models in owners.items())


def _answer(record: Record | None, model: tuple[str, int], texts: Texts) -> Answer:
    if record is None:
        return Answer((model,), "", texts("report.not_measured"), "")
    if "error" in record:
        error = record["error"] if isinstance(record["error"], Mapping) else {"message": record["error"]}
        message, note = shortened(str(error.get("message", "")), LONGEST_ANSWER, texts)
        return Answer((model,), "error", texts("report.failed"), message, note)
    kind, value = _value(record)
    verdict, told = "", []
    if kind == "share":
        verdict = "right" if value else "wrong"
        told.append(texts("report.right") if value else texts("report.wrong"))
    if kind == "score":
        told.append(texts("report.score", score=number(value, "score")))
    why = record.get("why")
    if isinstance(why, str) and why:
        told.append(name(why))
    answer = record.get("answer")
    text, note = side_text(answer, texts) if isinstance(answer, str) else ("", "")
    return Answer((model,), verdict, " · ".join(told), text, note)
