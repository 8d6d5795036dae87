"""What a level and a KV type cost in quality: by how many percent perplexity rises, from what others have published.

Perplexity: on the next token the model is as unsure as if it chose evenly among so many. The levels' figures are LLaMA
3 8B's; LLaMA 2 7B loses less at the same level (Q8_0 0.07 %, Q6_K 0.24 %, Q4_K_M 1.4 %, Q2_K 11 %, in the same
source), and so do larger models. They rank levels; they do not say how well a model answers.
A converted folder may hold figures of its own, which convert measures: `divergences` reads them.
Knows no memory and no file but a folder's manifest.json.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import StellarError
from ..files import read_text
from ..texts import Texts

# llama.cpp's tools/perplexity/README.md, "LLaMA 3 8b Scoreboard" (revision f364eb6f, Wikitext-2, 512 tokens): ΔPPL, the
# rise over F16, without an importance matrix and with one (of 10 million tokens of Wikitext). None: not published.
# F32 and BF16 hold the published weights exactly, F16 within 0.04 % (same source); F16 is what all is compared with.
_RISE: dict[str, tuple[float | None, float | None]] = {
    "F32": (0.0, 0.0),
    "F16": (0.0, 0.0),
    "BF16": (0.0, 0.0),
    "Q8_0": (0.002650, 0.002650),  # its quantizer does not look at a matrix
    "Q6_K": (0.021748, None),
    "Q5_K_M": (0.056974, None),
    "Q5_K_S": (0.104964, None),
    "Q5_1": (0.106223, None),
    "Q5_0": (0.131591, None),
    "Q4_K_M": (0.175482, 0.151303),
    "Q4_K_S": (0.268895, 0.178064),
    "Q4_1": (0.451103, None),
    "Q4_0": (0.468514, None),
    "IQ4_NL": (None, 0.223959),
    "IQ4_XS": (None, 0.228071),
    "Q3_K_L": (0.556242, 0.439590),
    "Q3_K_M": (0.656864, 0.502622),
    "Q3_K_S": (1.632152, 1.371244),
    "IQ3_M": (None, 0.666694),
    "IQ3_S": (None, 0.733867),
    "IQ3_XS": (None, 0.931409),
    "IQ3_XXS": (None, 1.226803),
    "Q2_K": (3.519934, 2.416191),
    "Q2_K_S": (None, 3.092145),
    "IQ2_M": (None, 2.369166),
    "IQ2_S": (None, 3.419148),
    "IQ2_XS": (None, 4.529791),
    "IQ2_XXS": (None, 7.860148),
    "IQ1_M": (None, 19.262089),
    "IQ1_S": (None, 54.462959),
}
# These can be made without a matrix, but only the figure with one was published. Estimated: that they lose as much more
# without as the K-quant of their size does.
_LIKE = {"IQ4_NL": "Q4_K_S", "IQ4_XS": "Q4_K_S", "IQ3_M": "Q3_K_M", "IQ3_S": "Q3_K_M"}
_PERPLEXITY = 6.234284 - 0.002650  # F16's, as every row has it: PPL less ΔPPL

# (percent, whether it was published for a LLaMA over the whole text). q8_0: LLaMA 3 8B, 6.234369 against 6.232196
# (llama.cpp #7412; without the rotation of keys and values, made to lose less, that llama.cpp has had since #21038).
# q4_0, rotated, all at 512 tokens: LLaMA 2 7B +0.19 % over 8 chunks, Gemma 3 4B 7.9506 against 7.8551 (#21551). The
# larger one is taken, since errors grow with the context's length.
_KV = {"f16": (0.0, True), "q8_0": (0.0349, True), "q4_0": (1.22, False)}

# From how many percent on a loss is called so; what is less than the first is none.
_FROM = {"hardly_any": 0.1, "little": 1.0, "some": 5.0, "much": 15.0, "very_much": 40.0}
WORDS: tuple[str, ...] = ("none", *_FROM)


@dataclass(frozen=True)
class Loss:
    """By how many percent perplexity rises over F16 with f16 KV; None where nobody knows.

    `measured`: published or measured for the level and for the KV type, rather than estimated.
    """

    percent: float | None
    measured: bool

    @property
    def word(self) -> str:
        """The size of the loss, one of WORDS; "unknown" where nobody knows."""
        if self.percent is None:
            return "unknown"
        return next((word for word in reversed(_FROM) if self.percent >= _FROM[word]), "none")


@dataclass(frozen=True)
class Divergence:
    """How far a folder's level is from its level `reference`, as convert measured it: mean KL divergence in nats and
    the share of equal likeliest tokens, over so many tokens.
    """

    reference: str
    tokens: int
    kl: float
    same_top: float

    @property
    def percent(self) -> float:
        """By how much perplexity rises on text of the reference's own: there its logarithm rises by the divergence."""
        return 100 * math.expm1(self.kl)


def loss(
    level: str, kv: str = "f16", importance: bool = False, measured: Mapping[str, Divergence] | None = None
) -> Loss:
    """What a level and a KV type lose together, the one after the other.

    `importance` says whether the level was made with an importance matrix; those that need one were. A level in
    `measured`, as `divergences` gives, is judged by that instead, on top of its reference's published loss. For a level
    or a KV type that is not known, `percent` is None.
    """
    level = level.upper()
    found = (measured or {}).get(level)
    rise = _rise(found.reference if found else level, importance)
    if rise is None or kv not in _KV:
        return Loss(None, False)
    percent, known = _KV[kv]
    shares = (rise[0] / _PERPLEXITY, (found.percent if found else 0.0) / 100, percent / 100)
    return Loss(100 * (math.prod(1 + share for share in shares) - 1), known and rise[1])


def _rise(level: str, importance: bool) -> tuple[float, bool] | None:
    """A level's rise in perplexity, and whether that was published for it as it was made; None for an unknown one."""
    without, with_matrix = _RISE.get(level, (None, None))
    if importance and with_matrix is not None:
        return with_matrix, True
    if without is not None:
        return without, not importance
    if with_matrix is None:
        return None
    if level not in _LIKE:
        return with_matrix, True
    more, less = _RISE[_LIKE[level]]
    return with_matrix * (more or 0.0) / (less or 1.0), False


def describe(found: Loss, texts: Texts) -> str:
    """The size of a loss in a word or two."""
    return texts(f"plan.loss_{found.word}")


def divergences(folder: Path) -> dict[str, Divergence]:
    """What a converted folder's manifest.json says of its levels, by level; {} where it says nothing.

    What is damaged is left out: a plan can do without, and `stellar convert --verify` is there to complain.
    """
    path = folder / "manifest.json"
    try:
        levels = json.loads(read_text(path, "manifest"))["levels"]
        rows = {str(name).upper(): _divergence(item) for name, item in levels.items()}
    except (StellarError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    return {name: row for name, row in rows.items() if row is not None}


def _divergence(item: Any) -> Divergence | None:
    """One level's figures, overall; None where there are none, or none that can be."""
    try:
        reference, overall = item["divergence"]["reference"], item["divergence"]["overall"]
        found = Divergence(str(reference), int(overall["tokens"]), float(overall["kl"]), float(overall["same_top"]))
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return found if 0 <= found.kl < 100 and 0 <= found.same_top <= 1 and found.tokens > 0 else None
