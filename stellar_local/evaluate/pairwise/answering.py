"""Answers from a model: all questions through the engine, many at once, a conversation turn by turn with the model's
own answers before. Each answer is in a log as it comes; a run goes on with what is there. Knows models and questions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...config import SamplingOptions
from ...console import progress, say, warn
from ...engine import Answer
from ...errors import ExitCode, RequestError, StellarError
from ...flags import Setup
from ...prompts import Turn
from ...records import error_record
from ..asking import Ask, Asker, Outcome, Single
from ..results import Log, log_path, open_log, read_log
from ..subject import Subject
from .pairs import Reply
from .questions import Question

TASK = "answers"


def answers_path(folder: Path, label: str) -> Path:
    """Where a model's answers are kept."""
    return log_path(folder, TASK, label)


def answer_all(
    subject: Subject,
    questions: Sequence[Question],
    setup: Setup,
    sampling: SamplingOptions,
    header: Mapping[str, Any],
    folder: Path,
    system: str | None = None,
    parallel: int | None = None,
) -> ExitCode | None:
    """Have a model answer what its log lacks. Returns the signal that ended it early, None where none came.

    A question that fails is kept as an error, and asked again by the next run. Raises StellarError where the model
    cannot run or the log cannot be written.
    """
    with open_log(answers_path(folder, subject.label), header) as log:
        left = [question for question in questions if len(_known(log, question)) < len(question.turns)]
        if done := len(questions) - len(left):
            say(f"{subject.label}: {done} of {len(questions)} questions were answered before")
        if not left:
            return None
        runtime = setup.open(subject.path, parallel=parallel)
        for note in runtime.notes:
            warn(f"{subject.label}: {note}")
        turns = sum(len(question.turns) - len(_known(log, question)) for question in left)
        with runtime, progress(f"{subject.label}: answers", turns, "answers") as bar:
            conversations = _Conversations(left, log, sampling, system)
            return Asker(runtime, conversations.put, bar).run(conversations)


class _Conversations:
    """Asks each question's turns one after the other: a turn follows as soon as the one before is answered.

    An iterator of what can be asked now; it has more again once an answer was `put`.
    """

    def __init__(self, questions: Sequence[Question], log: Log, sampling: SamplingOptions, system: str | None) -> None:
        self._log, self._sampling, self._system = log, sampling, system
        self._ready = [self._ask(question, _known(log, question)) for question in reversed(questions)]

    def __iter__(self) -> Iterator[Single]:
        return self

    def __next__(self) -> Single:
        if not self._ready:
            raise StopIteration
        return self._ready.pop()

    def put(self, item: Single, outcome: Outcome | StellarError) -> None:
        """Keep an answer, or the error; the next turn is ready then."""
        question, before = item.about
        if isinstance(outcome, StellarError):
            self._log.add({"key": question.key, "error": error_record(question.key, 0, outcome)["error"]})
            return
        assert isinstance(outcome, Answer)
        answers = (*before, outcome.text)
        self._log.add(
            {
                "key": question.key,
                "language": question.language,
                "kind": question.category,
                "question": "\n\n".join(question.turns),
                "answers": answers,
                "asked": _digest(question),
                "finish_reason": outcome.finish_reason,
                "tokens": outcome.usage.completion_tokens,
            }
        )
        if len(answers) < len(question.turns):
            self._ready.append(self._ask(question, answers))

    def _ask(self, question: Question, answers: tuple[str, ...]) -> Ask:
        before = [Turn(asked, answer) for asked, answer in zip(question.turns, answers, strict=False)]
        turns = (*before, Turn(question.turns[len(answers)]))
        return Ask(question.key, turns, self._system, self._sampling, about=(question, answers))


def _digest(question: Question) -> str:
    """What an answer is bound to: another question under the same key is asked anew."""
    return hashlib.sha256(json.dumps(question.turns).encode()).hexdigest()[:16]


def _known(log: Log, question: Question) -> tuple[str, ...]:
    """The answers to a question's first turns that the log has."""
    return _answers(log.done.get(question.key), question)


def _answers(record: Mapping[str, Any] | None, question: Question) -> tuple[str, ...]:
    if not record or record.get("asked") != _digest(question):
        return ()
    answers = record.get("answers")
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        return ()  # changed by hand: it is asked again
    return tuple(answers)[: len(question.turns)]


def stored_answers(path: Path, questions: Sequence[Question]) -> dict[str, Reply]:
    """The log's answers to all questions by their keys; for those without all of them, why. Raises StellarError."""
    records = {record["key"]: record for record in read_log(path)[1]}
    replies: dict[str, Reply] = {}
    for question in questions:
        record = records.get(question.key, {})
        answers = _answers(record, question)
        if "error" in record:
            error = record["error"] if isinstance(record["error"], dict) else {}
            message = str(error.get("message", "it failed"))
            replies[question.key] = RequestError(str(error.get("type", "no_answer")), message)
        elif len(answers) < len(question.turns):
            replies[question.key] = RequestError("no_answer", "it is not answered yet")
        else:
            replies[question.key] = answers
    return replies
