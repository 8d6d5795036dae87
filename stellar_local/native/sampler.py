"""llama.cpp's sampler chains: from a row of logits to the next token. Knows nothing of text or scheduling.

The chain is llama.cpp's, in its usual order; what is ours is the choice of the candidates it sees. Of a vocabulary of
128,000, top-k keeps 40: finding a few hundred that surely hold them costs NumPy less than copying all does llama.cpp.
"""

from __future__ import annotations

import ctypes
import secrets
import weakref
from array import array
from collections import OrderedDict
from collections.abc import Iterable
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from ..config import SamplingOptions
from ..errors import RequestError
from .library import api
from .model import Model

Logits = npt.NDArray[np.float32]
Ids = npt.NDArray[np.intp]

_COLDEST = 1e-6  # below, logits divided by the temperature would overflow; the likeliest is all that is left anyway
_FORBIDDEN = -100.0  # a bias that means never, as in OpenAI's API
_UNDERFLOW = 87.0  # a float32 probability this many nats below the best is 0, of which typical-p makes NaN
_STRIDES = 64  # logits for each maximum that bounds the top-k from below
_MIROSTAT_TOKENS = 100  # how many tokens Mirostat 1 estimates its exponent from: llama.cpp's m
_BREAKERS = (b"\n", b":", b'"', b"*")  # what ends a sequence for DRY: llama.cpp's defaults
_LOWEST = float(np.finfo(np.float32).min)
_LONGEST = 1 << 20  # tokens a window may have; llama.cpp allocates them all
_PROTOTYPES = 8  # DRY samplers kept for each model
_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])  # llama_token_data


