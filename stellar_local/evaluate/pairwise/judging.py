"""A model as the judge: every pair in both orders, each judgement kept by what was asked, games made of them.

What was judged once is not asked again, whoever runs it later and with whatever network. Knows judges by their
protocol; knows neither HTTP nor engines.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ...console import progress, say
from ...errors import ExitCode, RequestError, StellarError
from ...records import error_record
from ..results import log_path, open_log
from .endpoint import Judgement, tokens_of
from .pairs import Pair
from .verdicts import ERROR, NOT_YET, ORDERS, Game, game_of, mark_of
from .wording import judging_prompt

Put = Callable[[str, Judgement | StellarError], None]


class Judge(Protocol):
    """Who judges. `identity`, in JSON, is all that its judgements depend on beside the prompt, and `max_tokens` where
    they end at the latest: one that ended before would be no other with more.
    """

    @property
    def name(self) -> str: ...
    @property
    def identity(self) -> Mapping[str, Any]: ...
    @property
    def max_tokens(self) -> int: ...
    def run(self, prompts: Sequence[tuple[str, str]], put: Put) -> ExitCode | None:
        """Judge prompts, each with its key; `put` gets what came of each, from one thread at a time.

        The first Ctrl-C or SIGTERM lets what is in hand end; its exit code is returned. Raises StellarError where
        going on is of no use.
        """


@dataclass
class Judged:
    """What came of it: the games of each pair by its question's key, tokens and calls, and how it ended.

    `stopped` is why the judge cannot go on, None if it could; `code` the signal that ended it.
    """

    games: dict[str, tuple[Game, ...]] = field(default_factory=dict)
    asked: int = 0  # judgements that were asked for now
    kept: int = 0  # … and that were there before
    left: int = 0  # … and that are still missing
    prompt_tokens: int = 0  # of all judgements, those that were there before included
    completion_tokens: int = 0
    asked_tokens: tuple[int, int] = (0, 0)  # of those that were asked for now: prompts', judgements'
    code: ExitCode | None = None
    stopped: StellarError | None = None


def judge_pairs(
    pairs: Sequence[Pair],
    judge: Judge,
    folder: Path,
    scoring: str = "verdict",
    orders: Sequence[str] = ORDERS,
    offline: bool = False,
) -> Judged:
    """Have all pairs judged, each in all `orders`, except those that are the same: nobody need judge them.

    With `offline` only what is kept counts; else what was cut at a lower limit is judged again. A judgement without a
    word is a failure, and as such made again. Raises StellarError
    where the judgements cannot be kept.
    """
    judged = Judged()
    prompts = {
        (pair.question.key, order): _prompt(pair, order, scoring) for pair in pairs if not pair.same for order in orders
    }
    keys = {place: _key(judge.identity, prompt) for place, prompt in prompts.items()}
    header = {"task": "judgements", "model": {"label": judge.name}}
    failed: dict[str, StellarError] = {}
    with open_log(log_path(folder, "judgements", judge.name), header) as log:

        def there() -> set[str]:
            limit = 0 if offline else judge.max_tokens
            return {key for key in keys.values() if key in log.done and _is_final(log.done[key], limit)}

        kept = there()
        left = {keys[place]: prompt for place, prompt in prompts.items() if keys[place] not in kept}
        judged.kept = len(kept)
        if kept:
            say(f"{judge.name}: {len(kept)} of {len(kept) + len(left)} judgements were made before")

        def put(key: str, outcome: Judgement | StellarError) -> None:
            if isinstance(outcome, Judgement) and outcome.empty:
                outcome = RequestError("no_answer", "the judge's answer is empty", "run the same command again")
            if isinstance(outcome, StellarError):
                failed[key] = outcome
                log.add({"key": key, "error": error_record(key, 0, outcome)["error"]})
            else:
                log.add({"key": key, **_stored(outcome), "max_tokens": judge.max_tokens})
                judged.asked += 1
                prompt, completion = judged.asked_tokens
                judged.asked_tokens = prompt + outcome.prompt_tokens, completion + outcome.completion_tokens
            bar.advance()

        if left and not offline:
            with progress(f"{judge.name}: judgements", len(left), "judgements") as bar:
                try:
                    judged.code = judge.run(list(left.items()), put)
                except StellarError as error:
                    judged.stopped = error
        done = {key: _judgement(log.done[key]) for key in there()}
    judged.prompt_tokens = sum(one.prompt_tokens for one in done.values())
    judged.completion_tokens = sum(one.completion_tokens for one in done.values())
    judged.left = len(set(keys.values()) - set(done))
    for pair in pairs:
        own = {order: keys[pair.question.key, order] for order in orders if (pair.question.key, order) in keys}
        judged.games[pair.question.key] = tuple(
            _game(order, scoring, done.get(key), failed.get(key)) for order, key in own.items()
        )
    return judged


def _game(order: str, scoring: str, said: Judgement | None, error: StellarError | None) -> Game:
    if said is not None:
        return game_of(order, scoring, said.text, said.cut)
    return Game(order, ERROR, error.message if error else NOT_YET)


def _prompt(pair: Pair, order: str, scoring: str) -> str:
    question = pair.question
    first, second = (pair.a, pair.b) if order == "ab" else (pair.b, pair.a)
    mark = mark_of([*question.turns, *question.references, *first, *second])
    return judging_prompt(question.language, scoring, mark, question.turns, first, second, question.references)


def _key(identity: Mapping[str, Any], prompt: str) -> str:
    content = json.dumps([identity, prompt], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def _stored(judgement: Judgement) -> dict[str, Any]:
    usage = {"prompt_tokens": judgement.prompt_tokens, "completion_tokens": judgement.completion_tokens}
    return {"text": judgement.text, "cut": judgement.cut, "usage": usage}


def _is_final(record: Mapping[str, Any], limit: int) -> bool:
    """Whether there is an answer, and so many tokens would bring no more of it."""
    judgement, had = _judgement(record), record.get("max_tokens", limit)
    return not judgement.empty and (not judgement.cut or (isinstance(had, int) and had >= limit))


def _judgement(record: Mapping[str, Any]) -> Judgement:
    """A judgement as it was kept; one without a text, which only a hand can have made of it, is empty."""
    text = record.get("text")
    return Judgement(text if isinstance(text, str) else "", bool(record.get("cut")), *tokens_of(record.get("usage")))
