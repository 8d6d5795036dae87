"""How well a model foresees a text, from its logits: the likelihood of each next token, and the perplexity of all.

Knows arrays; runs no model.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Loss = tuple[float, float, int]  # over tokens: negative log-likelihoods summed, their squares, and how many


def perplexity(loss: Loss) -> tuple[float, float] | None:
    """Perplexity and the error of its mean of a loss; None where nothing was predicted."""
    total, squares, count = loss
    if count < 2:
        return None
    mean = total / count
    value = math.exp(min(mean, 700.0))
    return value, value * math.sqrt(max(squares / count - mean * mean, 0.0) / (count - 1))


def surprise(logits: NDArray[np.float32], tokens: NDArray[np.int32]) -> NDArray[np.float64]:
    """The negative log-likelihood of each token, float64 [rows], under logits, float32 [rows, vocabulary]."""
    largest = logits.max(axis=1, keepdims=True)
    sums = np.exp(logits - largest).sum(axis=1, dtype=np.float64)
    found: NDArray[np.float64] = np.log(sums) + largest[:, 0] - logits[np.arange(len(tokens)), tokens]
    return found
