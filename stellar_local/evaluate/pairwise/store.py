"""A comparison on disk: each judge's log of who won every question, and the summaries of all who judged two models.

Every summary is made anew from the logs, as each also says how far its judge agrees with the others. Knows logs and
figures; knows no judge.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...console import warn
from ...errors import StellarError, UsageError
from ...files import atomic_text
from ...records import to_line
from ..results import FORMAT, Metric, Summary, log_path, read_log, write_summary
from .agreement import agreement, majority
from .endpoint import count_of
from .outcome import WORTH, figures, notes
from .verdicts import ORDERS, TIE

TASK = "compare"
MAJORITY = "majority of the people"
PEOPLE = "human"  # the kind of a judge who is no model
_MOST_SCORE = 10.0
_MOST_COST = 1e12
_JUDGE = ("kind", "name", "model", "sha256")  # of a header: which judge it is

Logged = tuple[Mapping[str, Any], list[dict[str, Any]]]


def keep(folder: Path, header: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> list[Summary]:
    """Write a judge's log, and the summaries of all who judged these answers: this judge's first.

    `header` has the labels of `a` and `b`, and the judge's `kind` and `name`. Raises StellarError where they cannot be
    written, UsageError as `check_name` does; each file is whole or as it was.
    """
    check_name(folder, header)
    _write_log(folder, header, records)
    own, judged = header["judge"]["name"], {one.get("pair") for one in records}
    logged = [
        (other, found)
        for other, found in _logs(folder, header)
        if other["judge"]["name"] == own
        or (other["judge"]["name"] != MAJORITY and any(one.get("pair") in judged for one in found if "pair" in one))
    ]
    logged.sort(key=lambda one: (one[0]["judge"]["name"] != own, one[0]["judge"]["name"]))
    people = [one for one in logged if one[0]["judge"]["kind"] == PEOPLE]
    if len(people) > 1:
        together = _together(header, people)
        _write_log(folder, *together)
        logged.append(together)
    return [_summary(folder, one, logged) for one in logged]


def check_name(folder: Path, header: Mapping[str, Any]) -> None:
    """Raises UsageError where the judge's log would stand in the place of another's: files' names tell judges apart
    less well than names do, and a model may be called as a person is.
    """
    path = _path(folder, header)
    try:
        found = read_log(path)[0] if path.exists() else header
        others = [(found[side]["label"], header[side]["label"]) for side in ("a", "b")]
        others += [(found["judge"].get(part), header["judge"].get(part)) for part in _JUDGE]
        judge = found["judge"]["name"]
    except (StellarError, KeyError, TypeError, AttributeError):
        return  # nobody's
    if any(one != other for one, other in others):
        raise UsageError(
            f"{path} holds what another judge has said, {judge}", "give this one another --judge-name, or another --out"
        )


def _label(header: Mapping[str, Any]) -> str:
    return f"{header['a']['label']} vs {header['b']['label']}, {header['judge']['name']}"


def _path(folder: Path, header: Mapping[str, Any]) -> Path:
    return log_path(folder, TASK, _label(header))


def _write_log(folder: Path, header: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> None:
    first = {"stellar_eval": FORMAT, **header, "model": {"label": _label(header)}}
    atomic_text(_path(folder, header), "".join(f"{to_line(line)}\n" for line in [first, *records]))


def _logs(folder: Path, header: Mapping[str, Any]) -> list[Logged]:
    """The logs of all who judged these two models."""
    found: list[Logged] = []
    for path in sorted(folder.glob(f"{TASK}--*.jsonl")):
        try:
            other, records = read_log(path)
            same = all(other[side]["label"] == header[side]["label"] for side in ("a", "b"))
            if same and other["task"] == TASK and other["judge"]["kind"] and isinstance(other["judge"]["name"], str):
                whole = [record for record in records if _is_whole(record)]
                if damaged := len(records) - len(whole):
                    warn(f"{path}: damaged records are left out: {damaged}")
                found.append((other, whole))
        except StellarError as error:
            warn(f"{error.message}; it is left out")
        except (KeyError, TypeError):
            continue  # another kind of log
    return found


def _is_whole(record: Mapping[str, Any]) -> bool:
    """Whether a record says what figures are made of; one that was changed by hand may not."""
    if not isinstance(record.get("pair", ""), str):
        return False
    if "error" in record:
        error = record["error"]
        return isinstance(error, dict) and isinstance(error.get("type"), str)
    games = record.get("games", [])
    return (
        _is_one_of(record.get("winner"), WORTH)
        and "pair" in record
        and isinstance(games, list)
        and all(map(_is_game, games))
    )


def _is_game(game: Any) -> bool:
    if not isinstance(game, dict):
        return False
    if not (isinstance(game.get("winner"), str) and _is_one_of(game.get("order"), ORDERS)):
        return False
    scores = [game[name] for name in ("score_a", "score_b") if name in game]
    return all(type(score) in (int, float) and 0 <= score <= _MOST_SCORE for score in scores)


def _is_one_of(value: Any, known: Iterable[str]) -> bool:
    return isinstance(value, str) and value in known


def _verdicts(records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Who won, by what was judged: other answers to a question are something else, and equal ones nobody judged."""
    return {_place(one): one["winner"] for one in records if "error" not in one and not one.get("same")}


