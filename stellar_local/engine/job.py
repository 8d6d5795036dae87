"""A request on its way: its tokens so far, its sampler, constraint and text, and how it ends.

Knows one request. Where its tokens are in memory and when it runs is the scheduler's affair.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from os.path import commonprefix

import numpy as np
import numpy.typing as npt

from ..errors import ModelError, RequestError, StellarError
from ..native.model import Model
from ..native.sampler import Sampler, logprobs
from .likelihood import log_likelihoods
from .request import Adapters, Answer, FinishReason, Request, Timing, TokenLogprob, Usage
from .text import TextStream

Event = str | Answer | StellarError


class Job:
    """The state that survives from step to step, also when a request gives up its place for a while.

    `tokens` are the prompt's and then the generated ones; at most `limit` of those. `put` gets each piece of final
    text, and in the end the answer or the failure. `number` is the order of arrival. Raises RequestError if the
    sampling options name what the model does not have, or if nothing can follow what the answer began with.
    """

    def __init__(self, model: Model, request: Request, limit: int, put: Callable[[Event], None]) -> None:
        self._model, self.request, self.limit, self._deliver = model, request, limit, put
        self.number = 0
        # Of tokens that are only scored the last is not computed: nothing follows it.
        self.tokens = list(request.tokens[:-1] if request.scored else request.tokens)
        self._scores: list[float] = []
        self.cached = 0
        self.failures, self.doubtful = 0, False  # decode calls that failed under it; whether the last one did
        self.sequence = -1  # the sequence it runs in; -1 while it waits
        self.awaits: tuple[Job, int] | None = None  # who computes a prefix that it waits for, and of what length
        sampling = request.sampling
        # A document ends where its grammar does; a stop text within it would cut it.
        stop = () if request.grammar and request.grammar.document else sampling.stop
        self._text = TextStream(stop, request.replace)
        self._parts: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self._constraint = request.grammar.start(limit + request.begun) if request.grammar else None
        self._shown = ""  # of what is still to come: what the reader of the answer's beginning has seen
        self._begin()
        self._sampler: Sampler | None = None if request.scored else Sampler(sampling, model)
        self.seed = self._sampler.seed if self._sampler else 0
        self._submitted = time.monotonic()
        self._started = self._first = 0.0

    def _begin(self) -> None:
        """Take in the beginning of the answer, generated before."""
        begun = self.request.tokens[self._from :]
        if self._constraint and not self._constraint.resume(begun):
            raise RequestError(
                "invalid_request", "the answer to go on with does not follow the grammar", "have it answered anew"
            )
        if text := self._text.feed(b"".join(map(self._model.piece, begun))):
            self._parts.append(text)
        self._shown = self._text.held  # an answer that is cut shows that too
        if begun and (self._text.stopped or (self._constraint and self._constraint.stopped)):
            raise RequestError("invalid_request", "the answer is complete: nothing can follow it", "ask something else")

    @property
    def _from(self) -> int:
        """Where the answer begins in the tokens."""
        return len(self.request.tokens) - self.request.begun

    @property
    def adapters(self) -> Adapters:
        return self.request.adapters

    @property
    def started(self) -> bool:
        """Whether it has ever run."""
        return bool(self._started)

    @property
    def generated(self) -> int:
        """How many tokens were generated, those that it began with not counted."""
        return 0 if self.request.scored else len(self.tokens) - len(self.request.tokens)

    @property
    def looks_from(self) -> int:
        """The place of the first token whose logits are wanted next: what follows cannot be shared with others."""
        if not self.request.scored:
            return len(self.tokens) - 1
        return len(self.tokens) - self.request.scored + len(self._scores)

    @property
    def shareable(self) -> list[int]:
        """The tokens up to that one, which must be computed."""
        return self.tokens[: self.looks_from + 1] if self.request.scored else self.tokens

    def start(self, cached: int) -> None:
        """Begin, or go on, in a sequence that has `cached` of the tokens in memory already."""
        if not self._started:
            self.cached, self._started = cached, time.monotonic()
            if self._sampler:
                self._sampler.remember(self.request.tokens)

    @property
    def greedy(self) -> bool:
        """Whether the next token is the likeliest, and nothing else is to be asked."""
        return self._sampler is not None and self._sampler.greedy and self._constraint is None

    def take(self, logits: npt.NDArray[np.float32], row: int, likeliest: int | None) -> FinishReason | None:
        """Choose the next token; returns the reason if that was the end. Raises RequestError if this request fails.

        `logits` are of shape (rows, n_vocab), of which `row` is this request's; where it is greedy, `likeliest` may be
        that row's best token.
        """
        assert self._sampler is not None
        if likeliest is not None:
            token = likeliest
        else:
            own = logits[row]
            token = self._sampler.sample(self._constraint.masked(own) if self._constraint else own)
        self._first = self._first or time.monotonic()
        if self._model.is_eog(token) or token in self.request.stop_tokens:
            return self._checked("stop")
        if self._constraint:
            self._constraint.accept(token)
        self.tokens.append(token)
        piece = self._model.piece(token)
        if self.request.sampling.logprobs is not None:
            self._note_logprob(logits[row], token, piece)
        self._put(self._text.feed(piece))
        if self._text.stopped or (self._constraint and self._constraint.stopped):
            return self._checked("stop")
        return self._checked("length") if self.generated >= self.limit else None

    def score(self, logits: npt.NDArray[np.float32]) -> FinishReason | None:
        """Take the next logits of scored tokens, of shape (tokens, n_vocab); returns the reason if these were the last.

        Raises ModelError where they are no numbers.
        """
        self._first = self._first or time.monotonic()
        done = len(self._scores)
        first = len(self.request.tokens) - self.request.scored + done
        found = log_likelihoods(logits, self.request.tokens[first : first + len(logits)])
        if not np.isfinite(found).all():
            raise ModelError("the model computes NaN or infinite values", "check its weights")
        if self.request.look:
            self.request.look(done, logits)
        self._scores += found.tolist()
        return "stop" if len(self._scores) == self.request.scored else None

    def _checked(self, reason: FinishReason) -> FinishReason:
        """The reason, unless a document would be passed off as done that is not."""
        judge = self.request.grammar.judge if self.request.grammar else None
        if not self._constraint or judge is None:
            return reason
        if not self._constraint.complete:
            raise RequestError(
                "incomplete_document",
                f"the answer's {self.limit} tokens ended before its document did",
                "allow more with max_tokens, or bound the schema's texts with maxLength",
            )
        # A second opinion, by a library that has nothing to do with the first.
        made = b"".join(map(self._model.piece, self.tokens[self._from :]))
        if wrong := judge(made.decode("utf-8", "replace")):
            raise RequestError(
                "invalid_document", f"the answer is not valid under the schema: {wrong}", "use a simpler schema"
            )
        return reason

    def _note_logprob(self, logits: npt.NDArray[np.float32], token: int, piece: bytes) -> None:
        own, top = logprobs(logits, token, self.request.sampling.logprobs or 0)
        others = tuple((other, self._model.piece(other), value) for other, value in top)
        self._logprobs.append(TokenLogprob(token, piece, own, others))

    def _put(self, text: str) -> None:
        if not text:
            return
        self._parts.append(text)
        known = len(commonprefix([text, self._shown]))
        self._shown = self._shown[known:] if known == len(text) else ""
        if text := text[known:]:
            self._deliver(text)

    def finish(self, reason: FinishReason) -> None:
        """Deliver what was held back, and the answer."""
        self._put(self._text.finish(cut=reason != "stop"))
        self.release()
        now = time.monotonic()
        started, first = self._started or now, self._first or now
        self._deliver(
            Answer(
                text="".join(self._parts),
                finish_reason=reason,
                usage=Usage(len(self.request.tokens), self.generated, self.cached),
                timing=Timing(started - self._submitted, first - started, now - first),
                seed=self.seed,
                tokens=tuple(self.tokens[self._from :]),
                logprobs=tuple(self._logprobs),
                scores=tuple(self._scores),
            )
        )

    def fail(self, error: StellarError) -> None:
        """Deliver what the request failed with; several may fail with the same."""
        self.release()
        self._deliver(_twin(error))

    def release(self) -> None:
        """Free native memory; safe to call twice."""
        if self._sampler is not None:
            self._sampler.close()
            self._sampler = None


def told(error: BaseException) -> StellarError:
    """An error as its request hears of it: a defect of ours is called one."""
    if isinstance(error, StellarError):
        return error
    return RequestError("internal_error", f"internal error: {type(error).__name__}: {error}", "please report it")


def _twin(error: StellarError) -> StellarError:
    """The same error again: each is raised where its own stream is read, and gathers that place's traceback."""
    twin = error.__class__.__new__(error.__class__, *error.args)
    twin.__dict__.update(error.__dict__)
    return twin
