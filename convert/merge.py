"""Merging: float32 rows of a base tensor as adapters change it, any rows at any time, from any thread.

merged = base + Σ wᵢ·(mergedᵢ − base), where mergedᵢ is the base with adapter i alone: for plain LoRA base plus
Σ wᵢ·sᵢ·BᵢAᵢ, summed in float32 and rounded once, when a level is written. One adapter of weight 1 gives what PEFT's
merge_and_unload gives, a replaced tensor bit for bit; where that differs from the logits of the trained, unmerged
model (outputs shared with the embeddings), the trained model wins, see parts.py. Rows for added tokens have no base
to be added to: they are taken as an adapter brings them, whatever its weight; of several adapters, as the mean by
weight.

DoRA (arXiv 2402.09353): W' = m·(W + sBA) / ‖W + sBA‖, with the norm of each row. For embeddings PEFT takes it of each
column, over the whole vocabulary, so that tensor is read twice. Knows checkpoints and adapters; knows nothing of GGUF.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stellar_local.errors import ModelError

from .adapter import Adapter, whole
from .checkpoint import Checkpoint
from .llama import EMBEDDING, OUTPUT, Shape
from .parts import Part, parts_of, same_part
from .safetensors import RowSource, spans

_KEPT = 4  # tensors whose halves stay in memory: workers are spread over two or three neighbours


@dataclass(frozen=True)
class _Loaded:
    """One adapter's part of one tensor, with what is small of it in memory. `b` has the scale in it.

    `norms` is DoRA's norm of each column, where it is of columns; `tokens` are the trained tokens' rows.
    """

    part: Part
    weight: float
    a: NDArray[np.float32] | None = None
    b: NDArray[np.float32] | None = None
    magnitude: NDArray[np.float32] | None = None
    norms: NDArray[np.float32] | None = None
    tokens: NDArray[np.float32] | None = None

    def alone(self, base: NDArray[np.float32], start: int, stop: int) -> NDArray[np.float32]:
        """Rows `start` to `stop` with this adapter alone; `base` holds the base's and is overwritten."""
        part = self.part
        source = part.replaced or part.grown
        rows = base if source is None else _read(source, start, stop)
        if self.a is not None and self.b is not None:
            rows += self.b[start:stop] @ self.a
        if self.magnitude is not None and self.norms is not None:
            rows *= _quotient(self.magnitude, self.norms)
        elif self.magnitude is not None:
            rows *= _quotient(self.magnitude[start:stop], np.linalg.norm(rows, axis=1))[:, None]
        if part.tokens is not None and self.tokens is not None:
            places = np.array(part.tokens.indices) - start
            inside = (places >= 0) & (places < stop - start)
            rows[places[inside]] = self.tokens[inside]
        if part.bias is not None:
            rows += whole(part.bias.added) * np.float32(part.bias.scale)
        return rows