class Sampler:
    """One request's chain of samplers, in llama.cpp's usual order; temperature 0 takes the likeliest token.

    `seed` is the seed in use: the one given, else a random one. `greedy` says that the next token is the argmax of
    the logits and nothing else, so that whoever has that already need not ask. A whole-context window (-1) is
    as long as the context the model was trained with. Raises RequestError("invalid_field") if logit_bias names a
    token that the model does not have.
    """

    def __init__(self, options: SamplingOptions, model: Model) -> None:
        self._api = api()
        self.seed = secrets.randbelow(0xFFFFFFFF) if options.seed is None else options.seed
        if wrong := [token for token, _ in options.logit_bias if token >= model.n_vocab]:
            raise RequestError(
                "invalid_field",
                f"logit_bias names token {wrong[0]}, and the vocabulary has {model.n_vocab}",
                "token ids count from 0",
            )
        self._biased = np.array([token for token, _ in options.logit_bias], np.intp)
        self._biases = np.array([-np.inf if bias <= _FORBIDDEN else bias for _, bias in options.logit_bias], np.float32)
        self._most = 1 if options.temperature < _COLDEST else 0 if options.mirostat else options.top_k
        self._typical = options.typical_p < 1 and not options.mirostat
        self._window = 0  # how many last tokens the penalties see
        self._seen: set[int] = set()
        self._touched = array("i")  # _seen as an array: the tokens whose logits the penalties may change
        self._candidates = np.empty(0, _CANDIDATE)
        self._array = self._api.llama_token_data_array()
        self.handle: Any = self._api.llama_sampler_chain_init(self._api.llama_sampler_chain_default_params())
        if not options.mirostat:  # which replaces all of it, as in llama.cpp
            self._add_penalties(options, model)
        self.greedy = self._most == 1 and not self._window and not options.logit_bias
        if options.temperature < _COLDEST:
            self._add(self._api.llama_sampler_init_greedy())
        elif options.mirostat:
            self._add_mirostat(options, model)
        else:
            self._add_filters(options)

    def _add(self, sampler: Any) -> None:
        self._api.llama_sampler_chain_add(self.handle, sampler)  # the chain owns it from now on

    def _add_penalties(self, options: SamplingOptions, model: Model) -> None:
        whole = min(max(model.n_ctx_train, 1), _LONGEST)
        last = whole if options.repeat_last_n < 0 else options.repeat_last_n
        repeat, frequency, presence = options.repeat_penalty, options.frequency_penalty, options.presence_penalty
        if last and (repeat, frequency, presence) != (1, 0, 0):
            self._add(self._api.llama_sampler_init_penalties(model.n_vocab, last, repeat, frequency, presence))
            self._window = last
        last = whole if options.dry_penalty_last_n < 0 else options.dry_penalty_last_n
        if last and options.dry_multiplier > 0:
            self._add(_dry(model, options.dry_multiplier, options.dry_base, options.dry_allowed_length, last))
            self._window = max(self._window, last)

    def _add_filters(self, options: SamplingOptions) -> None:
        if options.top_k > 0:
            self._add(self._api.llama_sampler_init_top_k(options.top_k))
        if options.typical_p < 1:
            self._add(self._api.llama_sampler_init_typical(options.typical_p, 1))
        if options.top_p < 1:
            self._add(self._api.llama_sampler_init_top_p(options.top_p, 1))
        if options.min_p > 0:
            self._add(self._api.llama_sampler_init_min_p(options.min_p, 1))
        if options.xtc_probability > 0:
            self._add(self._api.llama_sampler_init_xtc(options.xtc_probability, options.xtc_threshold, 1, self.seed))
        self._add(self._api.llama_sampler_init_temp(options.temperature))
        self._add(self._api.llama_sampler_init_dist(self.seed))

    def _add_mirostat(self, options: SamplingOptions, model: Model) -> None:
        self._add(self._api.llama_sampler_init_temp(options.temperature))
        tau, eta = options.mirostat_tau, options.mirostat_eta
        if options.mirostat == 1:
            self._add(self._api.llama_sampler_init_mirostat(model.n_vocab, self.seed, tau, eta, _MIROSTAT_TOKENS))
        else:
            self._add(self._api.llama_sampler_init_mirostat_v2(self.seed, tau, eta))

    def remember(self, tokens: Iterable[int]) -> None:
        """Show prompt tokens to the penalties, without sampling."""
        if not self._window:
            return
        tokens = list(tokens)
        for token in islice(tokens, max(0, len(tokens) - self._window), None):
            self._accept(token)

    def _accept(self, token: int) -> None:
        self._api.llama_sampler_accept(self.handle, token)
        if token not in self._seen:
            self._seen.add(token)
            self._touched.append(token)

    def sample(self, logits: Logits) -> int:
        """The next token by a row of logits, float32 of shape (n_vocab,), which stays as it is; it is remembered.

        Raises RequestError("no_token") if no token has a finite logit.
        """
        if len(self._biased):
            logits = logits.copy()
            logits[self._biased] += self._biases
        if self._most == 1 and not self._window:
            token = int(logits.argmax())
            if np.isfinite(logits[token]):
                return token
        ids = self._ids(logits)
        count = len(ids)
        if count > len(self._candidates):
            self._candidates = np.empty(count, _CANDIDATE)
            self._data = self._candidates.ctypes.data_as(self._api.llama_token_data_p)
        chosen, candidates = self._array, self._candidates[:count]
        candidates["id"], candidates["logit"] = ids, logits[ids]
        chosen.data, chosen.size, chosen.selected, chosen.sorted = self._data, count, -1, False
        self._api.llama_sampler_apply(self.handle, ctypes.byref(chosen))
        if not 0 <= chosen.selected < chosen.size:
            raise RequestError("no_token", "the samplers left no token to choose from", "use milder sampling options")
        token = int(chosen.data[chosen.selected].id)
        if self._window:
            self._accept(token)
        return token

    def _ids(self, logits: Logits) -> Ids:
        """The tokens to show to the chain, in ascending order: all that it might choose, and few others.

        Penalties change the tokens seen only. So what is left of the others after top-k is among their own K best,
        which `_bound` bounds, whatever becomes of the seen ones, which are all candidates.
        """
        if not self._most and not self._typical:
            return _finite(logits)
        others = logits
        if self._touched:
            touched = np.frombuffer(self._touched, np.intc)
            others = logits.copy()
            others[touched] = -np.inf
        least = _bound(others, self._most) if self._most else _LOWEST
        if self._typical:
            least = max(least, float(others.max()) - _UNDERFLOW)
        chosen = others >= least
        if self._touched:
            chosen[touched] = True
        ids: Ids = chosen.nonzero()[0]
        ids = ids[np.isfinite(logits[ids])]
        return ids if len(ids) else _finite(logits)

    def close(self) -> None:
        """Free the chain; safe to call twice."""
        if self.handle:
            self._api.llama_sampler_free(self.handle)
            self.handle = None


