"""How well a model foresees a text: the perplexity of many tokens, and its error. Knows numbers alone."""

from __future__ import annotations

import math

Loss = tuple[float, float, int]  # over tokens: negative log-likelihoods summed, their squares, and how many


def perplexity(loss: Loss) -> tuple[float, float] | None:
    """Perplexity and the error of its mean of a loss; None where nothing was predicted."""
    total, squares, count = loss
    if count < 2:
        return None
    mean = total / count
    value = math.exp(min(mean, 700.0))
    return value, value * math.sqrt(max(squares / count - mean * mean, 0.0) / (count - 1))
