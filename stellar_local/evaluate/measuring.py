"""Measuring models: a task's items put to each model, outcomes judged and logged as they come, figures made of them.

Run again, it goes on with the logs it finds: nothing that was measured is measured twice, and what failed is tried
again. Knows tasks by their protocol alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

from ..console import progress, say, warn
from ..engine import Answer
from ..errors import ExitCode, StellarError
from ..files import ensure_folder, sha256
from ..flags import Setup
from ..records import error_record
from .asking import Asker, Expand, Item, Outcome, Single
from .results import (
    MARK,
    Log,
    Metric,
    Summary,
    log_path,
    open_log,
    read_log,
    read_summary,
    summary_path,
    write_summary,
)
from .showing import show
from .subject import Subject, describe, subjects, surroundings, template_named

_MOST_ERRORS = 5  # that are told one by one
SCORED_AT_ONCE = 256  # logits of prompts; more is hardly faster, and each takes 4 bytes a token of the vocabulary


class Task(Protocol):
    """What is measured. `settings`, in JSON, and the files `data` are all that its records depend on beside the model.

    `record` turns an item's outcome into what the log keeps of it, "key" excepted; it may raise StellarError, the
    item's error. `summarise` makes the figures and notes of records, each with its key; those with "error" were not
    measured.
    """

    @property
    def name(self) -> str: ...
    @property
    def settings(self) -> Mapping[str, Any]: ...
    @property
    def data(self) -> Sequence[Path]: ...
    def items(self) -> Sequence[Item]: ...
    def record(self, item: Any, outcome: Any) -> dict[str, Any]: ...
    def summarise(self, records: Sequence[Mapping[str, Any]]) -> tuple[list[Metric], list[str]]: ...


@dataclass(frozen=True)
class Measurement:
    """How to measure: the models, where results go, and the command line's options for running a model."""

    models: Sequence[Path]
    out: Path
    flags: dict[str, Any]
    labels: Sequence[str] = ()
    all_levels: bool = False
    limit: int | None = None
    parallel: int | None = None
    deterministic: bool = False
    verbose: bool = False
    json: bool = False
    command: str = ""
    hashes: Path | None = None  # the folder that keeps the hashes of models, if it is another than `out`


@dataclass
class Measured:
    """What came of it: the exit code, and a summary of each model that was reached."""

    code: ExitCode = ExitCode.DONE
    summaries: list[Summary] = field(default_factory=list)


@dataclass(frozen=True)
class Logged:
    """One model's log after a run: its records of the items asked for, in their order; how many items are `missing`;
    how many more it has that were not asked for; the signal that ended the run, if one did; and its speed, {} where
    nothing was measured anew.
    """

    subject: Subject
    path: Path
    header: dict[str, Any]
    records: list[dict[str, Any]]
    missing: int
    beyond: int
    code: ExitCode | None
    speed: Mapping[str, Any]

    @property
    def failed(self) -> list[dict[str, Any]]:
        """The records of items that failed."""
        return [one for one in self.records if "error" in one]


def measure(task: Task, how: Measurement) -> Measured:
    """Measure every model, one after the other, and print the figures. Raises StellarError where nothing can begin."""
    measured = Measured()
    for one in logged(task, how):
        if isinstance(one, StellarError):
            measured.code = ExitCode.FAILED
            continue
        measured.summaries.append(_summary(task, one))
        if one.failed:
            measured.code = ExitCode.FAILED
        if one.code:
            measured.code = one.code
    show(measured.summaries, measured.code, how.json)
    return measured


def logged(task: Task, how: Measurement) -> Iterator[Logged | StellarError]:
    """Put the items that their logs lack to every model, one after the other, until a signal ends it.

    Of several models one that cannot be run is told of, and given as its error. Raises StellarError where it is the
    only one, or nothing can begin.
    """
    setup = Setup(how.flags, how.verbose)
    found = subjects(how.models, setup.runtime, how.labels, how.all_levels)
    items = list(task.items())[: how.limit]
    if not items:
        raise StellarError(f"{task.name}: there is nothing to measure", "check the data")
    if len({item.key for item in items}) < len(items):
        raise StellarError(
            f"{task.name}: two items have the same key", "give each file and each item a name of its own"
        )
    ensure_folder(how.out)
    data = [{"file": path.name, "sha256": sha256(path)} for path in task.data]
    for subject in found:
        try:
            one = _one(task, how, subject, setup, data, items)
        except StellarError as error:
            if len(found) == 1:
                raise
            warn(f"{subject.label}: {error.message}" + (f" ({error.hint})" if error.hint else ""))
            yield error
            continue
        yield one
        if one.code:
            return


