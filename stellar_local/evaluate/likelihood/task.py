"""The task of `stellar eval likelihood`: passages scored, and figures made of what they scored.

Negative log-likelihood is given in nats a token, as perplexity, its exponential, and in bits a byte of text, which does
not depend on the tokenizer: models with different vocabularies compare by it alone. An answer's end token counts among
its tokens, and stands for no byte. Intervals are bootstraps over what was scored at once: answers, or the parts that
texts are cut into, which are not quite independent. Knows items and figures; knows no file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...console import one_line
from ...engine import Answer
from ...runtime import Runtime
from ..asking import Expand, Item, Score
from ..results import Metric
from ..statistics import ratio_interval
from .passages import Part, Passage, parts_of
from .reference import Rows

COMPARED = "KL divergence"  # the figure that there is only where levels are compared
_SHOWN = 200  # characters of a passage in the log


class _Compared:
    """What a part's logits are from the reference's: nats, equal likeliest tokens, places."""

    def __init__(self, part: Part, rows: Rows) -> None:
        self._key, self._rows = part.key, rows
        self.nats, self.same, self.places = 0.0, 0, 0

    def look(self, at: int, logits: npt.NDArray[np.float32]) -> None:
        nats, same, places = self._rows.compare(self._key, at, logits)
        self.nats, self.same, self.places = self.nats + nats, self.same + same, self.places + places


@dataclass(frozen=True)
class _About:
    """What is known of a score item once its tokens are."""

    passage: Passage
    part: Part
    compared: _Compared | None


@dataclass(frozen=True)
class Likelihood:
    """Passages, and the reference's rows where levels are compared with one; `reference` says in JSON which one."""

    passages: Sequence[Passage]
    data: Sequence[Path]
    system: str | None = None
    rows: Rows | None = None
    reference: Mapping[str, Any] | None = None
    chunk: int = 0

    name = "likelihood"

    @property
    def settings(self) -> dict[str, Any]:
        """What figures depend on."""
        return {"system": self.system, "chunk": self.chunk, "reference": self.reference}

    def items(self) -> Sequence[Item]:
        """Every passage; what is cut by tokens becomes as many items as it has parts."""
        return [Expand(passage.key, self._expanding(passage)) for passage in self.passages]

    def _expanding(self, passage: Passage) -> Callable[[Runtime], list[Score]]:
        def make(runtime: Runtime) -> list[Score]:
            return [
                self._score(passage, part, number, runtime.model.n_vocab)
                for number, part in enumerate(parts_of(passage, runtime, self.system))
            ]

        return make

    def _score(self, passage: Passage, part: Part, number: int, n_vocab: int) -> Score:
        rows = self.rows if self.rows is not None and self.rows.has(part, n_vocab) else None
        compared = _Compared(part, rows) if rows is not None else None
        return Score(
            f"{passage.key}#{number}",
            part.made,
            compared.look if compared else None,
            _About(passage, part, compared),
        )

    def record(self, item: Score, outcome: Answer) -> dict[str, Any]:
        """What the log keeps: sums, so that any part of the items can be summed up again."""
        about: _About = item.about
        scores, passage = outcome.scores, about.passage
        asked = passage.turn
        found: dict[str, Any] = {
            "language": passage.language,
            "kind": passage.kind,
            "question": _shown(f"{asked.instruction} {asked.input}" if asked else ""),
            "expected": _shown((asked.response or "") if asked else ""),
            "nats": -math.fsum(scores),
            "tokens": len(scores),
            "bytes": about.part.bytes,
            "end_nats": -scores[-1] if about.part.ends else 0.0,
        }
        if about.compared:
            found |= {
                "divergence": about.compared.nats,
                "same_top": about.compared.same,
                "places": about.compared.places,
            }
        return found

    def summarise(self, records: Sequence[Mapping[str, Any]]) -> tuple[list[Metric], list[str]]:
        """Figures of all passages, by language, and by kind where there are several."""
        sound = [one for one in records if "nats" in one]
        languages = list(dict.fromkeys(one["language"] for one in sound))
        kinds = list(dict.fromkeys(one["kind"] for one in sound))
        metrics = _figures(sound, "", "")
        for language in languages if len(languages) > 1 else ():
            metrics += _figures([one for one in sound if one["language"] == language], "", language)
        for kind in kinds if len(kinds) > 1 else ():
            metrics += _figures(
                [one for one in sound if one["kind"] == kind], kind or "without a kind", "", detail=True
            )
        notes = []
        if self.reference is not None and sound:
            compared = sum("places" in one for one in sound)
            places = sum(one.get("places", 0) for one in sound)
            what = f"compared with {self.reference.get('label', 'the reference')} at {places} tokens"
            notes.append(f"{what} of {compared} of {len(sound)} passages or parts of texts")
            if not compared:
                notes.append("the tokens differ from the reference's: another vocabulary or another template")
        return metrics, notes


def _figures(records: Sequence[Mapping[str, Any]], group: str, language: str, detail: bool = False) -> list[Metric]:
    if not records:
        return []
    where: dict[str, Any] = {"group": group, "language": language, "detail": detail, "better": "lower"}
    nats = [one["nats"] for one in records]
    tokens = [one["tokens"] for one in records]
    loss, low, high = ratio_interval(nats, tokens)
    bits = [(one["nats"] - one["end_nats"]) / math.log(2) for one in records]
    per_byte, bits_low, bits_high = ratio_interval(bits, [one["bytes"] for one in records])
    found = [
        Metric("loss", loss, low=low, high=high, n=sum(tokens), kind="nats", **where),
        Metric("perplexity", _exp(loss), low=_exp(low), high=_exp(high), n=sum(tokens), kind="perplexity", **where),
        Metric(
            "bits per byte",
            per_byte,
            low=bits_low,
            high=bits_high,
            n=sum(one["bytes"] for one in records),
            kind="bits",
            **where,
        ),
    ]
    if compared := [one for one in records if one.get("places")]:
        places = [one["places"] for one in compared]
        value, low, high = ratio_interval([one["divergence"] for one in compared], places)
        # Rounding can leave a sum a hair below nothing where two levels agree.
        value, low = max(value, 0.0), max(low, 0.0)
        found.append(Metric(COMPARED, value, low=low, high=high, n=sum(places), kind="nats", **where))
        value, low, high = ratio_interval([one["same_top"] for one in compared], places)
        found.append(
            Metric("same top token", value, low=low, high=high, n=sum(places), **{**where, "better": "higher"})
        )
    return found


def _exp(nats: float) -> float:
    return math.inf if nats >= 700 else math.exp(nats)  # what is no number stays none


def _shown(text: str) -> str:
    text = one_line(text).strip()
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
