"""The task: each question asked once or several times, and its options rated; what each answer says, and its points.

Knows questions, wording and scoring; figures are made of the records by `figures`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ...config import SamplingOptions
from ...engine import Answer
from ...prompts import Turn
from ..asking import Ask, Rate, Rated
from ..ordering import spread
from ..results import Metric
from ..text_scores import require_sacrebleu, sentence_bleu, sentence_chrf
from . import letters, official, prompts, questions, scoring, tuples, verdicts
from .figures import figures
from .questions import Loaded, Question

GENERATION, LIKELIHOOD = "generation", "likelihood"
_WORDING = 1  # of the prompts, which a log depends on
_RULES = 2  # by which answers are read, which it depends on too: a log has no verdicts by different rules
# Tokens of an answer: the answer comes first, and its explanation may be cut; texts are up to some 600 characters long.
_LONGEST = {**dict.fromkeys(questions.KINDS, 256), questions.MATCHING: 512, **dict.fromkeys(questions.FREE, 1024)}
_SEEDS = (1 << 32) - 1  # of the samplers: the last is no seed


class AstroQA:
    """Questions, each answered `samples` times with `sampling` (generation) and by its options (likelihood)."""

    name = "astro-qa"

    def __init__(
        self,
        loaded: Loaded,
        sampling: SamplingOptions,
        samples: int = 1,
        modes: Sequence[str] = (GENERATION, LIKELIHOOD),
        system: str | None = None,
        with_official: bool = False,
    ) -> None:
        """Raises MissingExtraError where what scores free text is not installed."""
        if any(question.kind in questions.FREE for question in loaded.questions):
            require_sacrebleu()
        if with_official:
            official.require()
        self.data: Sequence[Path] = loaded.files
        self.settings: Mapping[str, Any] = {
            "sampling": asdict(sampling),
            "longest": None if sampling.max_tokens else _LONGEST,
            "system": system,
            "wording": _WORDING,
            "rules": _RULES,
        }
        self._loaded, self._sampling, self._samples, self._modes = loaded, sampling, samples, modes
        self._system, self._official = system, with_official

    def items(self) -> list[Ask | Rate]:
        """The languages and kinds of questions in turn; of each question its options first, then its samples."""
        found: list[Ask | Rate] = []
        for _, question in spread(self._loaded.questions, lambda one: one.language, lambda one: one.kind):
            turns = (Turn(prompts.put(question)),)
            options = prompts.options_of(question)
            if LIKELIHOOD in self._modes and options:
                texts = tuple(options.texts.values())
                found.append(Rate(f"{question.key}#options", turns, texts, self._system, options.begun, question))
            if GENERATION in self._modes:
                found += [self._ask(question, number, turns) for number in range(1, self._samples + 1)]
        return found

    def _ask(self, question: Question, number: int, turns: tuple[Turn, ...]) -> Ask:
        key = f"{question.key}#{number}"
        digest = hashlib.sha256(f"{self._sampling.seed or 0} {key}".encode()).digest()
        sampling = replace(
            self._sampling,
            seed=int.from_bytes(digest[:4], "big") % _SEEDS,
            max_tokens=self._sampling.max_tokens or _LONGEST[question.kind],
        )
        return Ask(key, turns, self._system, sampling, about=question)

    def record(self, item: Ask | Rate, outcome: Any) -> dict[str, Any]:
        """What one answer, or the rating of a question's options, says and gets; see `figures` for the fields."""
        question: Question = item.about
        options = "\n".join(f"{letter}. {text}" for letter, text in question.options.items())
        about = {
            "mode": LIKELIHOOD if isinstance(item, Rate) else GENERATION,
            "id": question.key,
            "place": question.place,
            "language": question.language,
            "kind": question.kind,
            "subfield": question.subfield,
            "question": "\n".join(filter(None, [question.asked, options])),
            "expected": scoring.expected(question),
            "gold": question.right or [list(pair) for pair in question.pairs],
        }
        if isinstance(item, Rate):
            return {**about, **_rated(question, outcome)}
        return {
            **about,
            "sample": int(item.key.rpartition("#")[2]),
            "answer": outcome.text,
            **_answered(question, outcome),
            "finish_reason": outcome.finish_reason,
        }

    def summarise(self, records: Sequence[Mapping[str, Any]]) -> tuple[list[Metric], list[str]]:
        """The figures of each kind, language and subfield, and notes on how they were made."""
        metrics, notes = figures([one for one in records if "error" not in one], self._official)
        return metrics, [*notes, *self._loaded.told()]


def _rated(question: Question, outcome: Sequence[Rated]) -> dict[str, Any]:
    options = prompts.options_of(question)
    assert options is not None
    logprobs = {name: rated.logprob for name, rated in zip(options.texts, outcome, strict=True)}
    found = max(logprobs, key=lambda name: logprobs[name])
    return {
        "answer": options.begun + options.texts[found],
        "found": found,
        "right": found == question.right,
        "logprobs": {name: round(value, 4) for name, value in logprobs.items()},
    }


def _answered(question: Question, answer: Answer) -> dict[str, Any]:
    """What an answer says (`found`, the words `span`, or `why` nothing), whether it is right, and its score."""
    if question.kind in questions.FREE:
        text = answer.text.strip()
        return {
            "found": True if text else None,
            "score": round(sentence_chrf(text, question.reference), 3),
            "bleu": round(sentence_bleu(text, question.reference, question.language), 3),
            "why": "" if text else "it says nothing",
        }
    if question.kind == questions.MATCHING:
        pairs = tuples.pairs(answer.text, question.groups)
        right = scoring.matched(question.pairs, pairs.tuples)
        return {
            "found": [list(pair) for pair in pairs.tuples] or None,
            "right": right == len(question.pairs),
            "score": right / len(question.pairs),
            "why": pairs.why,
        }
    if question.kind == questions.JUDGMENT:
        found = verdicts.verdict(answer.text)
    else:
        read = letters.multiple if question.kind == questions.MULTI else letters.single
        found = read(answer.text, question.options)
    right = found.value == question.right
    points: dict[str, Any] = {}
    if question.kind == questions.MULTI:
        points = {"written": found.written, "score": scoring.points(question.right, found.value or "")}
    why = found.why
    if why and answer.finish_reason == "length":
        why += " before it was cut"
    return {"found": found.value, "span": found.span, "right": right, **points, "why": why}
