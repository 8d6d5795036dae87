"""From logits to how likely tokens were, and how far two distributions are apart. Knows arrays only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from ..native.cores import default_threads

_WORTH_SHARING = 1 << 20  # numbers, for which threads are started
_MOST_THREADS = 8


def log_likelihoods(logits: npt.NDArray[np.float32], tokens: Sequence[int]) -> npt.NDArray[np.float64]:
    """The natural logarithm of each token's probability under its row, float64 [rows].

    `logits` is float32 [rows, n_vocab].
    """
    own = logits[np.arange(len(logits)), np.asarray(tokens, np.intp)].astype(np.float64)
    return own - normalisers(logits)


def normalisers(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """The logarithm of the sum of each row's exponentials, float64 [rows]; logits less it are log-probabilities.

    Summed pairwise in float32, which is right to about 1e-6. Beside a GPU this is what takes the time, so that rows are
    shared among threads: NumPy lets go of the interpreter meanwhile.
    """
    if logits.size < _WORTH_SHARING:
        return np.fromiter(map(_normaliser, logits), np.float64, len(logits))
    with ThreadPoolExecutor(min(default_threads(), _MOST_THREADS)) as pool:
        return np.fromiter(pool.map(_normaliser, logits), np.float64, len(logits))


def _normaliser(row: npt.NDArray[np.float32]) -> float:
    most = float(row.max())
    shifted = row - np.float32(most)
    return most + math.log(float(np.exp(shifted, out=shifted).sum()))


def log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Log-probabilities of logits, float32 [rows, n_vocab], each computed in float64."""
    found: npt.NDArray[np.float32] = (logits - normalisers(logits)[:, None]).astype(np.float32)
    return found


def divergence(
    reference: npt.NDArray[np.float32], other: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Kullback-Leibler divergence of `other` from `reference` in nats, float64 [rows], and whether their likeliest
    tokens are the same, bool [rows]. Both are log-probabilities, float32 [rows, n_vocab]; summed in float64.

    D = sum of p (ln p - ln q), p the reference's, as in llama.cpp's llama-perplexity --kl-divergence.
    """
    p = reference.astype(np.float64)
    found: npt.NDArray[np.float64] = np.sum(np.exp(p) * (p - other), axis=1)
    return found, reference.argmax(axis=1) == other.argmax(axis=1)
