"""Who won: figures and notes of records that say who won each question. Knows records; knows no judge."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..results import Metric
from ..statistics import Z, mean_interval, sign_test, wilson
from .verdicts import CUT, TIE, UNCLEAR, A, B, first_place

WORTH = {A: 1.0, TIE: 0.5, B: 0.0}  # of a question to the first model
_POWER = 0.8416212335729143  # the normal distribution's 80% point: four runs of five would tell
_TOLD = 0.05  # the probability below which a result is no chance
_FEW = 30  # questions, under which an interval is itself a rough one

Record = Mapping[str, Any]


def figures(records: Sequence[Record]) -> list[Metric]:
    """The figures of records; those with an error have no winner and do not count.

    The win rate is the first model's: the share of questions it won, ties counted half (FastChat's win_rate_adjusted).
    """
    judged = [record for record in records if "error" not in record]
    wins, ties, losses = (sum(record["winner"] == who for record in judged) for who in (A, TIE, B))
    count = len(judged)
    p = sign_test(wins, losses)
    metrics = [
        _rate(judged),
        Metric("wins", wins, n=count, kind="count", better=""),
        Metric("ties", ties, n=count, kind="count", better=""),
        Metric("losses", losses, n=count, kind="count", better=""),
        Metric("sign test, p", p, n=wins + losses, kind="text", better="", text=f"{p:.3g}"),
    ]
    metrics += _of_models(judged)
    for language in _several(judged, "language"):
        metrics.append(_rate([record for record in judged if record.get("language") == language], language=language))
    for kind in _several(judged, "kind"):
        metrics.append(_rate([record for record in judged if record.get("kind") == kind], kind))
    return metrics


def _several(judged: Sequence[Record], field: str) -> list[str]:
    """The languages or kinds of questions, in order of appearance, where there are several."""
    found = list(dict.fromkeys(str(record.get(field) or "") for record in judged))
    return [name for name in found if name] if len(found) > 1 else []


def _rate(judged: Sequence[Record], group: str = "", language: str = "") -> Metric:
    values = [WORTH[record["winner"]] for record in judged]
    if not values:
        return Metric("win rate", None, group, language=language)
    mean, low, high = _interval(values)
    return Metric("win rate", mean, group, low, high, len(values), language=language)


def _interval(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """The mean and its 95% interval: the bootstrap's, or Wilson's where all values are equal, of which a bootstrap
    draws no others. One question has none.
    """
    mean, low, high = mean_interval(values)
    if len(values) < 2:
        return mean, None, None
    return (mean, low, high) if min(values) < max(values) else (mean, *wilson(sum(values), len(values)))


def _of_models(judged: Sequence[Record]) -> list[Metric]:
    """What a judging model's games show beside the winners: scores, and how much the places of answers weigh."""
    games = [game for record in judged for game in record.get("games", ())]
    metrics: list[Metric] = []
    for model in (A, B):
        scores = [_mean_score(record, model) for record in judged]
        known = [score for score in scores if score is not None]
        if known:
            mean, *ends = mean_interval(known)
            low, high = ends if min(known) < max(known) else (None, None)  # equal scores say nothing of their spread
            name = f"mean score of {model.upper()}"
            metrics.append(Metric(name, mean, low=low, high=high, n=len(known), kind="score", better=""))
    first, second = first_place(games)
    if first + second:
        metrics.append(Metric("won from the first place", first / (first + second), n=first + second, better=""))
    twice = [record["games"] for record in judged if len(record.get("games", ())) == 2]
    if twice:
        other = sum(one["winner"] != two["winner"] for one, two in twice)
        metrics.append(Metric("the two orders disagree", other / len(twice), n=len(twice), better="lower"))
    return metrics


def _mean_score(record: Record, model: str) -> float | None:
    """A model's score on a question, the mean of its games."""
    scores = [game[f"score_{model}"] for game in record.get("games", ()) if f"score_{model}" in game]
    return sum(scores) / len(scores) if scores else None


def notes(records: Sequence[Record], a: str, b: str) -> list[str]:
    """What should be said about the figures, in sentences: whether they can tell the models apart, what is missing."""
    judged = [record for record in records if "error" not in record]
    found = [certainty([WORTH[record["winner"]] for record in judged], a, b)] if judged else []
    if same := sum(bool(record.get("same")) for record in judged):
        found.append(f"{same} questions on which both said the same count as ties, unjudged")
    for name, field in ((a, "a"), (b, "b")):
        if silent := sum(_is_silent(record.get(field)) for record in records):
            found.append(f"{name} said nothing to {silent} of {len(records)} questions")
    kinds = [record["error"]["type"] for record in records if "error" in record]
    if unclear := kinds.count(UNCLEAR):
        found.append(f"{unclear} of {len(records)} questions are left out: the judge's last line holds no verdict")
    if cut := kinds.count(CUT):
        found.append(
            f"{cut} of {len(records)} questions are left out: cut judgements; --judge-max-tokens allows longer"
        )
    if other := len(kinds) - unclear - cut:
        found.append(f"{other} of {len(records)} questions are left out: not answered, not judged, or failed")
    return found


def _is_silent(answers: Any) -> bool:
    return isinstance(answers, (list, tuple)) and not any(str(answer).strip() for answer in answers)


def certainty(values: Sequence[float], a: str, b: str) -> str:
    """Whether a win rate tells two models apart, in words; and how many questions would tell where it does not.

    `values` are what each question was worth to `a`: 1, 0.5 or 0.
    """
    mean, low, high = _interval(values)
    count, p = len(values), sign_test(sum(value == 1 for value in values), sum(value == 0 for value in values))
    spread, sure = "of one question, which has no interval", False
    if low is not None and high is not None:
        spread, sure = f"({100 * low:.1f} to {100 * high:.1f})", (low > 0.5 or high < 0.5) and p < _TOLD
    said = f"the win rate of {a} is {100 * mean:.1f}% {spread}, sign test p = {p:.2g}"
    if sure:
        few = f"; {count} questions are few, though: more would make it surer" if count < _FEW else ""
        return f"{a if mean > 0.5 else b} is better: {said}{few}"
    sentence = f"this sample is too small to tell {a} and {b} apart: {said}"
    needed = questions_needed(values)
    if needed is None:
        half = 100 * Z * 0.5 / math.sqrt(count)
        return f"{sentence}; {count} questions can show a difference of about {half:.0f} points or more"
    # Fewer than six that somebody won never convince the sign test.
    least = math.ceil(6 * count / max(sum(value != WORTH[TIE] for value in values), 1))
    return f"{sentence}; to tell a difference of this size takes about {max(needed, least, count + 1):,} questions"


def questions_needed(values: Sequence[float]) -> int | None:
    """How many questions would tell a difference of the size seen from none, four times out of five, at 5%.

    None where none was seen.
    """
    array = np.asarray(values, np.float64)
    difference = abs(float(array.mean()) - 0.5)
    if difference < 1e-9:
        return None
    return math.ceil(((Z + _POWER) * float(array.std()) / difference) ** 2)
