"""How far a level is from a more precise one: KL divergence of the next token's distribution, and equal top tokens.

Both models read the same text (prose.py), and llama.cpp gives the logits at every position. As in llama.cpp's
llama-perplexity --kl-divergence: D = Σ p·(ln p − ln q) with p the reference's, in nats, averaged over positions; but
over a short text of ours and from the first position on, so the figures are for comparing levels with one another.
They are of the model as it runs here: a CPU also rounds what it multiplies a quantized level's weights with to 8 bits.
One model is in memory at a time; of the reference, its log-probabilities are kept, at most 256 MiB.
Knows models that run; knows no manifest's form.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stellar_local.engine.likelihood import divergence, log_softmax
from stellar_local.errors import ModelError, StellarError
from stellar_local.native.context import Chunk, Context, Decoded
from stellar_local.native.model import Model

from .manifest import Divergence, Figures
from .prose import PROSE

_MOST_TOKENS = 256  # of each language
_MOST_KEPT = 1 << 28  # bytes of log-probabilities
_BATCH = 32  # positions at once: llama.cpp keeps the logits of all of them


@dataclass(frozen=True)
class Reference:
    """What a level is compared with: its tokens and log-probabilities, float32 [tokens, vocabulary], by language."""

    level: str
    tokens: Mapping[str, list[int]]
    log_probabilities: Mapping[str, NDArray[np.float32]]


def read_reference(path: Path, level: str, threads: int | None, advance: Callable[[float], None]) -> Reference:
    """Run the reference. `advance` is told the share of the text that was read, in steps that add up to 1.

    Raises ModelError if llama.cpp cannot load the file, or computes what is no number.
    """
    with Model(path) as model:
        tokens = _tokens(model)
        kept = {name: np.empty((len(ids), model.n_vocab), np.float32) for name, ids in tokens.items()}
        with closing(_run(model, tokens, threads, advance)) as rows:
            for name, position, row in rows:
                kept[name][position] = row
    return Reference(level, tokens, kept)


def measure(path: Path, reference: Reference, threads: int | None, advance: Callable[[float], None]) -> Divergence:
    """Run a level and compare it with the reference, position by position. Raises ModelError as read_reference does,
    and for another vocabulary.
    """
    sums = {name: np.zeros(2) for name in reference.tokens}  # KL divergence, equal top tokens
    with Model(path) as model:
        if _tokens(model) != reference.tokens:
            raise ModelError(f"{path.name} has another vocabulary than {reference.level}", "convert both from one base")
        with closing(_run(model, reference.tokens, threads, advance)) as rows:
            for name, position, row in rows:
                found, same = divergence(reference.log_probabilities[name][position][None], row[None])
                sums[name] += (found[0], same[0])
    counts = {name: len(ids) for name, ids in reference.tokens.items()}
    figures = {name: _figures(counts[name], sums[name]) for name in counts}
    return Divergence(reference.level, _figures(sum(counts.values()), np.sum(list(sums.values()), axis=0)), figures)


def _figures(tokens: int, sums: NDArray[np.float64]) -> Figures:
    # Rounding can leave a sum a hair below nothing where two levels agree.
    return Figures(tokens, max(0.0, float(sums[0]) / tokens), float(sums[1]) / tokens)


def _tokens(model: Model) -> dict[str, list[int]]:
    """The beginning of each text as tokens, as many as the model's context and the limits allow."""
    begin = [model.bos] if model.add_bos and model.bos is not None else []
    room = min(_MOST_TOKENS, model.n_ctx_train, _MOST_KEPT // (4 * model.n_vocab * len(PROSE)))
    return {name: (begin + model.tokenize(text))[:room] for name, text in PROSE.items()}


def _run(
    model: Model, texts: Mapping[str, list[int]], threads: int | None, advance: Callable[[float], None]
) -> Generator[tuple[str, int, NDArray[np.float32]], None, None]:
    """Read each text from an empty memory: its name, the position, and the log-probabilities there."""
    total = sum(len(ids) for ids in texts.values())
    size = max(map(len, texts.values()))
    with Context(model, size, n_batch=_BATCH, threads=threads or 0, outputs=_BATCH) as context:
        for name, ids in texts.items():
            context.truncate(0, 0)
            for start in range(0, len(ids), context.n_batch):
                part = ids[start : start + context.n_batch]
                if context.decode([Chunk(0, start, part, len(part))]) is not Decoded.DONE:
                    raise StellarError(f"llama.cpp did not run {model.path.name} to the end", "run with -v to see why")
                for row, logits in enumerate(context.logits):
                    if not np.isfinite(logits).all():
                        raise ModelError(
                            f"{model.path.name} computes NaN or infinite values",
                            "its weights are damaged: convert again",
                        )
                    yield name, start + row, log_softmax(logits[None])[0]
                advance(len(part) / total)