def logprobs(logits: Logits, token: int, top: int) -> tuple[float, list[tuple[int, float]]]:
    """The natural logarithm of a token's probability in the model's own distribution, and the `top` likeliest
    tokens with theirs, best first. `logits` is a row as the model gave it, float32 of shape (n_vocab,).
    """
    best = float(logits.max())
    total = best + float(np.log(np.exp(logits - np.float32(best)).sum(dtype=np.float64)))
    ids: Ids = np.empty(0, np.intp)
    if top > 0:
        ids = (logits >= _bound(logits, top)).nonzero()[0]
        ids = ids[np.argsort(-logits[ids], kind="stable")][:top]
    return float(logits[token]) - total, [(int(other), float(logits[other]) - total) for other in ids]


def best_tokens(logits: Logits, rows: list[int]) -> dict[int, int]:
    """The likeliest token of each of some rows of logits, by row; rows where that is no number are left out."""
    if not rows:
        return {}
    chosen = logits if len(rows) == len(logits) else logits[rows]
    tokens = chosen.argmax(axis=1)
    sound = np.isfinite(chosen[np.arange(len(rows)), tokens])
    return {row: token for row, token, good in zip(rows, tokens.tolist(), sound.tolist(), strict=True) if good}


def _finite(logits: Logits) -> Ids:
    """The tokens with a finite logit, ascending; RequestError if there are none."""
    ids: Ids = np.isfinite(logits).nonzero()[0]
    if not len(ids):
        raise RequestError("no_token", "no token has a finite logit", "check logit_bias, grammar and model")
    return ids


def _bound(logits: Logits, count: int) -> float:
    """A lower bound of the `count`-th largest logit, close to it: the `count`-th largest of disjoint groups' maxima."""
    width = len(logits) // _STRIDES
    if count > width:
        return _LOWEST
    maxima = logits[: width * _STRIDES].reshape(_STRIDES, width).max(axis=0)
    bound = float(np.partition(maxima, width - count)[width - count])
    return bound if np.isfinite(bound) else _LOWEST


class _Prototype:
    """A DRY sampler to clone: to make one anew reads the whole vocabulary (25 ms for 128,000 tokens)."""

    def __init__(self, model: Model, multiplier: float, base: float, allowed: int, last: int) -> None:
        self._free = api().llama_sampler_free
        breakers = (ctypes.c_char_p * len(_BREAKERS))(*_BREAKERS)
        self.handle: Any = api().llama_sampler_init_dry(
            model.vocab, multiplier, base, allowed, last, breakers, len(_BREAKERS)
        )

    def __del__(self) -> None:
        self._free(self.handle)


_prototypes: weakref.WeakKeyDictionary[Model, OrderedDict[tuple[float, ...], _Prototype]] = weakref.WeakKeyDictionary()


def _dry(model: Model, *settings: Any) -> Any:
    """A new DRY sampler of these settings: multiplier, base, allowed length, window."""
    known = _prototypes.setdefault(model, OrderedDict())
    prototype = known.get(settings) or known.setdefault(settings, _Prototype(model, *settings))
    known.move_to_end(settings)
    if len(known) > _PROTOTYPES:
        known.popitem(last=False)
    return api().llama_sampler_clone(prototype.handle)
