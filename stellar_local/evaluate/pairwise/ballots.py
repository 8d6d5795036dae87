"""People's votes: which answer stands on which side, each vote on disk at once, and what is still to be judged.

Knows votes and their log; knows no terminal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from ..results import Log
from .pairs import Pair
from .verdicts import TIE, A, B

LEFT, RIGHT, EQUAL, BOTH_BAD = "left", "right", "tie", "both_bad"
CHOICES = (LEFT, RIGHT, EQUAL, BOTH_BAD)


def left_model(seed: int, judge: str, key: str) -> str:
    """Whose answer stands on the left, "a" or "b": by chance, and always the same for a judge and a question."""
    return "ab"[hashlib.sha256(f"{seed}\0{judge}\0{key}".encode("utf-8", "replace")).digest()[0] & 1]


class Ballots:
    """One judge's way through the pairs, from the first one without a vote. `log` keeps the votes.

    A vote that was given on other answers than those shown now does not count.
    """

    def __init__(self, pairs: Sequence[Pair], log: Log, judge: str, seed: int) -> None:
        self.pairs, self._log, self._judge, self._seed = pairs, log, judge, seed
        self._at = -1
        self._advance()

    @property
    def current(self) -> Pair | None:
        """The pair to judge; None after the last."""
        return self.pairs[self._at] if self._at < len(self.pairs) else None

    @property
    def number(self) -> int:
        """The current pair's number, from 1."""
        return self._at + 1

    @property
    def left(self) -> str:
        """Which model's answer to the current question stands on the left."""
        return left_model(self._seed, self._judge, self.pairs[self._at].question.key)

    def vote_of(self, pair: Pair) -> Mapping[str, Any] | None:
        """The vote on a pair, if there is one."""
        return vote_on(pair, self._log.done)

    def vote(self, choice: str) -> None:
        """Keep a vote, one of CHOICES, on the current pair, in place of an earlier one, and go on.

        Raises StellarError where it cannot be written; the pair stays current then.
        """
        pair = self.pairs[self._at]
        sides = {LEFT: self.left, RIGHT: "ba"["ab".index(self.left)]}
        self._log.add(
            {
                "key": _place(pair),
                "question": pair.question.key,
                "winner": sides.get(choice, TIE),
                "choice": choice,
                "left": self.left,
                "pair": pair.digest,
                "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            }
        )
        self._advance()

    def skip(self) -> None:
        """Go on without a vote; the next run asks again."""
        self._advance()

    def back(self) -> bool:
        """Go to the pair before, judged or not; false at the first."""
        if self._at == 0:
            return False
        self._at -= 1
        return True

    def _advance(self) -> None:
        self._at += 1
        while self._at < len(self.pairs) and self.vote_of(self.pairs[self._at]):
            self._at += 1


def vote_on(pair: Pair, votes: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Of votes by their keys, the one that was given on just these answers, if it is whole."""
    vote = votes.get(_place(pair))
    return vote if vote and is_whole(vote) else None


def is_whole(vote: Mapping[str, Any]) -> bool:
    """Whether a vote says all that it should; one that was changed by hand may not."""
    known = {"winner": (A, TIE, B), "choice": CHOICES, "left": (A, B)}
    return all(vote.get(name) in values for name, values in known.items())


def _place(pair: Pair) -> str:
    """What a vote is kept by: the question and these answers, so that none takes the place of one on others."""
    return f"{pair.question.key} {pair.digest}"
