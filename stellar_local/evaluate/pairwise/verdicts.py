"""A judging model's word → who won a game, and two games with the answers swapped → who won the question.

After FastChat's llm_judge (arXiv 2306.05685): a tie if either game is one or the two disagree; a question with a failed
game is left out. Knows texts and rules; knows neither prompts nor models.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ORDERS = ("ab", "ba")  # which model's answers stand first
SCORINGS = ("verdict", "scores")
A, B, TIE = "a", "b", "tie"  # who won: the first or second model of the command line, or nobody
ERROR, UNCLEAR = "error", "unclear"  # no winner: the call failed; the judge's last line says none
NOT_YET = "it is not judged yet"  # what is said of a question that nobody was asked about
CUT = "cut"  # why a judgement is unclear: it ended at its limit
EQUAL_SCORES = 0.1  # scores that are this near are a tie

_VERDICT = re.compile(r"\[\[\s*([ABC])\s*\]\]|【【\s*([ABC])\s*】】")
_NUMBER = r"(?P<{}>\d{{1,2}}(?:\.\d{{1,2}})?)\s*(?:/\s*10\s*)?"
# One score or both in brackets: [[8]], [[8/10]], [[8, 7]]; whose it is may stand before them, or within.
_WHOSE = r"(?<![A-Za-z])(?P<{}>[AB])(?![A-Za-z])[^\[\]【】:：=\d]{{0,12}}[:：=]\s*"
_SCORE = re.compile(
    rf"(?:{_WHOSE.format('outside')}[*_]*)?(?:\[\[|【【)\s*"
    rf"(?:[^\[\]【】\dAB]{{0,16}}{_WHOSE.format('inside')})?"
    rf"{_NUMBER.format('one')}(?:[,，、;；]\s*{_NUMBER.format('other')})?(?:\]\]|】】)"
)
_SCORE_ALONE = re.compile(r"[^\[\]【】\d]{0,48}(?:\[\[|【【)[^\[\]【】]*(?:\]\]|】】)[\s*_.。]*")
_LEAST_SCORE, _MOST_SCORE = 1.0, 10.0


@dataclass(frozen=True)
class Game:
    """One judgement: the `order` the answers stood in, the `winner`, the two models' scores where there are any.

    `said` is the judge's text, or the error's message; `cut` tells that it ended at its limit.
    """

    order: str
    winner: str
    said: str = ""
    score_a: float | None = None
    score_b: float | None = None
    cut: bool = False

    def to_json(self) -> dict[str, Any]:
        """As it stands in a record."""
        kept: dict[str, Any] = {"order": self.order, "winner": self.winner, "said": self.said}
        if self.score_a is not None:
            kept.update(score_a=self.score_a, score_b=self.score_b)
        return {**kept, "cut": True} if self.cut else kept


def mark_of(texts: Sequence[str]) -> str:
    """A code that none of the texts holds, and that nobody who wrote one of them could foresee.

    It is made from all of them, so that the same question gives the same prompt again; a text that held it would have
    to hold a part of its own SHA-256.
    """
    digest, number = hashlib.sha256("\0".join(texts).encode("utf-8", "replace")), 0
    while any(digest.hexdigest()[:16] in text for text in texts):
        number += 1
        digest.update(str(number).encode())
    return digest.hexdigest()[:16]


def game_of(order: str, scoring: str, said: str, cut: bool = False) -> Game:
    """Read a judgement's last line, and nothing before it: what stands above may quote an answer. Two scores may stand
    on two lines that hold nothing else.

    A judgement that was `cut` has no last line.
    """
    if cut:
        return Game(order, UNCLEAR, said, cut=True)
    lines = [line for line in said.splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    if scoring == "scores":
        pair = lines[-2:]
        return _scored(order, said, " ".join(pair) if all(map(_SCORE_ALONE.fullmatch, pair)) else last)
    found = {one or other for one, other in _VERDICT.findall(last)}
    if len(found) != 1:
        return Game(order, UNCLEAR, said)
    return Game(order, _model(order, found.pop()), said)


def _model(order: str, letter: str) -> str:
    """Whom the judge means by A or B, which it knows by their places; C is a tie."""
    return TIE if letter == "C" else order["AB".index(letter)]


def _scored(order: str, said: str, line: str) -> Game:
    names, scores = [], []
    for found in _SCORE.finditer(line):
        names.append(found["outside"] or found["inside"] or "")
        scores += [float(found[group]) for group in ("one", "other") if found[group]]
    if len(scores) != 2 or not all(_LEAST_SCORE <= score <= _MOST_SCORE for score in scores):
        return Game(order, UNCLEAR, said)
    turned = names == ["B", "A"]
    if not turned and any(name not in ("", place) for name, place in zip(names, "AB", strict=False)):
        return Game(order, UNCLEAR, said)
    first, second = reversed(scores) if turned else scores
    letter = "C" if abs(first - second) <= EQUAL_SCORES + 1e-9 else "A" if first > second else "B"
    score_a, score_b = (first, second) if order == "ab" else (second, first)
    return Game(order, _model(order, letter), said, score_a, score_b)


def winner_of(games: Sequence[Game]) -> str:
    """Who won a question that was judged in both orders, or in one; ERROR or UNCLEAR where a game has no winner."""
    winners = {game.winner for game in games}
    for without in (ERROR, UNCLEAR):
        if without in winners:
            return without
    return winners.pop() if len(winners) == 1 else TIE


def first_place(games: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """How often the answer that stood first won, and the one that stood second: (first, second), ties left out."""
    decided = [game for game in games if game["winner"] in (A, B)]
    first = sum(game["order"][0] == game["winner"] for game in decided)
    return first, len(decided) - first
