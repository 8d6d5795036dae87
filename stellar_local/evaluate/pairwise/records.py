"""What a comparison keeps of each question: both answers, who won and why, or the error that came instead.

Knows pairs, votes and games; writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...errors import RequestError, StellarError
from ...records import error_record
from .ballots import vote_on
from .outcome import WORTH
from .pairs import Pair
from .questions import Question
from .verdicts import CUT, ERROR, NOT_YET, TIE, UNCLEAR, Game, winner_of

Record = dict[str, Any]
_SAME = {"winner": TIE, "score": 0.5, "why": "both said the same"}
_LONGEST = 200  # characters of a judge's last line in a message


def by_votes(pairs: Sequence[Pair], votes: Mapping[str, Mapping[str, Any]]) -> list[Record]:
    """A record of each pair that one person was to judge; `votes` by the questions' keys."""

    def judged(pair: Pair) -> Record:
        vote = vote_on(pair, votes)
        if vote is None:
            raise RequestError("not_judged", NOT_YET)
        why = "both are bad" if vote["choice"] == "both_bad" else ""
        return {"winner": vote["winner"], "score": WORTH[vote["winner"]], "why": why, "left": vote["left"]}

    return [_record(pair, judged) for pair in pairs]


def by_games(pairs: Sequence[Pair], games: Mapping[str, Sequence[Game]]) -> list[Record]:
    """A record of each pair that a model was to judge; `games` by the questions' keys."""

    def judged(pair: Pair) -> Record:
        own = games[pair.question.key]
        winner = winner_of(own)
        if winner in (ERROR, UNCLEAR):
            first = min((game for game in own if game.winner == winner), key=lambda game: game.said == NOT_YET)
            raise RequestError("not_judged", first.said) if winner == ERROR else _unclear(first)
        agreed = len({game.winner for game in own}) == 1
        why = own[0].said if agreed else "the two orders disagree"
        return {"winner": winner, "score": WORTH[winner], "why": why}

    return [{**_record(pair, judged), "games": [game.to_json() for game in games[pair.question.key]]} for pair in pairs]


def _unclear(game: Game) -> StellarError:
    if game.cut:
        return RequestError(CUT, "the judgement was cut before its verdict: allow a longer one with --judge-max-tokens")
    lines = game.said.split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "")
    return RequestError(UNCLEAR, f"the judge's last line holds no verdict: {last.strip()[:_LONGEST]!r}")


def _record(pair: Pair, judged: Callable[[Pair], Record]) -> Record:
    record = {**_question(pair.question), "a": list(pair.a), "b": list(pair.b), "pair": pair.digest}
    if pair.same:
        return {**record, "same": True, **_SAME}
    try:
        return {**record, **judged(pair)}
    except StellarError as error:
        return {**record, "error": error_record(pair.question.key, 0, error)["error"]}


def unanswered(questions: Sequence[Question], missing: Mapping[str, StellarError]) -> list[Record]:
    """A record of each question that a model did not answer, which nobody can judge."""
    return [
        {**_question(question), "error": error_record(question.key, 0, missing[question.key])["error"]}
        for question in questions
        if question.key in missing
    ]


def _question(question: Question) -> Record:
    kept: Record = {"key": question.key, "language": question.language, "kind": question.category}
    kept["question"] = "\n\n".join(question.turns)
    if any(reference.strip() for reference in question.references):
        kept["expected"] = "\n\n".join(question.references)
    return kept
