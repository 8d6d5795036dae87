"""The two sides of a comparison: models that answer the questions here, or files of answers made elsewhere.

Knows both kinds; knows no judge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ...config import SamplingOptions
from ...console import say
from ...errors import ExitCode, UsageError
from ...files import sha256
from ...flags import Setup
from ..subject import Subject, describe, subjects, surroundings
from .answering import TASK, answer_all, answers_path, stored_answers
from .given import is_answers, read_answers
from .pairs import Replies
from .questions import Question


@dataclass(frozen=True)
class Contestant:
    """One side: its label, what a header says of it, and its answers by the questions' keys."""

    label: str
    about: Mapping[str, Any]
    replies: Replies


@dataclass(frozen=True)
class Terms:
    """How models answer: the folder of their logs, the options and the system line they run with."""

    folder: Path
    setup: Setup
    sampling: SamplingOptions
    system: str | None
    parallel: int | None
    command: str


def contestants(
    paths: Sequence[Path], labels: Sequence[str], questions: Sequence[Question], terms: Terms
) -> tuple[list[Contestant], ExitCode | None]:
    """Both sides with their answers; models answer one after the other. With the signal that ended it early, if any:
    the sides that were not reached are missing then.

    Raises UsageError, StellarError where a side cannot answer at all.
    """
    if labels and len(labels) != len(paths):
        raise UsageError(f"{len(labels)} labels for {len(paths)} models", "give one --label for each, in their order")
    models = [path for path in paths if not is_answers(path)]
    given = [label for path, label in zip(paths, labels, strict=False) if not is_answers(path)]
    named = iter(subjects(models, terms.setup.runtime, given) if models else [])
    chosen = labels or [path.stem for path in paths]
    sides = [
        Subject(path, label) if is_answers(path) else next(named) for path, label in zip(paths, chosen, strict=True)
    ]
    if len({side.label for side in sides}) < len(sides):
        raise UsageError("both sides have the same label", "give each its own with --label")
    # Files first: what is wrong with them is told before the slow part.
    files = {side.label: read_answers(side.path, questions) for side in sides if is_answers(side.path)}
    found: list[Contestant] = []
    for side in sides:
        if side.label in files:
            about = {"label": side.label, "file": side.path.name, "sha256": sha256(side.path)}
            found.append(Contestant(side.label, about, files[side.label]))
            continue
        header = _header(side, terms)
        code = answer_all(
            side, questions, terms.setup, terms.sampling, header, terms.folder, terms.system, terms.parallel
        )
        if code:
            return found, code
        path = answers_path(terms.folder, side.label)
        found.append(Contestant(side.label, header["model"], stored_answers(path, questions)))
        say(f"{side.label}: its answers are in {path}")
    return found, None


def _header(side: Subject, terms: Terms) -> dict[str, Any]:
    options = terms.setup.runtime
    settings = {
        **asdict(terms.sampling),
        "system": terms.system,
        "template": options.template or "",
        "kv": options.kv or "",
    }
    return {
        "task": TASK,
        "model": describe(side, options, terms.folder),
        "settings": settings,
        "command": terms.command,
        **surroundings(),
        "started": now(),
    }


def now() -> str:
    """The time as headers say it."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
