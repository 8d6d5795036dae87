"""Figures of Astro-QA's records: of each kind and language, of each subfield, and the published composite.

A record has mode, id, place, language, kind, subfield, gold (letters, true or false, tuples), found (the same, or None)
and why; of an answer, its sample, answer and finish_reason, of a multiple choice the letters as written; right where
there is a right or wrong, score where there are points. Questions are the units of all intervals, however often each is
asked. Knows records alone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..results import Metric
from ..statistics import mean_interval, ratio_interval, wilson
from ..text_scores import bleu, chrf, length_ratio
from . import official, scoring
from .questions import FREE, JUDGMENT, KINDS, LANGUAGES, MATCHING, MULTI, SINGLE

Record = Mapping[str, Any]
_GENERATED, _RATED = "accuracy, generated", "accuracy, likelihood"
_OBJECTIVE = (*SINGLE, JUDGMENT)
_OFFICIAL = "official"
_VALUES: Mapping[str, Mapping[str, str]] = {"zh": {"true": "对", "false": "错"}, "en": {}}


def figures(records: Sequence[Record], with_official: bool) -> tuple[list[Metric], list[str]]:
    """All figures with their 95% intervals, and notes on how they were made."""
    metrics: list[Metric] = []
    notes: list[str] = []
    for language in LANGUAGES:
        own = [one for one in records if one["language"] == language]
        objective = [one for one in own if one["kind"] in _OBJECTIVE]
        metrics += _accuracies(objective, "objective types", language)
        for kind in KINDS:
            some = [one for one in own if one["kind"] == kind]
            if some:
                metrics += _of_kind(kind, language, some, notes)
        for subfield in sorted({one["subfield"] for one in own} - {""}):
            metrics += _of_subfield(subfield, language, [one for one in own if one["subfield"] == subfield])
        if with_official and own:
            metrics += _official(own, language, notes)
    samples = Counter(one["id"] for one in records if one["mode"] == "generation")
    if samples and max(samples.values()) > 1:
        notes.append("accuracies and points are means over a question's samples; questions are the units of intervals")
    notes.append("intervals: 95%, Wilson's for shares of questions, else the percentile bootstrap over questions")
    if any(one["kind"] == MULTI for one in records):
        notes.append("multi has no likelihood: its answers are sets of options")
    return metrics, notes


def _generated(records: Sequence[Record]) -> dict[str, list[Record]]:
    """The answers to each question, by their samples."""
    found: dict[str, list[Record]] = {}
    for one in records:
        if one["mode"] == "generation":
            found.setdefault(one["id"], []).append(one)
    return {key: sorted(own, key=lambda one: one["sample"]) for key, own in found.items()}


def _accuracies(records: Sequence[Record], group: str, language: str, detail: bool = False) -> list[Metric]:
    """How many are right: as generated, in any of several samples, and by likelihood."""
    asked = _generated(records)
    metrics = []
    if asked:
        metrics.append(_mean(_GENERATED, asked, lambda one: float(one["right"]), group, language, detail))
        samples = max(map(len, asked.values()))
        if samples > 1:
            hits = sum(any(one["right"] for one in own) for own in asked.values())
            name = f"right in any of {samples} samples"
            metrics.append(_share(name, hits, len(asked), group, language, detail))
    rated = [one for one in records if one["mode"] == "likelihood"]
    if rated:
        hits = sum(one["right"] for one in rated)
        metrics.append(_share(_RATED, hits, len(rated), group, language, detail))
    return metrics


def _share(name: str, hits: int, total: int, group: str, language: str, detail: bool = False) -> Metric:
    low, high = wilson(hits, total)
    return Metric(name, hits / total, group, low, high, total, language=language, detail=detail)


def _mean(
    name: str,
    asked: Mapping[str, Sequence[Record]],
    value: Callable[[Record], float],
    group: str,
    language: str,
    detail: bool = False,
    kind: str = "share",
) -> Metric:
    """A mean over questions of their answers' mean value.

    Its interval is Wilson's where each question has 0 or 1, and where all have the same, which the bootstrap would take
    for certain; none of one question that has neither 0 nor 1.
    """
    means = [sum(map(value, own)) / len(own) for own in asked.values()]
    if kind == "share" and all(one in (0.0, 1.0) for one in means):
        return _share(name, int(sum(means)), len(means), group, language, detail)
    mean, low, high = _told(*mean_interval(means))
    if len(means) > 1 and max(means) == min(means):
        most = 1.0 if kind == "share" else 100.0
        low, high = (most * end for end in wilson(sum(means) / most, len(means)))
    return Metric(name, mean, group, low, high, len(means), kind, language=language, detail=detail)


def _told(value: float, low: float, high: float) -> tuple[float, float | None, float | None]:
    """A figure with its interval, or without: one question alone has none."""
    return (value, low, high) if math.isfinite(low) and math.isfinite(high) else (value, None, None)


def _of_kind(kind: str, language: str, records: Sequence[Record], notes: list[str]) -> list[Metric]:
    asked = _generated(records)
    answers = [one for own in asked.values() for one in own]
    if kind in _OBJECTIVE:
        metrics = _accuracies(records, kind, language)
    elif not answers:
        return []
    elif kind == MULTI:
        metrics = [
            _mean("exactly right", asked, lambda one: float(one["right"]), kind, language),
            _mean("points of 2", asked, lambda one: one["score"] / scoring.MOST, kind, language),
        ]
    elif kind == MATCHING:
        metrics = _matching(asked, language)
    else:
        metrics = _text(kind, language, asked, notes)
    if kind in (*_OBJECTIVE, MULTI):
        metrics.append(_majority(kind, language, records, notes))
    if answers:
        lost = [one for one in answers if one["found"] is None]
        name = "empty answers" if kind in FREE else "no answer found"
        low, high = wilson(len(lost), len(answers))
        metrics.append(
            Metric(name, len(lost) / len(answers), kind, low, high, len(answers), better="lower", language=language)
        )
        reasons = ", ".join(f"{count} × {why}" for why, count in Counter(one["why"] for one in lost).most_common())
        if lost and kind not in FREE:
            notes.append(f"{language} {kind}: no answer was found in {len(lost)} of {len(answers)}: {reasons}")
        cut = sum(one["finish_reason"] == "length" for one in answers)
        if cut and kind in (*FREE, MATCHING):
            notes.append(f"{language} {kind}: {cut} of {len(answers)} answers were cut at the most tokens")
    return metrics


def _majority(kind: str, language: str, records: Sequence[Record], notes: list[str]) -> Metric:
    """What always giving the most frequent right answer would get."""
    counts = Counter({one["id"]: one["gold"] for one in records}.values())
    (gold, count), total = counts.most_common(1)[0], counts.total()
    notes.append(f"{language} {kind}: the most frequent answer is {_VALUES[language].get(gold, gold)}")
    return Metric("most frequent answer", count / total, kind, n=total, better="", language=language)


def _matching(asked: Mapping[str, Sequence[Record]], language: str) -> list[Metric]:
    """Right tuples by all tuples, and questions all of whose tuples are right."""
    size = {key: len(own[0]["gold"]) for key, own in asked.items()}
    right = {key: sum(one["score"] for one in own) / len(own) * size[key] for key, own in asked.items()}
    share, low, high = _told(*ratio_interval(list(right.values()), list(size.values())))
    shares = {right[key] / size[key] for key in size}
    if len(size) > 1 and len(shares) == 1:
        low, high = wilson(share * len(size), len(size))
    chances = [count ** (2 - len(own[0]["gold"][0])) for count, own in zip(size.values(), asked.values(), strict=True)]
    chance = sum(chances) / sum(size.values())
    return [
        Metric("pairs right", share, MATCHING, low, high, len(asked), language=language),
        _mean("all pairs right", asked, lambda one: float(one["right"]), MATCHING, language),
        Metric("pairs right by chance", chance, MATCHING, n=len(asked), better="", language=language),
    ]


def _text(kind: str, language: str, asked: Mapping[str, Sequence[Record]], notes: list[str]) -> list[Metric]:
    """Scores of all questions' answers as a corpus; of several samples the means of the corpora that they make."""
    runs = [[own[run] for own in asked.values() if run < len(own)] for run in range(_runs(asked))]
    texts = [([one["answer"].strip() for one in own], [one["expected"] for one in own]) for own in runs]
    scores = {
        "chrF": [chrf(said, wanted) for said, wanted in texts],
        "BLEU": [bleu(said, wanted, language) for said, wanted in texts],
    }
    notes += [f"{language} {kind} {name}: {own[0].signature}" for name, own in scores.items()]
    metrics = []
    for name, own in scores.items():
        value, low, high = _means([(one.value, one.low, one.high) for one in own])
        metrics.append(Metric(name, value, kind, low, high, len(asked), "score", language=language))
    ratio, low, high = _means([length_ratio(said, wanted) for said, wanted in texts])
    name = "length of the references'"
    return [*metrics, Metric(name, ratio, kind, low, high, len(asked), better="", language=language)]


