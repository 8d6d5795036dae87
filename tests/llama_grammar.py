"""llama.cpp's own grammar sampler, as a program of its own: a grammar that it dislikes may end the process.

Reads {"model", "grammar", "texts": [[token]], "draws"} from stdin; writes {"accepted": [bool], "drawn": [[token]]}:
which texts are whole under the grammar, and random texts that are.
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from stellar_local.native.library import api
from stellar_local.native.model import Model

LONGEST = 80


class Grammar:
    def __init__(self, model: Model, text: str) -> None:
        self.model = model
        self.handle: Any = api().llama_sampler_init_grammar(model.vocab, text.encode(), b"root")

    def allowed(self, tokens: list[int]) -> list[int]:
        data = (api().llama_token_data * len(tokens))(*[(token, 1.0, 0.0) for token in tokens])
        candidates = api().llama_token_data_array(data, len(tokens), -1, False)
        api().llama_sampler_apply(self.handle, ctypes.byref(candidates))
        return [item.id for item in data if item.logit > 0]

    def take(self, token: int) -> None:
        api().llama_sampler_accept(self.handle, token)


def accepts(model: Model, text: str, tokens: list[int]) -> bool:
    grammar = Grammar(model, text)
    for token in tokens:
        if not grammar.allowed([token]):
            return False
        grammar.take(token)
    return bool(grammar.allowed([model.eos]))


def draw(model: Model, text: str, random: np.random.Generator) -> list[int] | None:
    """Random tokens, the end as soon as it may be in one of three cases; None if it got too long."""
    grammar, tokens = Grammar(model, text), []
    vocabulary = [token for token in range(model.n_vocab) if model.piece(token)]
    while len(tokens) < LONGEST:
        if grammar.allowed([model.eos]) and random.random() < 0.3:
            return tokens
        allowed = grammar.allowed(vocabulary)
        if not allowed:
            return tokens
        # Long tokens rarely fit; where they do, they are what tells two readings of a grammar apart.
        weights = np.array([len(model.piece(token)) for token in allowed], float)
        token = int(random.choice(allowed, p=weights / weights.sum()))
        grammar.take(token)
        tokens.append(token)
    return None


def main() -> None:
    task = json.load(sys.stdin)
    with Model(Path(task["model"]), vocab_only=True) as model:
        if not Grammar(model, task["grammar"]).handle:
            json.dump({"refused": True}, sys.stdout)
            return
        random = np.random.default_rng(5)
        drawn = [draw(model, task["grammar"], random) for _ in range(task["draws"])]
        accepted = [accepts(model, task["grammar"], tokens) for tokens in task["texts"]]
    json.dump({"accepted": accepted, "drawn": [tokens for tokens in drawn if tokens is not None]}, sys.stdout)


if __name__ == "__main__":
    main()
