"""The task: every instruction answered, and the answers of each language scored against the references.

chrF comes first, since it needs no words; BLEU has the language's own tokenizer; the ratio of the lengths tells a low
score of short answers from one of wrong ones. Knows references and scores; knows no model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...config import SamplingOptions
from ...engine import Answer
from ...prompts import Turn
from ..asking import Ask
from ..ordering import spread
from ..results import Metric
from ..text_scores import Score, bleu, chrf, length_ratio, require_sacrebleu, sentence_bleu, sentence_chrf
from .triples import Reference

_RULES = 1  # of how rows are read and answers scored, which a log depends on


class FreeText:
    """The references, answered with `sampling` under `system` (None: the template's own line)."""

    name = "text"

    def __init__(
        self,
        paths: Sequence[Path],
        references: Sequence[Reference],
        sampling: SamplingOptions,
        system: str | None = None,
        left_out: int = 0,
    ) -> None:
        require_sacrebleu()
        self.data = list(paths)
        self.settings: Mapping[str, Any] = {"sampling": asdict(sampling), "system": system, "rules": _RULES}
        self._references, self._sampling, self._system = references, sampling, system
        self._left_out = left_out

    def items(self) -> list[Ask]:
        """One for each reference, the languages and kinds in turn."""
        return [
            Ask(
                f"{number:05}",
                (Turn(one.instruction, input=one.input),),
                system=self._system,
                sampling=self._sampling,
                about=one,
            )
            for number, one in spread(self._references, lambda one: one.language, lambda one: one.kind)
        ]

    def record(self, item: Ask, outcome: Answer) -> dict[str, Any]:
        """The answer beside its reference; `score` is its own chrF and `bleu` its own BLEU, both 0 to 100."""
        reference, answer = item.about, outcome.text.strip()
        return {
            "language": reference.language,
            "kind": reference.kind,
            "question": f"{reference.instruction} {reference.input}".strip(),
            "expected": reference.output,
            "answer": answer,
            "score": round(sentence_chrf(answer, reference.output), 3),
            "bleu": round(sentence_bleu(answer, reference.output, reference.language), 3),
            "why": "" if answer else "empty answer",
            "finish_reason": outcome.finish_reason,
        }

    def summarise(self, records: Sequence[Mapping[str, Any]]) -> tuple[list[Metric], list[str]]:
        """The scores of each language as a corpus, and chrF of each kind of question in it."""
        answered = [one for one in records if "error" not in one]
        metrics: list[Metric] = []
        notes: list[str] = []
        for language in sorted({one["language"] for one in answered}):
            own = [one for one in answered if one["language"] == language]
            answers, references = [one["answer"] for one in own], [one["expected"] for one in own]
            scores = {"chrF": chrf(answers, references), "BLEU": bleu(answers, references, language)}
            metrics += [_scored(name, score, len(own), language) for name, score in scores.items()]
            ratio, low, high = length_ratio(answers, references)
            metrics.append(
                Metric("length of the references'", ratio, "", low, high, len(own), better="", language=language)
            )
            notes += [f"{language} {name}: {score.signature}" for name, score in scores.items()]
            kinds = sorted({one["kind"] for one in own} - {""})
            for kind in kinds if len(kinds) > 1 else []:
                some = [one for one in own if one["kind"] == kind]
                score = chrf([one["answer"] for one in some], [one["expected"] for one in some])
                metrics.append(_scored("chrF", score, len(some), language, kind))
        empty = sum(not one["answer"] for one in answered)
        cut = sum(one["finish_reason"] == "length" for one in answered)
        metrics += [
            Metric("empty answers", empty, n=len(answered), kind="count", better="lower"),
            Metric("answers cut at the most tokens", cut, n=len(answered), kind="count", better="lower"),
        ]
        if self._left_out:
            notes.append(f"{self._left_out} broken rows of the data were left out")
        return metrics, [*notes, "intervals are the 95% percentile bootstrap over items"] if answered else notes


def _scored(name: str, score: Score, count: int, language: str, kind: str = "") -> Metric:
    return Metric(name, score.value, kind, score.low, score.high, count, "score", language=language, detail=bool(kind))
