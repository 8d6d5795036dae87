"""Runs items through the engine and gives back records in input order. Knows neither streams nor files."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ..engine import Answer, Stream
from ..errors import RequestError, StellarError
from ..records import error_record
from ..session import Runtime
from .reader import Item


@dataclass
class Summary:
    """What a batch came to."""

    answered: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


def run_batch(runtime: Runtime, items: Iterable[Item], summary: Summary) -> Iterator[dict[str, Any]]:
    """One record for each item, in order, as soon as it is due; `summary` counts along.

    As many requests are under way as the engine has sequences, and one waits: reading further ahead would hold up
    whoever feeds us line by line.
    """
    ahead = runtime.engine.parallel
    under_way: deque[tuple[Item, Stream | StellarError]] = deque()
    try:
        for item in items:
            under_way.append((item, _submit(runtime, item)))
            if len(under_way) >= ahead:
                yield _record(*under_way.popleft(), summary)
        while under_way:
            yield _record(*under_way.popleft(), summary)
    finally:
        for _, stream in under_way:
            if isinstance(stream, Stream):
                stream.cancel()


def _submit(runtime: Runtime, item: Item) -> Stream | StellarError:
    if item.error:
        return item.error
    try:
        return runtime.engine.submit(runtime.request(item.turns, item.sampling, item.system))
    except StellarError as error:
        return error if isinstance(error, RequestError) else RequestError("invalid_request", error.message, error.hint)


def _record(item: Item, stream: Stream | StellarError, summary: Summary) -> dict[str, Any]:
    try:
        if isinstance(stream, StellarError):
            raise stream
        answer = stream.answer
    except StellarError as error:
        summary.failed += 1
        return error_record(item.id, item.index, error)
    summary.answered += 1
    summary.prompt_tokens += answer.usage.prompt_tokens
    summary.completion_tokens += answer.usage.completion_tokens
    return answer_record(item, answer)


def answer_record(item: Item, answer: Answer) -> dict[str, Any]:
    """The output object of one answer; times in seconds."""
    usage, timing = answer.usage, answer.timing
    return {
        "id": item.id,
        "index": item.index,
        "text": answer.text,
        "finish_reason": answer.finish_reason,
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "cached_tokens": usage.cached_tokens,
        },
        "seed": answer.seed,
        "timing": {
            "queued": round(timing.queued, 4),
            "prompt": round(timing.prompt, 4),
            "generation": round(timing.generation, 4),
            "tokens_per_second": round(timing.tokens_per_second(usage.completion_tokens), 2),
        },
    }
