"""One sequence of the context and the request that runs in it: what is in memory, what comes next, when it ends.

Knows token ids and positions. When to run and in which batch is the scheduler's affair.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ..native.context import Context
from ..native.model import Model
from ..native.sampler import Sampler
from .request import Answer, FinishReason, Request, Timing, Usage
from .text import TextStream


class Job:
    """A request on its way: the sampler and text state that survive from step to step.

    `limit` is how many tokens it may generate; `emit` gets each piece of final text.
    """

    def __init__(self, request: Request, limit: int, emit: Callable[[str], None]) -> None:
        self.request, self.limit, self._emit = request, limit, emit
        self.generated: list[int] = []
        self.cached = 0
        self._text = TextStream(request.sampling.stop, request.replace)
        self._parts: list[str] = []
        self._sampler: Sampler | None = None
        self._seed = 0
        self._submitted = time.monotonic()
        self._started = self._first = 0.0

    @property
    def reserved(self) -> int:
        """Cells that the request may come to need."""
        return len(self.request.tokens) + self.limit

    def start(self, model: Model, cached: int) -> None:
        """Begin to run, with `cached` prompt tokens in memory already."""
        self.cached, self._started = cached, time.monotonic()
        self._sampler = Sampler(self.request.sampling, model)
        self._seed = self._sampler.seed
        self._sampler.remember(self.request.tokens)

    def sample(self, context: Context, row: int) -> FinishReason | None:
        """Take the next token from the batch's row `row`; returns the reason if that was the last one."""
        assert self._sampler is not None
        token = self._sampler.sample(context.logits(row))
        self._first = self._first or time.monotonic()
        if context.model.is_eog(token) or token in self.request.stop_tokens:
            return "stop"
        self.generated.append(token)
        self._put(self._text.feed(context.model.piece(token)))
        if self._text.stopped:
            return "stop"
        return "length" if len(self.generated) >= self.limit else None

    def _put(self, text: str) -> None:
        if text:
            self._parts.append(text)
            self._emit(text)

    def finish(self, reason: FinishReason) -> Answer:
        """Release the sampler, emit what was held back, and sum up."""
        self._put(self._text.finish())
        self.release()
        now = time.monotonic()
        started, first = self._started or now, self._first or now
        return Answer(
            text="".join(self._parts),
            finish_reason=reason,
            usage=Usage(len(self.request.tokens), len(self.generated), self.cached),
            timing=Timing(started - self._submitted, first - started, now - first),
            seed=self._seed,
            tokens=tuple(self.generated),
        )

    def release(self) -> None:
        """Free native memory; safe to call twice."""
        if self._sampler is not None:
            self._sampler.close()
            self._sampler = None


class Slot:
    """A sequence of the context. `tokens` is what its memory holds, kept after a job for the next one's prefix."""

    def __init__(self, context: Context, sequence: int) -> None:
        self._context, self.sequence = context, sequence
        self.tokens: list[int] = []
        self.job: Job | None = None

    @property
    def model(self) -> Model:
        return self._context.model

    @property
    def cells(self) -> int:
        """Cells this slot holds or has promised."""
        return max(len(self.tokens), self.job.reserved if self.job else 0)

    def shared(self, prompt: tuple[int, ...]) -> int:
        """How many of the prompt's tokens are in memory already; the last is always decoded, for its logits."""
        most, count = min(len(self.tokens), len(prompt) - 1), 0
        while count < most and self.tokens[count] == prompt[count]:
            count += 1
        return count

    def begin(self, job: Job) -> None:
        """Start a job: keep the shared prefix of what is in memory, forget the rest."""
        shared = self.shared(job.request.tokens)
        self.forget(shared)
        self.job = job
        job.start(self.model, shared)

    def forget(self, length: int = 0) -> None:
        """Keep only the first `length` tokens in memory."""
        self._context.truncate(self.sequence, length)
        del self.tokens[length:]

    def pending(self) -> list[int]:
        """The tokens to decode next: the rest of the prompt, or the token sampled last."""
        assert self.job is not None
        prompt, done = self.job.request.tokens, len(self.tokens)
        return list(prompt[done:]) if done < len(prompt) else self.job.generated[-1:]