def _place(record: Mapping[str, Any]) -> str:
    return f"{record['key']} {record['pair']}"


def _together(header: Mapping[str, Any], people: Sequence[Logged]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What most people say, as if it were one more judge."""
    won = majority([_verdicts(records) for _, records in people])
    places = {_place(one): one for _, records in people for one in records if "error" not in one}
    kept = ("key", "language", "kind", "question", "a", "b", "pair", "same")
    records = [
        {**{name: place[name] for name in kept if name in place}, "winner": won.get(key, TIE)}
        for key, place in places.items()
    ]
    names = [one["judge"]["name"] for one, _ in people]
    return {**header, "judge": {"kind": PEOPLE, "name": MAJORITY, "of": names}}, records


def _summary(folder: Path, one: Logged, judges: Sequence[Logged]) -> Summary:
    header, records = one
    metrics, own = figures(records), header["judge"]["name"]
    others = {
        other["judge"]["name"]: _verdicts(found)
        for other, found in judges
        if other["judge"]["name"] not in (own, MAJORITY) and own != MAJORITY and _verdicts(found)
    }
    if len(others) > 1:
        others["the majority of the others"] = majority(list(others.values()))
    for name, verdicts in others.items():
        metrics += _agreed(name, _verdicts(records), verdicts)
    metrics += _cost(header["judge"].get("usage"))
    stored = {name: value for name, value in header.items() if name != "stellar_eval"}
    stored["model"] = {"label": _label(header)}
    said = notes(records, header["a"]["label"], header["b"]["label"])
    path = _path(folder, header)
    summary = Summary(stored, tuple(metrics), tuple(said))
    return Summary(stored, summary.metrics, summary.notes, path=write_summary(path, summary))


def _agreed(name: str, own: Mapping[str, str], other: Mapping[str, str]) -> list[Metric]:
    found = agreement(own, other)
    if not found.both:
        return []
    metrics = [Metric("agreement", found.equal / found.both, name, n=found.both)]
    if found.decided:
        metrics.append(Metric("agreement without ties", found.decided_equal / found.decided, name, n=found.decided))
    if found.kappa is not None:
        shown = f"{found.kappa:.2f}"
        metrics.append(Metric("Cohen's kappa", found.kappa, name, n=found.both, kind="text", text=shown))
    return metrics


def _cost(stored: Any) -> list[Metric]:
    """What the judgements cost, in tokens and, where prices were given, in money."""
    usage = stored if isinstance(stored, dict) else {}
    names = {"prompt_tokens": "judge, prompt tokens", "completion_tokens": "judge, completion tokens"}
    metrics = [
        Metric(label, tokens, kind="count", better="lower", n=count_of(usage.get("judgements")))
        for name, label in names.items()
        if (tokens := count_of(usage.get(name)))
    ]
    cost = usage.get("cost")
    if isinstance(cost, (int, float)) and not isinstance(cost, bool) and 0 <= cost <= _MOST_COST:
        metrics.append(Metric("judge, cost", cost, kind="text", better="lower", text=f"{cost:.4f}"))
    return metrics
