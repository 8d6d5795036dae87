"""How long rows are for training: tokens of prompt and answer, what exceeds the cutoff, whether the end is learned.

Measures the ids that training learns from. Without a base it counts characters, which no cutoff can be held against.
"""

from __future__ import annotations

import math
import statistics
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from stellar_local.prompts import Special, Template

from ..corpus import Triple
from ..dataset import encode
from ..tokenizer import Tokenizer


@dataclass(frozen=True)
class Length:
    """One row: `answer` includes the end token, `ends` says whether that is the last thing learned, and only that."""

    prompt: int
    answer: int
    ends: bool

    @property
    def total(self) -> int:
        """The whole sample."""
        return self.prompt + self.answer


class Ruler:
    """Measures rows under a template: in tokens with a tokenizer, else in characters of the row's own texts."""

    def __init__(self, template: Template, tokenizer: Tokenizer | None, cutoff: int) -> None:
        self.template, self.tokenizer, self.cutoff = template, tokenizer, cutoff
        self.unit = "characters" if tokenizer is None else "tokens"
        token = next((part.token for part in template.assistant.suffix if isinstance(part, Special)), None)
        self._end = tokenizer.special(token) if tokenizer is not None and token is not None else None

    def measure(self, row: Triple) -> Length:
        """Raises UsageError where the template does not fit the vocabulary."""
        if self.tokenizer is None:
            return Length(len(row.instruction) + len(row.input), len(row.output), True)
        sample, _ = encode(row, self.template, self.tokenizer)
        learned = sample.ids[sample.first :]
        ends = self._end is not None and learned[-1:] == [self._end] and learned.count(self._end) == 1
        return Length(sample.first, len(learned), ends)


@dataclass
class Lengths:
    """The lengths of many rows. `over`: rows longer than the cutoff; `cut`: answer tokens that lie beyond it;
    `bare`: rows that have no answer token before it; `ended`: rows within it whose end token is learned.
    """

    prompts: array[int] = field(default_factory=lambda: array("I"))
    answers: array[int] = field(default_factory=lambda: array("I"))
    over: int = 0
    cut: int = 0
    bare: int = 0
    ended: int = 0

    def add(self, length: Length, cutoff: int | None) -> None:
        """Count one row; `cutoff` is None where there is none to hold it against."""
        self.prompts.append(length.prompt)
        self.answers.append(length.answer)
        if cutoff is None:
            return
        self.bare += length.answer < 1 or length.prompt >= cutoff
        if length.total > cutoff:
            self.over += 1
            self.cut += min(length.answer, length.total - cutoff)
        elif length.ends:
            self.ended += 1

    def totals(self) -> list[int]:
        """The length of each sample."""
        return [prompt + answer for prompt, answer in zip(self.prompts, self.answers, strict=True)]


def summary(values: Sequence[int]) -> dict[str, float]:
    """min, median, mean, p90, p99 and max. A percentile is the smallest value that so many are not above."""
    ordered = sorted(values)

    def percentile(share: float) -> int:
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)]

    return {
        "min": ordered[0],
        "median": statistics.median(ordered),
        "mean": round(statistics.fmean(ordered), 1),
        "p90": percentile(0.9),
        "p99": percentile(0.99),
        "max": ordered[-1],
    }
