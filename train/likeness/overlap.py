"""Rows that stand in an evaluation set are found: runs of words in common, or the same short question.

A run is n words, or n Chinese characters (about 0.6 n words): 13 by default, GPT-3's measure. Shorter ones are stock
phrases: in Chinese 8 characters are often nothing but "which of the following statements is true". An overlap must
hold in the texts themselves: hashes only find the place to look. A row's answer is looked up as its question is: what
was mined from an evaluation set asks in other words, but answers in the same.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from ..corpus import Triple
from .evaluation import Text
from .forms import Form
from .normal import normalise, units

RUN = 13  # units, where nothing else is asked for
_COMMON = 10  # texts of the evaluation sets: a run that more of them share is form, an instruction say (GPT-3's number)
_SHORTEST = 5  # units of a question that is looked for within another one
_SENTENCE = re.compile(r"[^\n。.！!？?：:；;]+[？?]?")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)

Hashes = npt.NDArray[np.uint64]


class _Hasher:
    """Units to the hashes of all runs of `size` of them; the same in every process."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._known: dict[str, int] = {}

    def _hash(self, unit: str) -> int:
        value = self._known.get(unit)
        if value is None:
            value = int.from_bytes(hashlib.blake2b(unit.encode("utf-8"), digest_size=8).digest(), "little")
            self._known[unit] = value
        return value

    def runs(self, words: Sequence[str]) -> Hashes:
        """One hash for each place where a run begins; none where the text is shorter than one."""
        count = len(words) - self._size + 1
        if count < 1:
            return np.empty(0, np.uint64)
        one = np.fromiter(map(self._hash, words), np.uint64, len(words))
        total = np.zeros(count, np.uint64)
        for at in range(self._size):
            total = total * _FACTOR + one[at : at + count]
        return total


class Evaluation:
    """The texts of all declared evaluation sets, ready to be looked up."""

    def __init__(self, texts: Iterable[Text], ngram: int = RUN) -> None:
        self._size, self._hasher = ngram, _Hasher(ngram)
        self._whole: dict[str, str] = {}  # normalised text → where it stands
        self._questions: dict[str, str] = {}  # those of the short ones that are questions
        self._long: list[tuple[str, str]] = []  # (where, normalised text)
        runs: list[Hashes] = []
        owners: list[npt.NDArray[np.int32]] = []
        for where, text in texts:
            normal = normalise(text)
            if not normal or normal in self._whole:
                continue
            self._whole[normal] = where
            words = units(normal)
            if len(words) >= ngram:
                own = np.unique(self._hasher.runs(words))
                runs.append(own)
                owners.append(np.full(len(own), len(self._long), np.int32))
                self._long.append((where, normal))
            elif len(words) >= _SHORTEST and text.rstrip().endswith(("?", "？")):
                self._questions[normal] = where
        self.texts = len(self._whole)
        every = np.concatenate(runs) if runs else np.empty(0, np.uint64)
        order = np.argsort(every, kind="stable")
        self._runs, first, counts = np.unique(every[order], return_index=True, return_counts=True)
        self._owners = np.concatenate(owners)[order][first] if owners else np.empty(0, np.int32)
        rare = counts <= _COMMON
        self._runs, self._owners = self._runs[rare], self._owners[rare]

    def overlap(self, row: Triple, form: Form) -> str:
        """Where the evaluation text stands that a row shares a run with, and the run; "" if there is none.

        A short question counts where it is a sentence of the row's question, other short texts as the whole question.
        """
        if where := self._whole.get(form.question):
            return f"{where}: the same question"
        if self._questions:
            for part in (row.instruction, row.input):
                for sentence in _SENTENCE.findall(part):
                    if where := self._questions.get(normalise(sentence)):
                        return f"{where}: the same question"
        return self._shared(form.question) or self._shared(form.answer)

    def _shared(self, normal: str) -> str:
        if not len(self._runs):
            return ""
        words = units(normal)
        hashes = self._hasher.runs(words)
        if not len(hashes):
            return ""
        found = np.minimum(np.searchsorted(self._runs, hashes), len(self._runs) - 1)
        for at in np.flatnonzero(self._runs[found] == hashes):
            run = words[at : at + self._size]
            where, text = self._long[self._owners[found[at]]]
            others = units(text)
            if any(others[begin : begin + self._size] == run for begin in range(len(others) - self._size + 1)):
                return f"{where}: {_joined(run)}"
        return ""


def _joined(run: Sequence[str]) -> str:
    """A run as text: Chinese characters without blanks."""
    return normalise(" ".join(run))
