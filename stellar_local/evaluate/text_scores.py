"""How near answers come to reference texts: chrF, BLEU and the ratio of their lengths, by sacrebleu.

chrF counts runs of up to six characters, so it needs no words and reads Chinese as it reads English. BLEU counts runs
of up to four words, and its tokenizer says what a word is: sacrebleu's "zh" parts Chinese into characters, while its
usual "13a" takes a Chinese sentence for one word and gives 0 for it. The signatures are sacrebleu's own and name the
tokenizer. Knows texts alone: no model, no file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import MissingExtraError, UsageError
from .statistics import ratio_interval

if TYPE_CHECKING:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

RESAMPLES, SEED = 1000, 12345  # sacrebleu's own, with which its command line gives the same interval
_BLANK = re.compile(r"\s+")


@dataclass(frozen=True)
class Score:
    """A corpus's score from 0 to 100, a 95% interval of it, and sacrebleu's signature.

    The interval is the percentile bootstrap over items: the score of 1,000 corpora drawn from this one, each computed
    from its items' summed counts, as sacrebleu's `--confidence` does; one item alone has none. A mean of the items'
    scores is another number.
    """

    value: float
    low: float | None
    high: float | None
    signature: str


def chrf(hypotheses: Sequence[str], references: Sequence[str]) -> Score:
    """chrF (Popović 2015: beta 2, six characters, no words) of answers, each against one reference.

    Raises UsageError where there is none, or not as many of the one as of the other, and MissingExtraError.
    """
    return _corpus(_chrf(), hypotheses, references)


def bleu(hypotheses: Sequence[str], references: Sequence[str], language: str) -> Score:
    """BLEU (Papineni et al. 2002) with the tokenizer of the language: "zh" for Chinese, "13a" for all others.

    A corpus none of whose answers has four words (in Chinese, four characters) gets 0, whatever they say. Raises as
    `chrf` does.
    """
    return _corpus(_bleu(language), hypotheses, references)


def sentence_chrf(hypothesis: str, reference: str) -> float:
    """The chrF of one answer, 0 to 100. Raises MissingExtraError."""
    return float(_chrf().sentence_score(hypothesis, [reference]).score)


def sentence_bleu(hypothesis: str, reference: str, language: str) -> float:
    """The BLEU of one answer, 0 to 100, over no longer runs of words than it has. Raises MissingExtraError."""
    return float(_bleu(language, effective_order=True).sentence_score(hypothesis, [reference]).score)


def length_ratio(hypotheses: Sequence[str], references: Sequence[str]) -> tuple[float, float | None, float | None]:
    """How long the answers are for each character of their references, blanks not counted: 2.0 is twice as long; and
    its 95% bootstrap interval over items, of which one item alone has none.

    Raises UsageError as `chrf` does, and where the references hold nothing.
    """
    _check(hypotheses, references)
    said, wanted = ([len(_BLANK.sub("", text)) for text in texts] for texts in (hypotheses, references))
    if not any(wanted):
        raise UsageError("the reference texts are empty", "give references that say something")
    ratio, low, high = ratio_interval(said, wanted)
    return (ratio, low, high) if len(wanted) > 1 else (ratio, None, None)


def tokenizer_of(language: str) -> str:
    """The name of sacrebleu's tokenizer for a language."""
    return "zh" if language == "zh" else "13a"


def require_sacrebleu() -> None:
    """Raise MissingExtraError where sacrebleu is not installed: before a model is asked, not after."""
    try:
        import sacrebleu  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("eval", "sacrebleu", "scoring free text") from error


def _corpus(metric: BLEU | CHRF, hypotheses: Sequence[str], references: Sequence[str]) -> Score:
    """Score a corpus once and its resamples. sacrebleu's public interface gives the half width of the interval only,
    and symmetric about the mean; so its counts are taken, and its own seed and drawing kept.
    """
    import numpy

    _check(hypotheses, references)
    counts = metric._extract_corpus_statistics(list(hypotheses), [list(references)])
    value = metric._aggregate_and_compute(counts).score
    metric.n_bootstrap, metric.seed = RESAMPLES, str(SEED)
    signature = str(metric.get_signature())
    if len(counts) < 2:
        return Score(float(value), None, None, signature)
    items, random = numpy.array(counts), numpy.random.default_rng(SEED)
    drawn = [
        metric._compute_score_from_stats(list(times @ items)).score
        for times in (
            numpy.bincount(random.integers(0, len(items), len(items)), minlength=len(items)) for _ in range(RESAMPLES)
        )
    ]
    low, high = numpy.percentile(drawn, [2.5, 97.5])
    return Score(float(value), float(low), float(high), signature)


def _check(hypotheses: Sequence[str], references: Sequence[str]) -> None:
    if len(hypotheses) != len(references) or not hypotheses:
        raise UsageError(
            f"{len(hypotheses)} answers cannot be compared with {len(references)} references",
            "give one reference for each answer, and at least one",
        )


def _chrf() -> CHRF:
    require_sacrebleu()
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()


def _bleu(language: str, effective_order: bool = False) -> BLEU:
    require_sacrebleu()
    from sacrebleu.metrics.bleu import BLEU

    # force: no warning where answers end in " .", which the model wrote and nobody tokenized.
    return BLEU(tokenize=tokenizer_of(language), effective_order=effective_order, force=True)
