"""llama.cpp's sampler chains: from a request's settings to the next token. Knows nothing of text or scheduling."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Any

from ..config import SamplingOptions
from .context import Context
from .library import api

_PENALTY_WINDOW = 64  # llama.cpp's default for how many last tokens the repeat penalty sees


class Sampler:
    """One request's chain of samplers, in llama.cpp's usual order; temperature 0 is greedy.

    `seed` is the seed in use: the one given, else a random one.
    """

    def __init__(self, options: SamplingOptions, n_vocab: int) -> None:
        self._api = api()
        self.seed = secrets.randbits(32) if options.seed is None else options.seed & 0xFFFFFFFF
        self.handle: Any = self._api.llama_sampler_chain_init(self._api.llama_sampler_chain_default_params())
        self._remembers = options.repeat_penalty != 1.0
        if self._remembers:
            self._add(
                self._api.llama_sampler_init_penalties(n_vocab, _PENALTY_WINDOW, options.repeat_penalty, 0.0, 0.0)
            )
        if options.temperature <= 0:
            self._add(self._api.llama_sampler_init_greedy())
            return
        if options.top_k > 0:
            self._add(self._api.llama_sampler_init_top_k(options.top_k))
        if options.top_p < 1:
            self._add(self._api.llama_sampler_init_top_p(options.top_p, 1))
        if options.min_p > 0:
            self._add(self._api.llama_sampler_init_min_p(options.min_p, 1))
        self._add(self._api.llama_sampler_init_temp(options.temperature))
        self._add(self._api.llama_sampler_init_dist(self.seed))

    def _add(self, sampler: Any) -> None:
        self._api.llama_sampler_chain_add(self.handle, sampler)  # the chain owns it from now on

    def remember(self, tokens: Iterable[int]) -> None:
        """Show prompt tokens to the repeat penalty, without sampling."""
        if self._remembers:
            for token in tokens:
                self._api.llama_sampler_accept(self.handle, token)

    def sample(self, context: Context, row: int) -> int:
        """The next token after row `row` of the context's last batch; the chain remembers it."""
        return int(self._api.llama_sampler_sample(self.handle, context.handle, context.require_output(row)))

    def close(self) -> None:
        """Free the chain; safe to call twice."""
        if self.handle:
            self._api.llama_sampler_free(self.handle)
            self.handle = None
