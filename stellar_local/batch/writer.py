"""Answers → records → output in one of three forms, flushed one by one. Knows the forms; knows no model.

`jsonl` loses nothing. `text` and `csv` are for reading and for spreadsheets: control characters are taken out of them.
"""

from __future__ import annotations

import csv
import io
import math
import re
import select
import time
from collections.abc import Mapping
from typing import IO, Any

from ..console import printable, say
from ..engine import Answer
from ..engine.job import told
from ..records import error_record, to_line
from .fields import Item

_LINE_BREAK = re.compile("\r\n|[\n\r\x0b\x0c\x85\u2028\u2029]")
_COLUMNS = ("id", "index", "text", "finish_reason", "prompt_tokens", "completion_tokens", "error")
_LEAST_LOGPROB = -9999.0  # what OpenAI writes for a probability of 0: JSON has no infinity


def record_of(item: Item, outcome: Answer | BaseException) -> dict[str, Any]:
    """The output object of one answer, times in seconds; or of the error that came instead."""
    if isinstance(outcome, BaseException):  # a defect costs this line, not the others
        return error_record(item.id, item.index, told(outcome))
    usage, timing = outcome.usage, outcome.timing
    record: dict[str, Any] = {
        "id": item.id,
        "index": item.index,
        "text": outcome.text,
        "finish_reason": outcome.finish_reason,
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "cached_tokens": usage.cached_tokens,
        },
        "seed": outcome.seed,
        "timing": {
            "queued": round(timing.queued, 4),
            "prompt": round(timing.prompt, 4),
            "generation": round(timing.generation, 4),
            "tokens_per_second": round(timing.tokens_per_second(usage.completion_tokens), 2),
        },
    }
    if item.sampling.logprobs is not None:
        record["logprobs"] = {"content": [_logprob(token) for token in outcome.logprobs]}
    return record


def _logprob(token: Any) -> dict[str, Any]:
    """One token in the form of OpenAI's chat completions."""
    return {
        **_candidate(token.piece, token.logprob),
        "top_logprobs": [_candidate(piece, logprob) for _, piece, logprob in token.top],
    }


def _candidate(piece: bytes, logprob: float) -> dict[str, Any]:
    value = round(logprob, 6) if math.isfinite(logprob) else _LEAST_LOGPROB
    return {"token": piece.decode("utf-8", "replace"), "logprob": value, "bytes": list(piece)}


class Writer:
    """Writes each record as one line at once, so that a reader sees an answer when it is due.

    A closed pipe raises BrokenPipeError, which the command line turns into a quiet end; other failures of the stream
    raise OSError.
    """

    def __init__(self, stream: IO[bytes], format: str = "jsonl") -> None:
        self._stream = stream
        self._line = {"jsonl": _json_line, "text": _text_line, "csv": _csv_line}[format]
        if format == "csv":
            self._put(_csv(_COLUMNS))

    def write(self, record: Mapping[str, Any]) -> None:
        """Write one record and flush it."""
        self._put(self._line(record))

    def _put(self, line: str) -> None:
        """Write a line whole: without a buffer of Python's, or where a pipe does not block, a call may take a part."""
        rest = memoryview(line.encode("utf-8", "replace"))
        while rest:
            try:
                taken = self._stream.write(rest)
            except BlockingIOError as error:
                taken = error.characters_written
            if not taken:
                self._wait()
            rest = rest[taken or 0 :]
        while True:
            try:
                self._stream.flush()
                return
            except BlockingIOError:
                self._wait()

    def _wait(self) -> None:
        """Until the reader has made room."""
        try:
            select.select([], [self._stream.fileno()], [], 1.0)
        except (OSError, ValueError):  # Windows selects among sockets only
            time.sleep(0.01)


def _json_line(record: Mapping[str, Any]) -> str:
    return to_line(record) + "\n"


def _text_line(record: Mapping[str, Any]) -> str:
    """The answer on one line; an error as an empty line, and told on stderr."""
    if "error" in record:
        say(f"line {record['index'] + 1}: {_LINE_BREAK.sub(' ', record['error']['message'])}")
        return "\n"
    return printable(_LINE_BREAK.sub(r"\\n", record["text"])) + "\n"


def _csv_line(record: Mapping[str, Any]) -> str:
    usage = record.get("usage", {})
    cells = {**record, **usage, "error": record.get("error", {}).get("message", "")}
    return _csv([cells.get(name, "") for name in _COLUMNS])


def _csv(cells: Any) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(
        [printable(cell) if isinstance(cell, str) else str(cell) for cell in cells]
    )
    return out.getvalue()
