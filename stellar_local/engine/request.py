"""What the engine is asked and what it answers: plain values, no behaviour."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from ..config import SamplingOptions
from ..native.adapter import Adapter
from .structure import Grammar

FinishReason = Literal["stop", "length", "cancelled"]
Adapters = tuple[tuple[Adapter, float], ...]
Look = Callable[[int, npt.NDArray[np.float32]], None]


@dataclass(frozen=True)
class Request:
    """A prompt as token ids (BOS included, at least one), and how to go on from it.

    `replace` maps placeholders that the model leaves in its text to what the reader should see. `grammar` restricts
    the answer. `adapters` are the LoRA adapters to run with and their scales; requests with the same ones run together.

    The last `begun` tokens are the beginning of the answer, generated before, which goes on from there: its text is all
    of it, and stop texts, placeholders, grammar and penalties see it whole. Only what is new is streamed, counted and
    bounded by max_tokens.

    With `scored`, nothing is generated: the answer's `scores` say how likely each of the last `scored` tokens was after
    those before it. `look` is given the logits that tell it, in the engine's thread, once for each: the number of the
    first of these tokens, from 0 on, and float32 [tokens, n_vocab], good until it returns.
    """

    tokens: tuple[int, ...]
    sampling: SamplingOptions = SamplingOptions()
    stop_tokens: frozenset[int] = frozenset()
    replace: Mapping[str, str] = field(default_factory=dict)
    grammar: Grammar | None = None
    adapters: Adapters = ()
    begun: int = 0
    scored: int = 0
    look: Look | None = None


@dataclass(frozen=True)
class Usage:
    """Token counts; `cached_tokens` of the prompt were in memory already. Names follow OpenAI's."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


@dataclass(frozen=True)
class Timing:
    """Seconds: waiting before the first decode, reading the prompt, generating; and the generation speed."""

    queued: float
    prompt: float
    generation: float

    def tokens_per_second(self, tokens: int) -> float:
        """The generation speed; the first token comes with the prompt's last decode and counts there."""
        return (tokens - 1) / self.generation if tokens > 1 and self.generation > 0 else 0.0


@dataclass(frozen=True)
class TokenLogprob:
    """The natural logarithm of a token's probability in the model's own distribution, before any sampler or grammar.

    `piece` is the token's bytes; `top` the likeliest tokens at its place as (token, piece, logprob), likeliest first.
    """

    token: int
    piece: bytes
    logprob: float
    top: tuple[tuple[int, bytes, float], ...] = ()


@dataclass(frozen=True)
class Answer:
    """A finished request. `text` and `tokens` begin with what the request had begun. An answer cut within a character
    leaves it out of the text; the tokens have its bytes. `seed` reproduces a sampled answer. `logprobs` has one entry a
    new token where they were asked for, `scores` the natural logarithm of each scored token's probability.
    """

    text: str
    finish_reason: FinishReason
    usage: Usage
    timing: Timing
    seed: int
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    scores: tuple[float, ...] = ()
