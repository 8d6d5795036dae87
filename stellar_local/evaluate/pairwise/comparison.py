"""One comparison of two models, from the questions to the figures: the steps of `stellar eval compare`.

Knows the steps and their order; what a step does is known by those it calls. What is done is on disk, whatever ends it.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from ... import console
from ...config import ChatOptions, RuntimeOptions, SamplingOptions
from ...console import one_line, say, warn
from ...errors import ExitCode, StellarError, UsageError
from ...files import ensure_folder, sha256
from ...flags import Setup
from ...spec import specs
from ...texts import language_of
from ..flags import command_line, sampling_of
from ..results import Summary, log_path, open_log, read_log
from ..subject import known_hash, subjects, surroundings
from ..tables import compared
from .ballots import Ballots, is_whole, vote_on
from .contestants import Contestant, Terms, contestants, now
from .endpoint import Endpoint
from .judges import EndpointJudge, LocalJudge
from .judging import Judge, Judged, judge_pairs
from .page import possible, show
from .pairs import Pair, paired
from .questions import read_questions
from .records import by_games, by_votes, unanswered
from .store import MAJORITY, PEOPLE, TASK, check_name, keep
from .verdicts import NOT_YET, ORDERS

_LONGEST = 1024  # tokens of an answer, as FastChat's
_MOST_ERRORS = 5  # that are told one by one


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


class Comparison:
    """One run of the command. Raises UsageError for options that do not go together, before anything runs."""

    def __init__(self, paths: Sequence[Path], given: Mapping[str, Any]) -> None:
        self._paths, self._given, self._out = paths, given, given["out"]
        self._judge = given["judge"] or ("" if given["answers_only"] else PEOPLE)
        self._to_judge = 0  # questions that a person has left
        self._closed: ExitCode | None = None  # the signal that closed a person's page
        self._check()
        runs = {*specs(RuntimeOptions), *specs(SamplingOptions)}
        self._setup = Setup({name: value for name, value in given.items() if name in runs}, given["verbose"])
        self._questions, self._broken = read_questions(given["questions"], given["limit"])

    def _check(self) -> None:
        given, judge = self._given, self._judge
        if given["answers_only"] and given["judge"]:
            raise UsageError("--answers-only judges nothing", "leave out --judge or --answers-only")
        if judge == "openai" and not (given["endpoint"] and given["judge_model"]):
            raise UsageError("--judge openai needs --endpoint URL and --judge-model NAME", "give both")
        if judge != "openai" and (given["endpoint"] or given["judge_model"]):
            raise UsageError("--endpoint and --judge-model go with --judge openai", "add it, or leave them out")
        if judge == PEOPLE and not possible():
            raise UsageError(
                "people judge in a terminal, and this is none",
                "run it in one, let a model judge (--judge openai or --judge MODEL), or add --answers-only",
            )
        if given["judge_name"] == MAJORITY or given["judge_name"] == "":
            raise UsageError(f"--judge-name {given['judge_name']!r} is no judge's name", "choose another")

    def run(self) -> ExitCode:
        """All steps, from the answers to the figures; the exit code. What is done is on disk, whatever ends it."""
        given = self._given
        ensure_folder(self._out)
        judge = self._model_judge() if self._judge not in ("", PEOPLE) else None  # its mistakes come before long work
        sampling = sampling_of(given, max_tokens=_LONGEST)
        terms = Terms(self._out, self._setup, sampling, given["system"], given["parallel"], command_line())
        sides, code = contestants(self._paths, given["labels"], self._questions, terms)
        if code:
            say("interrupted: to go on, run the same command again")
            return code
        one, other = sides
        pairs, missing = paired(self._questions, one.replies, other.replies)
        self._tell({key: error.message for key, error in missing.items()})
        if given["answers_only"]:
            return self._code(bool(missing))
        if not pairs:
            raise StellarError("there is no question that both answered", "see the messages above")
        if judge is None:
            records, about, judged = self._by_people(pairs, sides)
        else:
            records, about, judged = self._by_model(judge, pairs, sides)
            errors = {one["key"]: one["error"]["message"] for one in records if "error" in one}
            self._tell({key: message for key, message in errors.items() if message != NOT_YET})
        order = {question.key: number for number, question in enumerate(self._questions)}
        records = sorted([*records, *unanswered(self._questions, missing)], key=lambda record: order[record["key"]])
        summaries = keep(self._out, self._header(sides, about), records)
        if self._to_judge:  # who wins so far would no longer be blind
            left = _counted(self._to_judge, "question")
            say(f"{about['name']}: {left} still to be judged: run the same command again")
            say(f"figures are shown when all are; stellar eval report {self._out} shows them before")
        else:
            self._show(summaries, sides)
        if self._to_judge and self._closed:
            return self._closed
        decided = any("error" not in record for record in records)
        return self._ended(judged, bool(missing) or (judged is not None and not decided))

    def _by_people(
        self, pairs: Sequence[Pair], sides: Sequence[Contestant]
    ) -> tuple[list[dict[str, Any]], dict[str, Any], Judged | None]:
        """One person's votes, on the page until they are complete or it is closed."""
        name = self._given["judge_name"] or PEOPLE
        about = {"kind": PEOPLE, "name": name}
        check_name(self._out, self._header(sides, about))
        label = f"{sides[0].label} vs {sides[1].label}, {name}"
        path = log_path(self._out, "votes", label)
        seed = read_log(path)[0].get("seed") if path.exists() and path.stat().st_size else None
        seed = seed if isinstance(seed, int) else random.SystemRandom().randrange(1 << 32)
        header = {"task": "votes", "model": {"label": label}, "judge": name, "seed": seed}
        to_judge = [pair for pair in pairs if not pair.same]
        with open_log(path, header) as log:
            if damaged := sum(not is_whole(vote) for vote in log.done.values()):
                warn(f"{path}: {_counted(damaged, 'vote')} damaged and left out")
            ballots = Ballots(to_judge, log, name, seed)
            self._closed = show(ballots, self._setup.options(ChatOptions).ui_lang or language_of())
            votes = dict(log.done)
            self._to_judge = sum(vote_on(pair, votes) is None for pair in to_judge)
        return by_votes(pairs, votes), about, None

    def _by_model(
        self, judge: Judge, pairs: Sequence[Pair], sides: Sequence[Contestant]
    ) -> tuple[list[dict[str, Any]], dict[str, Any], Judged | None]:
        """A model's judgements, and what they cost."""
        given = self._given
        orders = ORDERS[:1] if given["one_order"] else ORDERS
        about: dict[str, Any] = {
            "kind": "model",
            "name": judge.name + ", scores" * (given["scoring"] == "scores") + ", one order" * given["one_order"],
            **judge.identity,
            "max_tokens": judge.max_tokens,
            "scoring": given["scoring"],
            "orders": list(orders),
        }
        check_name(self._out, self._header(sides, about))
        judged = judge_pairs(pairs, judge, self._out, given["scoring"], orders, given["offline"])
        if not judged.asked + judged.kept and judged.left:  # there is nothing to show, and earlier figures stay
            said = {key: [game.said for game in games if game.said != NOT_YET] for key, games in judged.games.items()}
            self._tell({key: messages[0] for key, messages in said.items() if messages})
            left = f"{_counted(judged.left, 'judgement')} missing"
            if judged.stopped:
                say(f"{judge.name}: {left}")
                raise judged.stopped
            if judged.code:
                say("interrupted: to go on, run the same command again")
                raise SystemExit(judged.code)
            hint = "run it without --offline" if given["offline"] else "see the messages above, and run it again"
            raise StellarError(f"{judge.name} has judged nothing: {left}", hint)
        usage: dict[str, Any] = {
            "judgements": judged.asked + judged.kept,
            "prompt_tokens": judged.prompt_tokens,
            "completion_tokens": judged.completion_tokens,
        }
        prices = given["price_in"], given["price_out"]
        told = ""
        if prices != (None, None):
            per_token = [(price or 0.0) / 1e6 for price in prices]
            usage["cost"] = judged.prompt_tokens * per_token[0] + judged.completion_tokens * per_token[1]
            now_cost = judged.asked_tokens[0] * per_token[0] + judged.asked_tokens[1] * per_token[1]
            told = f", at a price of {now_cost:.4f}"
        tokens = f"{judged.asked_tokens[0]:,} tokens of prompts and {judged.asked_tokens[1]:,} of judgements"
        say(f"{judge.name}: {judged.asked} judgements made now, {tokens}{told}; {judged.kept} were there before")
        return by_games(pairs, judged.games), {**about, "usage": usage}, judged

    def _model_judge(self) -> Judge:
        """The judging model. Raises UsageError, ModelError where there is none."""
        given, name = self._given, self._given["judge_name"]
        if self._judge == "openai":
            endpoint = Endpoint(
                given["endpoint"],
                given["judge_model"],
                key=os.environ.get(given["api_key_env"], "").strip(),
                timeout=given["timeout"],
                max_tokens=given["judge_max_tokens"],
            )
            if endpoint.open and not given["offline"]:
                warn("the API key goes to the endpoint unencrypted: https:// keeps it secret")
            return EndpointJudge(name or given["judge_model"], endpoint, given["workers"])
        options = replace(self._setup.runtime, lora=(), template=None, level=None)
        (subject,) = subjects([Path(self._judge)], options, [name] if name else [])
        digest = known_hash(subject.path, self._out)
        return LocalJudge(
            subject.label, subject.path, digest, self._setup, given["judge_max_tokens"], given["parallel"]
        )

    def _header(self, sides: Sequence[Contestant], judge: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "task": TASK,
            "a": dict(sides[0].about),
            "b": dict(sides[1].about),
            "judge": dict(judge),
            "data": [{"file": path.name, "sha256": sha256(path)} for path in self._given["questions"]],
            "command": command_line(),
            **surroundings(),
            "started": now(),
        }

    def _tell(self, failures: Mapping[str, str]) -> None:
        """Of what failed, the first ones and why."""
        for key, message in list(failures.items())[:_MOST_ERRORS]:
            warn(f"{key}: {one_line(message)}")
        if len(failures) > _MOST_ERRORS:
            warn(f"… and {len(failures) - _MOST_ERRORS} more; the log has them all")

    def _show(self, summaries: Sequence[Summary], sides: Sequence[Contestant]) -> None:
        """The figures on stdout, a column for each judge; the notes on this one on stderr."""
        if self._given["as_json"]:
            shown = [
                {
                    "a": sides[0].label,
                    "b": sides[1].label,
                    "judge": summary.header["judge"]["name"],
                    "metrics": [metric.as_json() for metric in summary.metrics],
                    "notes": list(summary.notes),
                    "file": str(summary.path),
                }
                for summary in summaries
            ]
            click.echo(json.dumps(shown, ensure_ascii=False, indent=1))
        else:
            click.echo(f"A: {one_line(sides[0].label)}   B: {one_line(sides[1].label)}")
            named = [
                replace(summary, header={"model": {"label": summary.header["judge"]["name"]}}) for summary in summaries
            ]
            headers, rows = compared(named)
            console.table(headers, rows, file=sys.stdout, lines=False)
        for note in summaries[0].notes:
            say(note)
        say(f"every question with both answers is in {summaries[0].path.with_suffix('.jsonl')}")

    def _ended(self, judged: Judged | None, missing: bool) -> ExitCode:
        if judged is None:
            return self._code(missing)
        if judged.code:
            say("interrupted: to go on, run the same command again")
            return judged.code
        if judged.left:
            how = "without --offline" if self._given["offline"] else "again"
            say(f"{_counted(judged.left, 'judgement')} missing: run the same command {how}")
        if judged.stopped:
            raise judged.stopped
        return self._code(missing or judged.left > 0)

    def _code(self, failed: bool) -> ExitCode:
        return ExitCode.FAILED if failed or self._broken else ExitCode.DONE
