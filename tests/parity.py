"""Greedy tokens of llama.cpp against Transformers', with the one difference that rounding may make."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stellar_local.config import SamplingOptions
from stellar_local.engine import Request
from stellar_local.runtime import Runtime

NEAR_TIE = 0.05


def assert_same_greedy(runtime: Runtime, model: Any, prompts: Sequence[Sequence[int]], count: int = 24) -> int:
    """The first `count` greedy tokens agree, or part only where Transformers' two best logits lie within 0.05.

    Returns how many prompts agree to the end.
    """
    import torch

    agreed = 0
    for prompt in prompts:
        request = Request(tuple(prompt), SamplingOptions(temperature=0, max_tokens=count))
        ours = list(runtime.engine.submit(request).answer.tokens)
        tokens = list(prompt)
        for number in range(count):
            with torch.no_grad():
                logits = model(torch.tensor([tokens])).logits[0, -1].float()
            best = torch.topk(logits, 2)
            expected = int(best.indices[0])
            if runtime.model.is_eog(expected):
                found = None if number == len(ours) else ours[number]
            else:
                found = ours[number] if number < len(ours) else None
            if found != (None if runtime.model.is_eog(expected) else expected):
                gap = float(best.values[0] - best.values[1])
                assert gap <= NEAR_TIE, f"token {number}: {found} for {expected}, {gap:.3f} apart, after {tokens}"
                break
            if found is None:
                agreed += 1
                break
            tokens.append(expected)
        else:
            agreed += 1
    return agreed
