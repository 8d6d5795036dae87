"""`--dry-run`: what a batch would need. Tokens are counted; memory and time are predicted, and said to be.

Memory is a formula over the model's header. Time comes from a short probe of this model on this machine.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from ..config import SamplingOptions
from ..console import table
from ..engine import Request
from ..engine.memory import shared_length
from ..errors import StellarError
from ..plan.choose import kv_memory
from .fields import Item
from .render import Renderer
from .report import duration

if TYPE_CHECKING:
    from ..runtime import Runtime

_PROMPT, _STEPS = 64, 16  # tokens of a probe's prompt, and steps after it
_PROGRAM = 64 << 20  # bytes of Python, NumPy, llama.cpp and a vocabulary


@dataclass
class Counts:
    """What the input comes to. `shared` prompt tokens open the prompt before as well and are computed once."""

    lines: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    prompt: int = 0
    longest: int = 0
    shared: int = 0
    answers: int = 0  # tokens of all answers, at most

    @property
    def valid(self) -> int:
        """The lines that would be run."""
        return self.lines - sum(self.errors.values())


@dataclass(frozen=True)
class Speed:
    """Tokens a second: reading prompts, and generating in all sequences together."""

    prompt: float
    generation: float


def dry_run(runtime: Runtime, items: Iterable[Item], parallel: int, as_json: bool) -> None:
    """Read all items, answer none, and tell: a table on stderr, or JSON on stdout."""
    counts = count(runtime, items)
    memory = predict_memory(runtime)
    speed = probe(runtime, min(parallel, max(counts.valid, 1)))
    prompt = (counts.prompt - counts.shared) / speed.prompt
    generation = counts.answers / speed.generation
    if as_json:
        found: dict[str, Any] = {
            "lines": counts.lines,
            "errors": dict(counts.errors),
            "prompt_tokens": counts.prompt,
            "longest_prompt": counts.longest,
            "shared_tokens": counts.shared,
            "most_completion_tokens": counts.answers,
            "predicted": {
                "memory": {**memory, "total": sum(memory.values())},
                "prompt_tokens_per_second": round(speed.prompt, 1),
                "tokens_per_second": round(speed.generation, 1),
                "prompt_seconds": round(prompt, 4),
                "most_seconds": round(prompt + generation, 4),
            },
        }
        click.echo(json.dumps(found))
        return
    wrong = ", ".join(f"{number} {kind}" for kind, number in counts.errors.items())
    rows = [
        ["lines", f"{counts.lines:,}" + (f", of which errors: {wrong}" if wrong else "")],
        ["prompt tokens", f"{counts.prompt:,}, the longest prompt {counts.longest:,}"],
        ["… shared with the prompt before", f"{counts.shared:,}"],
        ["answer tokens, at most", f"{counts.answers:,}"],
        ["predicted memory, context full", _memory(memory)],
        ["predicted speed", f"{speed.prompt:,.0f} prompt tokens/s, {speed.generation:,.0f} answer tokens/s"],
        [
            "predicted time",
            f"{duration(prompt)} for prompts, {duration(prompt + generation)} if all answers are longest",
        ],
    ]
    table(["", f"{parallel} at once, nothing is answered"], rows)


def _memory(parts: dict[str, int]) -> str:
    each = ", ".join(f"{name} {size / (1 << 20):,.0f}" for name, size in parts.items())
    return f"{sum(parts.values()) / (1 << 20):,.0f} MiB ({each})"


def count(runtime: Runtime, items: Iterable[Item]) -> Counts:
    """Render and tokenize all items."""
    counts, render, room = Counts(), Renderer(runtime), runtime.engine.longest
    before: tuple[int, ...] = ()
    for item in items:
        counts.lines += 1
        try:
            if item.error:
                raise item.error
            request = render(item)
        except StellarError as error:
            counts.errors[getattr(error, "kind", "invalid_request")] += 1
            continue
        size = len(request.tokens)
        if size >= room:
            counts.errors["context_length_exceeded"] += 1
            continue
        counts.prompt += size
        counts.longest = max(counts.longest, size)
        counts.shared += min(shared_length(before, request.tokens), size - 1)
        counts.answers += min(request.sampling.max_tokens or room, room - size)
        before = request.tokens
    return counts


def predict_memory(runtime: Runtime) -> dict[str, int]:
    """Bytes by use. The compute buffers are llama.cpp's for a full batch: its widest rows, its mask and without flash
    attention its scores, in float32, and the logits it may be asked for, once where they are computed and once where
    they are read.
    """
    model, context = runtime.model, runtime.engine.context
    width, inner = model.header.value("embedding_length", 0), model.header.value("feed_forward_length", 0)
    inner = max(inner) if isinstance(inner, list) else inner
    scores = 0 if context.flash else int(model.header.value("attention.head_count", 0))  # each token's and head's
    rows = context.n_batch * (2 * width + 3 * inner + (1 + scores) * context.n_ctx)
    return {
        "weights": model.size,
        "KV": kv_memory(model.header, context.n_ctx, context.kv_type),
        "compute": 4 * (rows + 2 * context.outputs * model.n_vocab),
        "program": _PROGRAM,
    }


def probe(runtime: Runtime, parallel: int) -> Speed:
    """Measure this model here: distinct prompts of 64 tokens at once, then 16 steps after the same prompts."""
    engine, vocabulary = runtime.engine, runtime.model.n_vocab
    numbers = random.Random(0)
    size = max(1, min(_PROMPT, (engine.longest - _STEPS) // 2))
    prompts = [tuple(numbers.randrange(vocabulary) for _ in range(size)) for _ in range(parallel)]

    def run(prompts: list[tuple[int, ...]], tokens: int) -> tuple[int, float]:
        began = time.monotonic()
        streams = [engine.submit(Request(one, SamplingOptions(temperature=0, max_tokens=tokens))) for one in prompts]
        made = sum(stream.answer.usage.completion_tokens for stream in streams)
        return made, max(time.monotonic() - began, 1e-6)

    run([prompts[0][:1]], 2)  # the first decode of all also wakes threads and touches memory
    _, reading = run(prompts, 1)
    first, again = run(prompts, 1)  # the same prompts, which are in memory: what a step costs besides
    made, generating = run(prompts, 1 + _STEPS)
    steps = max(generating - again, 1e-6) if made > first else generating
    return Speed(parallel * size / reading, max(made - first, 1) / steps)
