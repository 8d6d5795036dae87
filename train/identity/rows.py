"""Phrasings and names → the training rows and the held-out questions.

Knows which questions go with which answers, how a question is varied, and that nothing like a held-out question may
be trained on; knows no files. The same names and seed always give the same rows.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from stellar_local.evaluate.identity.judge import plain

from ..corpus import Triple
from .overlap import Measure, nearest
from .phrasings import LANGUAGES, Names, Other, fill, others, outside_places, places, read

_PER_OTHER, _PER_MAKER, _PER_PREFACE = 4, 3, 2  # training rows that each such phrasing gives
_BARE, _TYPING = 0.4, 0.3  # shares of the questions that come without punctuation, or mistyped, as well
_ZH_NAME = 0.2  # share of English questions that give another assistant's Chinese name, and the reverse


@dataclass(frozen=True)
class Question:
    """A held-out question, a right answer to it, and what any right answer has (read by the judge)."""

    instruction: str
    output: str
    language: str
    kind: str
    expect: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """The question as it stands in the file: a triple that says more."""
        return {
            "instruction": self.instruction,
            "input": "",
            "output": self.output,
            "language": self.language,
            "kind": self.kind,
            "expect": self.expect,
        }


@dataclass(frozen=True)
class Identity:
    """What was made: rows to train on, questions to ask, and how many rows were too near to a question."""

    rows: list[Triple]
    questions: list[Question]
    left_out: int


def make(names: Names, seed: int = 42) -> Identity:
    """All rows and questions for these names."""
    questions = [
        question for language in LANGUAGES for question in _Maker(names, language, "held_out", seed).questions()
    ]
    rows = [row for language in LANGUAGES for row in _Maker(names, language, "train", seed).rows()]
    rows = list({row.instruction: row for row in reversed(rows)}.values())[::-1]  # one answer to a question, the first
    measure = measure_of(names)
    asked = [measure.key(question.instruction) for question in questions]
    kept = [row for row in rows if nearest(measure.key(row.instruction), asked) is None]
    return Identity(kept, questions, len(rows) - len(kept))


def measure_of(names: Names) -> Measure:
    """The measure that overlooks all the names that stand in questions."""
    known = [text for other in others() for text in (*other.names, *other.makers)]
    return Measure([*names.own, *names.developers, *names.bases, *names.base_developers, *known])


class _Maker:
    """Makes what one part of the phrasings (train, held_out) gives in one language."""

    def __init__(self, names: Names, language: str, part: str, seed: int) -> None:
        data = read()
        self._names, self._language, self._part = names, language, part
        self._phrasings: dict[str, Any] = data[language][part]
        self._prefaces: list[str] = data[language]["prefaces"][part]
        self._in_other: list[str] = data[language]["other_language"][part]
        self._typos: list[list[str]] = data[language]["typos"]
        self._answers: dict[str, dict[str, list[str]]] = {each: data[each]["answers"] for each in LANGUAGES}
        self._others = others(names)
        self._random = random.Random(f"{seed} {language} {part}")

    def rows(self) -> Iterator[Triple]:
        """The training rows, each question also in variants."""
        for kind in ("name", "developer", "about", "base", "human", "self", "mixed"):
            for answered, phrasing in self._of(kind):
                yield from self._varied(phrasing, answered, {})
        base, known = self._base_as_other(), [other for other in self._others if not other.held_out]
        for phrasing in self._phrasings["other"]:
            # Half as many as ask about others: with none a small model learns that the answer is always no, and
            # with as many it took others for itself.
            for name in self._names.own:
                yield from self._varied(phrasing, "self", {"other": name})
        for phrasing in self._phrasings["maker"]:
            yield from self._varied(
                phrasing, "self", {"maker": self._pick(self._names.developer, self._names.developer_zh)}
            )
        plainest, *more = self._phrasings["other"]
        for name in dict.fromkeys(name for other in [base, *known] for name in other.names):
            yield from self._varied(plainest, "other", {"other": name})
        for kind, phrasings, times in (("other", more, _PER_OTHER), ("called", self._phrasings["called"], _PER_MAKER)):
            for phrasing, other in _paired(phrasings, [base, *known], times):
                yield from self._varied(phrasing, kind, {"other": self._pick(other.en, other.zh)})
        makers = [other for other in [base, *known] if other.maker]
        for phrasing, other in _paired(self._phrasings["maker"], makers, _PER_MAKER):
            yield from self._varied(phrasing, "maker", {"maker": self._pick(other.maker, other.maker_zh)})
        for frames, language in ((self._prefaces, self._language), (self._in_other, self._other_language)):
            for frame in frames:
                for answered in ["name", "developer", *self._sample(["about", "base", "human"], _PER_PREFACE)]:
                    phrasing = fill(frame, {"question": self._random.choice(self._phrasings[answered])})
                    yield self._row(phrasing, answered, {}, language)

    def questions(self) -> Iterator[Question]:
        """The held-out questions: each phrasing once."""
        for kind in ("name", "developer", "about", "base", "human", "self", "mixed"):
            for answered, phrasing in self._of(kind):
                yield self._question(phrasing, kind, answered)
        base = self._base_as_other()
        unseen = [other for other in self._others if other.held_out]
        seen = [other for other in self._others if not other.held_out]
        turns = [group[at % len(group)] for at in range(99) for group in ([base], unseen, seen)]
        for kind in ("other", "called"):
            for at, (phrasing, other) in enumerate(zip(self._phrasings[kind], turns, strict=False)):
                name = (other.names * 2)[at // 3 % 2] if other is base else self._pick(other.en, other.zh)
                yield self._question(phrasing, kind, kind, {"other": name}, other)
        makers = [other for other in [base, *unseen, *seen] if other.maker]
        for phrasing, other in zip(self._phrasings["maker"], makers, strict=False):
            yield self._question(phrasing, "maker", "maker", {"maker": self._pick(other.maker, other.maker_zh)}, other)
        for at, frame in enumerate(self._prefaces):
            answered = ("name", "developer")[at % 2]
            yield self._question(self._framed(frame, answered), "preface", answered)
        for at, frame in enumerate(self._in_other):
            answered = ("name", "developer")[at % 2]
            framed = self._framed(frame, answered)
            yield self._question(framed, "mixed", answered, answer_in=self._other_language)

    @property
    def _other_language(self) -> str:
        return next(language for language in LANGUAGES if language != self._language)

    def _of(self, kind: str) -> Iterator[tuple[str, str]]:
        """The phrasings of a kind that these names can fill, each with the kind of its answer."""
        by_answer = self._phrasings[kind] if kind == "mixed" else {kind: self._phrasings[kind]}
        for answered, phrasings in by_answer.items():
            for phrasing in phrasings:
                if "alias" not in places(phrasing) or len(self._names.own) > 1:
                    yield answered, phrasing

    def _framed(self, frame: str, answered: str) -> str:
        return fill(frame, {"question": self._random.choice(self._phrasings[answered])})

    def _base_as_other(self) -> Other:
        names = self._names
        maker, *_ = (*names.base_developers, "")
        return Other(names.base, names.base_zh if len(names.bases) > 1 else "", maker)

    def _pick(self, en: str, zh: str) -> str:
        """One form of a name: mostly the language's own."""
        own, foreign = (zh or en, en) if self._language == "zh" else (en, zh or en)
        return foreign if self._random.random() < _ZH_NAME else own

    def _sample(self, among: Sequence[str], count: int) -> list[str]:
        return self._random.sample(list(among), count)

    def _varied(self, phrasing: str, answered: str, values: dict[str, str]) -> Iterator[Triple]:
        yield self._row(phrasing, answered, values)
        variants: list[tuple[float, Callable[[str], str]]] = [(_BARE, self._bare), (_TYPING, self._mistyped)]
        for share, change in variants:
            if self._random.random() < share:
                varied = outside_places(phrasing, change)
                if varied.strip() and varied != phrasing:
                    yield self._row(varied, answered, values)

    def _bare(self, text: str) -> str:
        """As people type in a hurry: lower case, no punctuation."""
        return "".join(char for char in text if char.isalnum() or char in " '").lower()

    def _mistyped(self, text: str) -> str:
        wrong = [(right, typed) for right, typed in self._typos if right in text]
        if not wrong:
            return text
        right, typed = self._random.choice(wrong)
        return text.replace(right, typed, 1)

    def _row(self, phrasing: str, answered: str, values: dict[str, str], language: str = "") -> Triple:
        question = fill(phrasing, {**self._names.values(self._language), **values})
        return Triple(question, "", self._answer(answered, language or self._language))

    def _answer(self, answered: str, language: str) -> str:
        named = answered == "base" and self._names.mention_base
        choices = self._answers[language]["base_named" if named else answered]
        return fill(self._random.choice(choices), self._names.values(language))

    def _question(
        self,
        phrasing: str,
        kind: str,
        answered: str,
        values: dict[str, str] | None = None,
        other: Other | None = None,
        answer_in: str = "",
    ) -> Question:
        row = self._row(phrasing, answered, values or {}, answer_in)
        expect: dict[str, Any] = {
            "name": list(self._names.own),
            "developer": list(self._names.developers) if answered in ("developer", "maker") else [],
            "forbid": self._forbidden(other),
        }
        if answered in ("other", "maker", "human", "self"):
            expect["reply"] = "yes" if answered == "self" else "no"
        if answered == "base" and self._names.mention_base:
            expect["based_on"] = [*self._names.bases]
        return Question(row.instruction, row.output, self._language, kind, expect)

    def _forbidden(self, asked: Other | None) -> list[str]:
        """The base, its developer, whoever the question speaks of, and the assistants whose names are no words."""
        names = self._names
        known = [text for other in self._others if not other.word for text in other.names]
        about = [*asked.names, *asked.makers] if asked else []
        own = {plain(text) for text in (*names.own, *names.developers)}
        every = [*names.bases, *names.base_stems, *names.base_developers, *about, *known]
        return [text for text in dict.fromkeys(every) if text and plain(text) not in own]


def _paired(phrasings: Sequence[str], others: Sequence[Other], times: int) -> Iterator[tuple[str, Other]]:
    """Each phrasing with `times` others in turn, so that all of them come up about equally often."""
    turn = 0
    for phrasing in phrasings:
        for _ in range(min(times, len(others))):
            yield phrasing, others[turn % len(others)]
            turn += 1
