"""Questions that stand in an evaluation set: runs of words in common, or the same short question.

A run is 13 words or Chinese characters, GPT-3's measure; shorter ones are stock phrases. A run that many texts of
the evaluation sets share is an instruction and no leak.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from .normal import normalise

RUN = 13  # units: words or Chinese characters
_COMMON = 10  # texts that may share a run (GPT-3's number)
_SHORTEST = 8  # units of an evaluation text shorter than a run that is looked for within a longer question


class Leaks:
    """The texts of evaluation sets, (place, text) each, ready to be looked up. About 100 bytes for each word."""

    def __init__(self, texts: Iterable[tuple[str, str]]) -> None:
        self._places: list[str] = []
        self._whole: dict[str, int] = {}
        self._runs: dict[int, int] = {}
        self._sizes: set[int] = set()
        shared: Counter[int] = Counter()
        for place, text in texts:
            normal = normalise(text)
            if not normal or normal in self._whole:
                continue
            self._whole[normal] = number = len(self._places)
            self._places.append(place)
            units = normal.split(" ")
            size = min(RUN, len(units))
            if size >= _SHORTEST:
                self._sizes.add(size)
                for run in set(_runs(units, size)):
                    self._runs.setdefault(run, number)
                    shared[run] += 1
        for run, count in shared.items():
            if count > _COMMON:
                del self._runs[run]

    def __len__(self) -> int:
        """How many different texts there are."""
        return len(self._places)

    def find(self, question: str) -> tuple[str, str] | None:
        """Where a normalised question stands and what of it: "the same question", or the words in common."""
        number = self._whole.get(question)
        if number is not None:
            return self._places[number], "the same question"
        units = question.split(" ")
        for size in sorted(self._sizes, reverse=True):
            for at, run in enumerate(_runs(units, size)):
                number = self._runs.get(run)
                if number is not None:
                    return self._places[number], " ".join(units[at : at + size])
        return None


def _runs(units: list[str], size: int) -> Iterator[int]:
    """The hash of each run of so many units; runs of another size have others."""
    return (hash(tuple(units[at : at + size])) for at in range(len(units) - size + 1))