def _one(
    task: Task,
    how: Measurement,
    subject: Subject,
    setup: Setup,
    data: Sequence[Mapping[str, Any]],
    items: Sequence[Item],
) -> Logged:
    options = setup.runtime
    header = {
        "task": task.name,
        "model": describe(subject, options, how.hashes or how.out),
        "settings": {
            **task.settings,
            "template": template_named(options),
            "kv": options.kv or "",
            "deterministic": how.deterministic,
        },
        "data": list(data),
        "command": how.command,
        **surroundings(),
        "started": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    path = log_path(how.out, task.name, subject.label)
    code: ExitCode | None = None
    speed: dict[str, Any] = {}
    with open_log(path, header) as log:
        left = [item for item in items if not _is_done(item, log.done)]
        if done := len(items) - len(left):
            say(f"{subject.label}: {done} of {len(items)} items were measured before")
        if left:
            code, speed = _run(task, how, subject, setup, log, left)
        missing = sum(not _is_done(item, log.done) for item in items)
    header, records = read_log(path)
    header.pop(MARK, None)
    wanted = {item.key: number for number, item in enumerate(items)}

    parts = {one["key"]: one["expanded"] for one in records if "expanded" in one}

    def place(record: Mapping[str, Any]) -> tuple[int, int] | None:
        """The item that a record belongs to, and its part of it."""
        key = str(record["key"])
        if key in wanted:
            return None if key in parts else (wanted[key], 0)
        whole, _, part = key.rpartition("#")
        known = whole in wanted and part.isdecimal() and int(part) < parts.get(whole, 0)
        return (wanted[whole], int(part)) if known else None

    own = sorted(((at, one) for one in records if (at := place(one)) is not None), key=lambda pair: pair[0])
    beyond = sum("expanded" not in one and "error" not in one and place(one) is None for one in records)
    failed = {number for (number, _), one in own if "error" in one}
    return Logged(subject, path, header, [one for _, one in own], max(0, missing - len(failed)), beyond, code, speed)


def unfinished(task: Task, how: Measurement) -> bool:
    """Whether some model's log lacks some item. What is wrong with models and logs is told where they are measured."""
    setup = Setup(how.flags, how.verbose)
    items = list(task.items())[: how.limit]
    for subject in subjects(how.models, setup.runtime, how.labels, how.all_levels):
        path = log_path(how.out, task.name, subject.label)
        try:
            _, records = read_log(path)
        except StellarError:
            return True
        done = {str(one["key"]): one for one in records if "error" not in one}
        if not all(_is_done(item, done) for item in items):
            return True
    return False


def _is_done(item: Item, done: Mapping[str, Mapping[str, Any]]) -> bool:
    found = done.get(item.key)
    if not isinstance(item, Expand) or found is None:
        return found is not None
    return all(f"{item.key}#{number}" in done for number in range(int(found["expanded"])))


def _summary(task: Task, one: Logged) -> Summary:
    """The figures of a log, told and written."""
    try:
        metrics, notes = task.summarise(one.records)
    except (KeyError, TypeError, ValueError, AttributeError) as error:  # somebody has edited it
        raise StellarError(
            f"{one.path} holds a record that cannot be read: {type(error).__name__}: {error}",
            "mend it, or move the file away to measure anew",
        ) from error
    if one.beyond:
        notes = [*notes, f"{one.beyond} more items are in the log, which this --limit leaves out"]
    if one.missing:
        notes = [*notes, f"{one.missing} items are not measured yet"]
    if one.failed:
        notes = [*notes, f"{len(one.failed)} of {len(one.records)} items failed"]
        for record in one.failed[:_MOST_ERRORS]:
            warn(f"{one.subject.label}: {record['key']}: {record['error']['message']}")
        if len(one.failed) > _MOST_ERRORS:
            warn(f"… and {len(one.failed) - _MOST_ERRORS} more: {one.path} has them all")
        say("the same command tries again what failed")
    speed = one.speed
    if not speed and summary_path(one.path).exists():  # nothing was measured anew
        with suppress(StellarError):
            speed = read_summary(summary_path(one.path)).speed
    summary = Summary(one.header, tuple(metrics), tuple(notes), speed)
    return replace(summary, path=write_summary(one.path, summary))


def _run(
    task: Task, how: Measurement, subject: Subject, setup: Setup, log: Log, left: Sequence[Item]
) -> tuple[ExitCode | None, dict[str, Any]]:
    # The file is chosen: where memory is short no other level takes its place unnoticed.
    options = replace(setup.runtime, level=None)
    parallel = 1 if how.deterministic else how.parallel
    runtime = setup.open(
        subject.path, options, parallel=parallel, deterministic=how.deterministic, outputs=SCORED_AT_ONCE
    )
    for note in runtime.notes:
        warn(f"{subject.label}: {note}")

    def put(item: Single, outcome: Outcome | StellarError) -> None:
        try:
            if isinstance(outcome, StellarError):
                raise outcome
            record = task.record(item, outcome)
            if isinstance(outcome, Answer) and not outcome.scores:
                record.setdefault("tokens", outcome.usage.completion_tokens)
        except StellarError as error:
            record = {"error": error_record(item.key, 0, error)["error"]}
        log.add({"key": item.key, **record})
        bar.advance(shares.pop(item.key, 1.0))

    shares: dict[str, float] = {}  # of its item, that a part is

    def singles() -> Iterator[Single]:
        """The items one by one, those of several parts made into them when it is their turn."""
        for item in left:
            if not isinstance(item, Expand):
                yield item
                continue
            try:
                parts = item.make(runtime)
            except StellarError as error:
                log.add({"key": item.key, "error": error_record(item.key, 0, error)["error"]})
                bar.advance()
                continue
            if log.done.get(item.key, {}).get("expanded") != len(parts):
                log.add({"key": item.key, "expanded": len(parts)})
            waiting = [part for part in parts if part.key not in log.done]
            shares.update((part.key, 1 / len(waiting)) for part in waiting)
            yield from waiting

    with runtime, progress(f"{subject.label}: {task.name}", len(left), "items") as bar:
        before, began = runtime.engine.work, time.monotonic()
        code = Asker(runtime, put).run(singles())
        seconds = time.monotonic() - began
        prompt, generated = (after - then for after, then in zip(runtime.engine.work, before, strict=True))
        parallel = runtime.engine.parallel
    speed = {
        "prompt_tokens": prompt,
        "completion_tokens": generated,
        "seconds": round(seconds, 3),
        "tokens_per_second": round((generated or prompt) / max(seconds, 1e-9), 2),
        "parallel": parallel,
    }
    return code, speed
