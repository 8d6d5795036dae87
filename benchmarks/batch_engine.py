"""Our engine as batch.py runs it, and what it counts: fresh each time, greedy, all requests submitted at once.

Uses the engine's documented interface; the one thing it looks into is when each decode call ended, since only that
tells how many tokens came after a moment in the middle.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from peers import WARM_UP, Machine, Prompts, Run

from stellar_local.config import SamplingOptions
from stellar_local.engine import Engine, Request, Stream
from stellar_local.native.context import Context
from stellar_local.native.model import Model
from stellar_local.runtime import KEPT_PREFIXES


def run_engine(
    model: Model, machine: Machine, prompts: Prompts, sequences: int, n_ctx: int, count: int, unified: bool = True
) -> Run:
    """Submit all prompts at once to a fresh engine, so that nothing of an earlier round is in its memory."""
    context = Context(model, n_ctx, sequences, n_batch=machine.batch, threads=machine.threads, unified=unified)
    steps: list[float] = []
    decode = context.decode

    def counted(*args: Any, **named: Any) -> Any:
        outcome = decode(*args, **named)
        steps.append(time.monotonic())
        return outcome

    with Engine(context) as engine:
        engine.submit(Request((prompts[0][-1],) * 2, _greedy(WARM_UP))).answer  # noqa: B018
        context.decode = counted
        requests = [Request(tuple(prompt), _greedy(count)) for prompt in prompts]
        ends: dict[Stream, float] = {}  # by the engine's thread: ours may be held up between two instructions

        def end(stream: Stream) -> None:
            ends[stream] = time.monotonic()

        started = time.monotonic()
        streams = [engine.submit(request, end) for request in requests]
        answers = [stream.answer for stream in streams]
        ended = time.monotonic()
    firsts = [ends[stream] - answer.timing.generation for stream, answer in zip(streams, answers, strict=True)]
    # While all run, a step is a token of each; before, prompts are read beside, and afterwards some have ended.
    all_run, one_ended = max(firsts), min(ends.values())
    rounds = sum(all_run < step <= one_ended for step in steps)
    tokens = [list(answer.tokens) for answer in answers]
    return Run(tokens, ended - started, max(one_ended - all_run, 0.0), rounds * len(prompts))


def _greedy(count: int) -> SamplingOptions:
    return SamplingOptions(temperature=0, max_tokens=count)


def fresh_process(
    machine: Machine, prompts: Prompts, counts: Sequence[int], n_ctx: int, sequences: int
) -> list[list[int]]:
    """Load the model and answer all prompts, at most `counts` tokens each."""
    with Model(machine.model, gpu_layers=machine.gpu_layers) as model:
        # Sequences beyond those that run keep prefixes, as the command line has it.
        context = Context(model, n_ctx, sequences + KEPT_PREFIXES, n_batch=machine.batch, threads=machine.threads)
        with Engine(context, sequences) as engine:
            requests = [Request(tuple(prompt), _greedy(count)) for prompt, count in zip(prompts, counts, strict=True)]
            streams = [engine.submit(request) for request in requests]
            return [list(stream.answer.tokens) for stream in streams]
