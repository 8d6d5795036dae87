"""Rows that stand in an evaluation set are found: runs of words in common, or the same short question.

A run is n words, or n Chinese characters (about 0.6 n words): 13 by default, GPT-3's measure. Shorter ones are stock
phrases: in Chinese 8 characters are often nothing but "which of the following statements is true". An overlap must
hold in the texts themselves: hashes only find the place to look. A row's answer is looked up as its question is: what
was mined from an evaluation set asks in other words, but answers in the same.

A run that more than 10 evaluation texts share is form, an instruction say. A text of a row, such as validation's, may
also have its wording in common with rows in training: what more than 10 different rows have is form too, unless the
text is nothing else, and a run that reaches into form does not tell. Not so of other evaluation sets: a question of
theirs may well have been put in 20 ways.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ..corpus import Triple
from .evaluation import RowText, Text
from .forms import Form
from .normal import normalise, units

RUN = 13  # units, where nothing else is asked for
_COMMON = 10  # texts that share a run: in more it is form (GPT-3's number)
_SHORTEST = 5  # units of a question that is looked for within another one
_SENTENCE = re.compile(r"[^\n。.！!？?：:；;]+[？?]?")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)

Hashes = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


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


@dataclass(frozen=True)
class Meeting:
    """What a row meets in the evaluation sets: a text that is its `whole` question, by its place; short questions that
    are sentences of its own; runs, by number.
    """

    whole: str = ""
    sentences: tuple[str, ...] = ()
    runs: Numbers = field(default_factory=lambda: np.empty(0, np.int64))


_NOTHING = Meeting()


class Evaluation:
    """The texts of all declared evaluation sets, ready to be looked up."""

    def __init__(self, texts: Iterable[Text], ngram: int = RUN) -> None:
        self._size, self._hasher = ngram, _Hasher(ngram)
        self._whole: dict[str, str] = {}  # normalised text → where it stands
        self._questions: dict[str, tuple[str, bool]] = {}  # those of the short ones that are questions; if of a row
        self._long: list[tuple[str, str]] = []  # (where, normalised text)
        of_rows: list[bool] = []
        runs: list[Hashes] = []
        owners: list[npt.NDArray[np.int32]] = []
        for one in texts:
            where, text = one
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
                of_rows.append(isinstance(one, RowText))
            elif len(words) >= _SHORTEST and text.rstrip().endswith(("?", "？")):
                self._questions[normal] = where, isinstance(one, RowText)
        self.texts = len(self._whole)
        every = np.concatenate(runs) if runs else np.empty(0, np.uint64)
        order = np.argsort(every, kind="stable")
        distinct, first, run_of, counts = np.unique(
            every[order], return_index=True, return_inverse=True, return_counts=True
        )
        self._owner_of = np.concatenate(owners)[order] if owners else np.empty(0, np.int32)
        self._run_of = run_of.reshape(-1)  # each run with each text that has it
        self._runs, self._owners = distinct, self._owner_of[first]
        self._stock = counts > _COMMON
        self._only_of_rows = np.ones(len(distinct), bool)
        self._only_of_rows[self._run_of[~np.array(of_rows, bool)[self._owner_of]]] = False

    def overlap(self, row: Triple, form: Form) -> str:
        """Where the evaluation text stands that a row by itself shares a run with, and the run; "" if there is none.

        A short question counts where it is a sentence of the row's question, other short texts as the whole question.
        """
        return self.overlaps([self.meeting(row, form)], [form])[0]

    def meeting(self, row: Triple, form: Form) -> Meeting:
        """What a row meets, whatever other rows there are."""
        if where := self._whole.get(form.question):
            return Meeting(where)
        sentences: list[str] = []
        if self._questions:
            for part in (row.instruction, row.input):
                for sentence in _SENTENCE.findall(part):
                    if (normal := normalise(sentence)) in self._questions:
                        sentences.append(normal)
        runs = _NOTHING.runs
        if len(self._runs):
            runs = np.concatenate([self._met(form.question), self._met(form.answer)])
            runs = runs[runs >= 0]
        return Meeting("", tuple(sentences), runs) if sentences or len(runs) else _NOTHING

    def _met(self, normal: str) -> Numbers:
        """The runs of a text that are known here, by number; -1 where one is not."""
        hashes = self._hasher.runs(units(normal))
        if not len(hashes):
            return _NOTHING.runs
        found = np.minimum(np.searchsorted(self._runs, hashes), len(self._runs) - 1)
        return np.where(self._runs[found] == hashes, found, -1)

    def overlaps(self, meetings: Sequence[Meeting], forms: Sequence[Form]) -> list[str]:
        """Of each row, as `overlap` has it: these are all rows that there are, which decides what is form."""
        sentences: Counter[str] = Counter()
        counts = np.zeros(len(self._runs), np.int64)
        seen: set[tuple[str, str]] = set()
        for meeting, form in zip(meetings, forms, strict=True):
            if meeting is not _NOTHING and (key := (form.question, form.answer)) not in seen:
                seen.add(key)
                sentences.update(set(meeting.sentences))
                counts[np.unique(meeting.runs)] += 1
        is_form = self._form(counts > _COMMON)
        return [
            self._told(meeting, form, sentences, is_form) if meeting is not _NOTHING else ""
            for meeting, form in zip(meetings, forms, strict=True)
        ]

    def _form(self, common: Mask) -> Mask:
        """Which runs are form in training too, given those that are common there."""
        telling = ~(common | self._stock)
        speaks = np.zeros(len(self._long), bool)  # texts that are not form alone
        speaks[self._owner_of[telling[self._run_of]]] = True
        beside = np.zeros(len(common), bool)
        beside[self._run_of[speaks[self._owner_of]]] = True
        form: Mask = (self._stock | (common & beside)) & self._only_of_rows
        return form

    def _told(self, meeting: Meeting, form: Form, sentences: Counter[str], is_form: Mask) -> str:
        if meeting.whole:
            return f"{meeting.whole}: the same question"
        for normal in meeting.sentences:
            where, of_row = self._questions[normal]
            if not of_row or sentences[normal] <= _COMMON:
                return f"{where}: the same question"
        if (is_form | self._stock)[meeting.runs].all():
            return ""
        return self._shared(form.question, is_form) or self._shared(form.answer, is_form)

    def _shared(self, normal: str, is_form: Mask) -> str:
        """The first run that a text truly has in common with an evaluation text, and no unit of it with form: else a
        wording would tell as soon as one more word is the same.
        """
        met = self._met(normal)
        known = met >= 0
        in_form = np.zeros(len(met) + self._size, np.int64)  # of each unit, how many runs of form it stands in
        for at in np.flatnonzero(known & is_form[met]):
            in_form[at : at + self._size] += 1
        reached = np.r_[0, np.cumsum(in_form > 0)]
        words = units(normal)
        for at in np.flatnonzero(known & ~self._stock[met]):
            if reached[at + self._size] > reached[at]:
                continue
            run = words[at : at + self._size]
            where, text = self._long[self._owners[met[at]]]
            others = units(text)
            if any(others[begin : begin + self._size] == run for begin in range(len(others) - self._size + 1)):
                return f"{where}: {_joined(run)}"
        return ""


def _joined(run: Sequence[str]) -> str:
    """A run as text: Chinese characters without blanks."""
    return normalise(" ".join(run))