class Merger:
    """A base and weighted adapters, seen as one checkpoint of float32 rows.

    `shape` is the merged model's: its vocabulary may be larger than the base's, and its output may be a tensor of
    its own (`tied` False) where the base shares it with the embeddings. Every adapter must fit the base
    (`Adapter.check_fits`). Raises ModelError for adapters that do not go together.
    """

    def __init__(self, base: Checkpoint, shape: Shape, adapters: Sequence[tuple[Adapter, float]]) -> None:
        self._base, self._tied = base, shape.tied
        self._parts: dict[str, list[tuple[Part, float]]] = {}
        sizes: dict[int, Adapter] = {}
        tied = shape.tied
        for adapter, weight in adapters:
            parts = parts_of(adapter, shape)
            for name, part in parts.items():
                self._parts.setdefault(name, []).append((part, weight))
            sizes.setdefault(parts.get(EMBEDDING, Part()).rows(shape.vocabulary), adapter)
            tied = tied and same_part(parts.get(EMBEDDING), parts.get(OUTPUT))
        grown = {size: adapter for size, adapter in sizes.items() if size > shape.vocabulary}
        if len(grown) > 1:
            said = " and ".join(f"{adapter.folder} to {size}" for size, adapter in sorted(grown.items()))
            raise ModelError(
                f"these adapters resize the vocabulary differently: {said} tokens", "merge one, then train on that"
            )
        self.shape = replace(shape, vocabulary=max([shape.vocabulary, *grown]), tied=tied)
        added = [weight for part, weight in self._parts.get(EMBEDDING, []) if part.rows(shape.vocabulary) in grown]
        if len(added) > 1 and not (sum(added) > 0 and min(added) > 0):
            raise ModelError(
                "several of these adapters add tokens, and one of them has a weight below zero",
                "give weights above zero to adapters that add tokens",
            )
        self._loaded: OrderedDict[str, list[_Loaded]] = OrderedDict()
        self._lock = threading.Lock()

    def changes(self, name: str) -> bool:
        """Whether any adapter changes this tensor."""
        return name in self._parts

    def rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Merged rows, float32 [stop - start, columns], C-contiguous, an array of its own.

        A vector is one row: [1, columns]. On a tied base the output's rows start from the embeddings'. May be called
        from many threads at once. Raises ModelError for a tensor that the base lacks.
        """
        source = self._source(name)
        held = source.shape[0] if len(source.shape) > 1 else 1
        changes = self._load(name, source) if name in self._parts else []
        cut = min(max(start, held), stop)  # rows from here on are added tokens
        merged = _changed(_read(source, start, cut), changes, start, cut) if start < cut or start == stop else None
        if cut == stop and merged is not None:
            return merged
        added = _added([change for change in changes if change.part.rows(held) > held], cut, stop, source.shape[1])
        if merged is None:
            return added
        both: NDArray[np.float32] = np.concatenate([merged, added])
        return both

    def _source(self, name: str) -> RowSource:
        return self._base.source(EMBEDDING if self._tied and name == OUTPUT else name)

    def _load(self, name: str, source: RowSource) -> list[_Loaded]:
        """What is small of a tensor's changes, kept for the last few tensors only: memory stays bounded."""
        with self._lock:
            if name not in self._loaded:
                self._loaded[name] = [self._load_part(part, weight, source) for part, weight in self._parts[name]]
                while len(self._loaded) > _KEPT:
                    self._loaded.popitem(last=False)
            self._loaded.move_to_end(name)
            return self._loaded[name]

    def _load_part(self, part: Part, weight: float, source: RowSource) -> _Loaded:
        if part.pair is None:
            return _Loaded(part, weight, tokens=whole(part.tokens.rows) if part.tokens else None)
        loaded = _Loaded(part, weight, whole(part.pair.a), whole(part.pair.b) * np.float32(part.pair.scale))
        if part.magnitude is None:
            return loaded
        loaded = replace(loaded, magnitude=whole(part.magnitude))
        if not part.by_column:
            return loaded
        return replace(loaded, norms=_column_norms(loaded, part.grown or source))


def _changed(base: NDArray[np.float32], changes: Sequence[_Loaded], start: int, stop: int) -> NDArray[np.float32]:
    """The base's rows `start` to `stop` with all changes; `base` is overwritten."""
    if len(changes) == 1 and changes[0].weight == 1.0:
        return changes[0].alone(base, start, stop)
    merged: NDArray[np.float32] = base.copy()
    for change in changes:
        if change.part.is_plain and change.a is not None and change.b is not None:
            merged += (change.b[start:stop] * np.float32(change.weight)) @ change.a
        else:
            merged += np.float32(change.weight) * (change.alone(base.copy(), start, stop) - base)
    return merged


def _added(changes: Sequence[_Loaded], start: int, stop: int, columns: int) -> NDArray[np.float32]:
    """Rows of added tokens, which the base lacks: an adapter's own, or the mean by weight of several."""
    total = sum(change.weight for change in changes)
    merged = np.zeros((stop - start, columns), np.float32)
    for change in changes:
        rows = change.alone(np.zeros_like(merged), start, stop)
        if len(changes) == 1:
            return rows
        merged += np.float32(change.weight / total) * rows
    return merged


def _read(source: RowSource, start: int, stop: int) -> NDArray[np.float32]:
    """Rows of a matrix, or the one row that a vector is."""
    if len(source.shape) > 1:
        return source.read(start, stop)
    return source.read(0, source.shape[0]).reshape(1, -1)[start:stop]


def _column_norms(change: _Loaded, source: RowSource) -> NDArray[np.float32]:
    """‖W + sBA‖ of each column, float32 [columns]: one pass over the whole tensor, summed in float64."""
    total = np.zeros(source.shape[1], np.float64)
    for start, stop in spans(source.shape):
        rows = source.read(start, stop)
        if change.a is not None and change.b is not None:
            rows += change.b[start:stop] @ change.a
        total += np.einsum("ij,ij->j", rows, rows, dtype=np.float64)
    return np.sqrt(total).astype(np.float32)


def _quotient(magnitude: NDArray[np.float32], norms: NDArray[np.float32]) -> NDArray[np.float32]:
    """m / ‖…‖; 1 where the norm is 0, as rows of zeros stay zeros whatever their factor."""
    quotient: NDArray[np.float32] = np.divide(magnitude, norms, out=np.ones_like(magnitude), where=norms > 0)
    return quotient