def _means(
    rows: Sequence[tuple[float, float | None, float | None]],
) -> tuple[float, float | None, float | None]:
    """The mean of figures, and of their intervals' ends where all have some."""
    value = sum(row[0] for row in rows) / len(rows)
    lows, highs = ([row[place] for row in rows if row[place] is not None] for place in (1, 2))
    if min(len(lows), len(highs)) < len(rows):
        return value, None, None
    return value, sum(filter(None, lows)) / len(rows), sum(filter(None, highs)) / len(rows)


def _runs(asked: Mapping[str, Sequence[Record]]) -> int:
    return max(map(len, asked.values()), default=0)


def _of_subfield(subfield: str, language: str, records: Sequence[Record]) -> list[Metric]:
    metrics = _accuracies([one for one in records if one["kind"] in _OBJECTIVE], subfield, language, detail=True)
    multi = _generated([one for one in records if one["kind"] == MULTI])
    if multi:
        value: Callable[[Record], float] = lambda one: one["score"] / scoring.MOST  # noqa: E731
        metrics.append(_mean("multi: points of 2", multi, value, subfield, language, True))
    free = _generated([one for one in records if one["kind"] in FREE])
    if free:
        metrics.append(
            _mean("mean chrF of texts", free, lambda one: float(one["score"]), subfield, language, True, "score")
        )
    return metrics


