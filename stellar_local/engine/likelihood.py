"""From logits to how likely tokens were. Knows arrays only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def log_likelihoods(logits: npt.NDArray[np.float32], tokens: Sequence[int]) -> npt.NDArray[np.float64]:
    """The natural logarithm of each token's probability under its row, float64 [rows].

    `logits` is float32 [rows, n_vocab]. The sum over the vocabulary is one of float32 terms, added in float64.
    """
    own = logits[np.arange(len(logits)), np.asarray(tokens, np.intp)].astype(np.float64)
    return own - normalisers(logits)


def normalisers(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """The logarithm of the sum of each row's exponentials, float64 [rows]; logits less it are log-probabilities."""
    most = logits.max(axis=1, keepdims=True)
    sums = np.array([np.exp(row).sum(dtype=np.float64) for row in logits - most])
    found: npt.NDArray[np.float64] = most[:, 0].astype(np.float64) + np.log(sums)
    return found
