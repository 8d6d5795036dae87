"""The task: each question under each system line, what the judge says of the answers, and the shares of it.

An answer is right if all its parts are: it gives the right name, claims none of the wrong ones, names the right
developer where that is asked, and does not say yes where no is right. Knows questions and verdicts; knows no model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ...config import SamplingOptions
from ...engine import Answer
from ...prompts import Turn
from ..asking import Ask
from ..ordering import spread
from ..results import Metric
from ..statistics import wilson
from .judge import RULES, judge
from .questions import Question

# What a condition is called in keys and tables, and the system line of its items: None is the template's own.
CONDITIONS: Mapping[str, str | None] = {"with": None, "without": ""}
_TITLES = {"with": "system line", "without": "no system line"}
# The parts of a verdict: what tables call it, its value in a record (None: not asked), and which is better.
_PARTS: Sequence[tuple[str, Callable[[Mapping[str, Any]], bool | None], str]] = (
    ("right", lambda record: record["right"], "higher"),
    ("names itself", lambda record: record["verdict"]["name"], "higher"),
    ("names its developer", lambda record: record["verdict"]["developer"], "higher"),
    ("names its base or another", lambda record: bool(record["verdict"]["forbidden"]), "lower"),
    ("wrong yes or no", lambda record: {True: False, False: True}.get(record["verdict"]["reply"]), "lower"),
)


class Identity:
    """The questions under `conditions`, answered with `sampling`; `left_out` counts the file's broken lines."""

    name = "identity"

    def __init__(
        self,
        path: Path,
        questions: Sequence[Question],
        conditions: Sequence[str],
        sampling: SamplingOptions,
        left_out: int = 0,
    ) -> None:
        self.data = [path]
        self.settings: Mapping[str, Any] = {"sampling": asdict(sampling), "judge": RULES}
        self._questions, self._conditions, self._sampling = questions, conditions, sampling
        self._left_out = left_out

    def items(self) -> list[Ask]:
        """Every question under every condition, so ordered that the first ones are of all languages and kinds."""
        return [
            Ask(
                f"{number:04}/{condition}",
                (Turn(question.instruction, input=question.input),),
                system=CONDITIONS[condition],
                sampling=self._sampling,
                about=(question, condition),
            )
            for number, question in spread(self._questions, lambda one: one.language, lambda one: one.kind)
            for condition in self._conditions
        ]

    def record(self, item: Ask, outcome: Answer) -> dict[str, Any]:
        """The answer and the verdict on it, whole and in its parts."""
        question, condition = item.about
        verdict = judge(outcome.text, question.expect)
        return {
            "language": question.language,
            "kind": question.kind,
            "system_line": condition,
            "question": question.text,
            "expected": question.wanted,
            "answer": outcome.text,
            "right": not verdict.why,
            "why": verdict.why,
            "verdict": {
                "name": verdict.name,
                "developer": verdict.developer,
                "forbidden": list(verdict.forbidden),
                "reply": verdict.reply,
            },
            "finish_reason": outcome.finish_reason,
        }

    def summarise(self, records: Sequence[Mapping[str, Any]]) -> tuple[list[Metric], list[str]]:
        """Shares with Wilson's intervals, apart for each system line: of all, by language, and by what is asked."""
        judged = [one for one in records if "error" not in one]
        metrics: list[Metric] = []
        for condition in self._conditions:
            own = [one for one in judged if one["system_line"] == condition]
            metrics += _figures(own, _TITLES[condition])
            for language in sorted({one["language"] for one in own}):
                some = [one for one in own if one["language"] == language]
                right, *parts = _figures(some, _TITLES[condition], language)
                metrics += [right, *(replace(part, detail=True) for part in parts)]
            for kind in sorted({one["kind"] for one in own}):
                some = [one for one in own if one["kind"] == kind]
                metrics.append(replace(_figures(some, f"{_TITLES[condition]}: {kind}")[0], detail=True))
        return metrics, self._notes(judged)

    def _notes(self, judged: Sequence[Mapping[str, Any]]) -> list[str]:
        notes = [
            "intervals are Wilson's, 95%; right: all that the question asks for is right, by rules on the text alone"
        ]
        if len(self._conditions) > 1:
            notes.append(
                "with the system line a model answers as it was trained and is used; but the line may name who made it "
                "(StellarSpeak's does), which can then be read off it; without it nothing can"
            )
        if empty := sum(not one["answer"].strip() for one in judged):
            notes.append(f"{empty} of {len(judged)} answers are empty")
        if self._left_out:
            notes.append(f"{self._left_out} broken lines of {self.data[0].name} were left out")
        return notes


def _figures(records: Sequence[Mapping[str, Any]], group: str, language: str = "") -> list[Metric]:
    """The shares of some records, `right` first; a part that none of them was asked for is left out."""
    found = []
    for name, part, better in _PARTS:
        values = [value for value in map(part, records) if value is not None]
        if values:
            right = sum(values)
            low, high = wilson(right, len(values))
            share = right / len(values)
            found.append(Metric(name, share, group, low, high, len(values), better=better, language=language))
    return found