def _official(records: Sequence[Record], language: str, notes: list[str]) -> list[Metric]:
    """The published scores, and their composite."""
    scores: dict[str, float] = {}
    metrics: list[Metric] = []
    failed = 0

    def add(name: str, value: float, count: int, kind: str = "score") -> None:
        metrics.append(Metric(name, value, _OFFICIAL, n=count, kind=kind, language=language))

    for kind in KINDS:
        some = [one for one in records if one["kind"] == kind and one["place"] <= official.ROWS[kind]]
        asked = _generated(some)
        if not asked:
            continue
        runs = _runs(asked)
        gold = [own[0]["gold"] for own in asked.values()]
        said = [[_said(kind, own, run) for run in range(1, runs + 1)] for own in asked.values()]
        if kind in _OBJECTIVE:
            found = official.choices(gold, said)
            scores[kind] = found.weighted
            add(f"{kind} Top-1", found.top_1, len(asked), "share")
            if runs > 1:
                add(f"{kind} Top-{runs}", found.top_any, len(asked), "share")
        elif kind == MULTI:
            scores[kind] = official.multiple(gold, said)
            add(f"{kind} points", scores[kind], len(asked))
        elif kind == MATCHING:
            right = [[tuple(pair) for pair in pairs] for pairs in gold]
            scores[kind], any_run = official.matching(right, said)
            add(f"{kind} Top-1", scores[kind], len(asked), "share")
            if runs > 1:
                add(f"{kind} Top-{runs}", any_run, len(asked), "share")
        else:
            text = official.text([own[0]["expected"] for own in asked.values()], said)
            scores[kind], failed = text.score, failed + text.failed
            add(f"{kind} score", text.score, len(asked))
            for name in ("bleu_1", "rouge_1", "rouge_2", "rouge_l"):
                part = getattr(text, name)
                metrics.append(Metric(f"{kind} {name}", part, _OFFICIAL, n=len(asked), language=language, detail=True))
    if not scores:
        return []
    add("DGscore, all weights 1", official.composite(scores), len({one["id"] for one in records}))
    _official_notes(language, scores, failed, notes)
    return metrics


def _said(kind: str, own: Sequence[Record], run: int) -> Any:
    """What the published script is given of an answer: what was found in it, or its text; "" where there is none."""
    answer = next((one for one in own if one["sample"] == run), None)
    if kind == MATCHING:
        return [tuple(pair) for pair in (answer["found"] or [])] if answer else []
    if answer is None:
        return ""
    if kind in FREE:
        return answer["answer"]
    return (answer["written"] if kind == MULTI else answer["found"]) or ""


def _official_notes(language: str, scores: Mapping[str, float], failed: int, notes: list[str]) -> None:
    absent = [kind for kind in KINDS if kind not in scores]
    if absent:
        notes.append(f"official, {language}: DGscore lacks {', '.join(absent)}")
    if failed:
        notes.append(f"official, {language}: rouge raises on {failed} answers, which count as 0")
    note = (
        "official: as the published script scores, its faults included, of the answers found here; its weights of "
        "difficulty are unpublished, so all weigh 1, and weighted scores cannot be had"
    )
    if note not in notes:
        notes.append(note)
