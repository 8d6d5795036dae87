"""Astro-QA's scores as its published script computes them (scripts/Astro-QA_eval_json.py, 2024), faults and all.

For comparison with published figures only; `scoring` has the rules without the faults. What it does that it should not:
it reads a fixed number of rows of each type; in multiple choices it counts a letter as often as it is written, so that
an answer can get more than the most, sees no E, and gives nothing for any other letter; of matching questions it counts
the first run instead of all, equal tuples of different questions once, and parts of items as items. Each question's
difficulty weight is unpublished: here all weigh 1. Knows no model and no file.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import MissingExtraError
from . import questions

ROWS = {  # of each type, that the script reads
    questions.SINGLE_4: 1161,
    questions.SINGLE_5: 402,
    questions.JUDGMENT: 317,
    questions.MULTI: 60,
    questions.TERMINOLOGY: 183,
    questions.SHORT_ANSWER: 231,
    questions.MATCHING: 78,
}
PAIRS = 355  # by which right tuples are divided
_WEIGHTS = {  # of each type in the composite
    questions.SINGLE_4: 1.0,
    questions.SINGLE_5: 1.2,
    questions.MULTI: 1.0,
    questions.JUDGMENT: 0.5,
    questions.MATCHING: PAIRS * 3.0,
    questions.TERMINOLOGY: 5.0,
    questions.SHORT_ANSWER: 5.0,
}
_DEEP = 20_000  # rouge goes as deep as two texts have words
Tuples = Sequence[tuple[str, ...]]


@dataclass(frozen=True)
class Choices:
    """Shares of right answers: the mean over runs, and questions right in any run; and the mean sum of weights."""

    top_1: float
    top_any: float
    weighted: float


@dataclass(frozen=True)
class Text:
    """Means over answers and runs: shares, but chrF from 0 to 100. `failed` are answers on which rouge raises."""

    bleu_1: float
    rouge_1: float
    rouge_2: float
    rouge_l: float
    chrf: float
    failed: int = 0

    @property
    def score(self) -> float:
        """The five in one, from 0 to 100."""
        shares = 0.3 * self.bleu_1 + 0.1 * self.rouge_1 + 0.15 * self.rouge_2 + 0.1 * self.rouge_l
        return 100 * shares + 0.35 * self.chrf


def choices(right: Sequence[str], answers: Sequence[Sequence[str]]) -> Choices:
    """Single choices and judgments: `answers` are each question's, one a run. Letters must stand alone to be right."""
    runs = max(map(len, answers))
    hits = [[answer.strip() == gold.strip() for answer in own] for gold, own in zip(right, answers, strict=True)]
    total = sum(map(sum, hits))
    return Choices(total / len(right) / runs, sum(map(any, hits)) / len(right), total / runs)


def points(right: str, answer: str) -> float:
    """The points of one answer to a multiple choice."""
    letters = [char for char in answer if char in "ABCD"]
    if any(letter not in right for letter in letters):
        return 0.0
    if sorted(right) == sorted(letters):
        return 2.0
    return 0.5 * len(letters)


def multiple(right: Sequence[str], answers: Sequence[Sequence[str]]) -> float:
    """The sum of points, the mean over runs."""
    runs = max(map(len, answers))
    return sum(points(gold, answer) for gold, own in zip(right, answers, strict=True) for answer in own) / runs


def matching(right: Sequence[Tuples], answers: Sequence[Sequence[Tuples]]) -> tuple[float, float]:
    """Right tuples by 355: what the script calls the mean over runs, and those right in any run."""
    runs = max(map(len, answers))
    kept: list[list[tuple[str, ...]]] = []  # the script adds a run's list once for each tuple that it looks at
    every: set[tuple[str, ...]] = set()
    for run in range(runs):
        found: list[tuple[str, ...]] = []
        for gold, own in zip(right, answers, strict=True):
            for given in own[run] if run < len(own) else ():
                if any(_within(given, wanted) for wanted in gold):
                    found.append(given)
                kept.append(found)
        every.update(found)
    counted = [len(set(found)) for found in kept[:runs]]  # so these are the first run's; the script fails if too few
    return sum(counted) / PAIRS / runs, len(every) / PAIRS


def _within(given: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    return len(given) <= len(wanted) and all(one in other for one, other in zip(given, wanted, strict=False))


def text(references: Sequence[str], answers: Sequence[Sequence[str]]) -> Text:
    """Terms and short answers: BLEU-1 by nltk and ROUGE by rouge on jieba's words, chrF by sacrebleu on the texts.

    Raises MissingExtraError.
    """
    runs = max(map(len, answers))
    scored = [_scores(gold, answer) for gold, own in zip(references, answers, strict=True) for answer in own]
    means = [sum(column) / len(references) / runs for column in zip(*(one[:5] for one in scored), strict=True)]
    return Text(means[0], means[1], means[2], means[3], means[4], sum(one[5] for one in scored))


def require() -> None:
    """Raise MissingExtraError unless what scores texts is installed."""
    for package in ("jieba", "nltk", "rouge", "sacrebleu"):
        try:
            __import__(package)
        except ImportError as error:
            raise MissingExtraError("eval", package, "the published score of free text") from error


def _scores(reference: str, answer: str) -> tuple[float, float, float, float, float, int]:
    require()
    import jieba
    from nltk.translate.bleu_score import sentence_bleu
    from rouge import Rouge
    from sacrebleu import corpus_chrf

    jieba.setLogLevel("ERROR")
    wanted, said = (" ".join(jieba.cut(text.strip())) for text in (reference, answer))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nltk's, where no word is right
        bleu = float(sentence_bleu([wanted.split()], said.split(), weights=(1, 0, 0, 0)))
    chrf = float(corpus_chrf([answer.strip()], [[reference.strip()]]).score)
    deep = sys.getrecursionlimit()
    sys.setrecursionlimit(max(deep, _DEEP))
    try:
        rouge = Rouge().get_scores([wanted], [said], avg=True)  # in the script's order
    except ValueError:  # of an empty answer, or of "."
        return bleu, 0.0, 0.0, 0.0, chrf, 1
    finally:
        sys.setrecursionlimit(deep)
    return bleu, rouge["rouge-1"]["f"], rouge["rouge-2"]["f"], rouge["rouge-l"]["f"], chrf, 0


def composite(scores: dict[str, float]) -> float:
    """DGscore of each type's score: a weighted sum, no percentage. A type that is not there adds nothing."""
    return sum(_WEIGHTS[kind] * score for kind, score in scores.items())
