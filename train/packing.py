"""The samples of an optimizer step cut into micro-batches, packed into rows almost without padding.

In a row the tokens that all its samples begin with (a template's system line) stand once, each sample's own tokens
follow, and a mask lets a sample see the common part and itself alone. In a causal model that gives the same hidden
states as separate rows, so loss and gradients are exactly those of the padded form, without computing padding or the
common part again and again. A micro-batch has several rows rather than a long one, because attention computes what
its mask hides too. Knows samples, no model; torch is imported when tensors are made, not before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .dataset import Sample
from .memory import ROW

# Attention kernels want rows whose length is a multiple of this, and copy the mask where it is not.
ALIGNMENT = 8

Row = list[Sample]
MicroBatch = list[Row]


@dataclass(frozen=True)
class Limit:
    """How much one micro-batch may hold: `samples`, and `tokens` of its rows with their padding; 0 is no limit."""

    samples: int = 0
    tokens: int = 0

    def halved(self, batch: MicroBatch) -> Limit | None:
        """The limit after this micro-batch was too much; None if nothing smaller can be made of it."""
        held, tokens = sum(map(len, batch)), packed_length(batch)
        # A row that is longer than the limit, as its longest sample is, must not raise it, nor be tried for ever.
        tokens = min(tokens, self.tokens or tokens) // 2
        return Limit(self.samples and max(1, held // 2), tokens) if held > 1 and tokens else None


def cut(samples: Sequence[Sample], limit: Limit) -> list[MicroBatch]:
    """Micro-batches of about equal size that together hold every sample once.

    A sample beyond the limit has a row of its own, and other rows may then be as long.

    The loss is normalised over the optimizer step, so how it is cut changes memory and speed, not the result.
    """
    order = sorted(samples, key=lambda sample: len(sample.ids), reverse=True)
    most = limit.samples or len(order)
    batches: list[MicroBatch] = []
    for start in range(0, len(order), most):
        rows = _rows(order[start : start + most], min(ROW, limit.tokens or ROW))
        beside = max(1, limit.tokens // max(map(_length, rows))) if limit.tokens else len(rows)
        count = -(-len(rows) // beside)
        batches += [rows[len(rows) * i // count : len(rows) * (i + 1) // count] for i in range(count)]
    return batches


def own_share(samples: Sequence[Sample], process: int, processes: int) -> list[Sample]:
    """A process's samples of a step: every n-th by length, so that all have about as much to do. The first has most."""
    if processes == 1:
        return list(samples)
    return sorted(samples, key=lambda sample: len(sample.ids), reverse=True)[process::processes]


def _rows(order: Sequence[Sample], width: int) -> list[Row]:
    """Rows of at most `width` tokens, or as many as the longest sample has, from samples that come longest first."""
    shared = shared_length(order)
    sizes = [len(sample.ids) - 1 - shared for sample in order]  # a last token is only ever a label
    most = max(width - shared, sizes[0])
    count = max(1, -(-sum(sizes) // most))
    while True:
        rows: list[Row] = [[] for _ in range(count)]
        filled = [0] * count
        for sample, size in zip(order, sizes, strict=True):
            # Longest first, each where least is: within a third of the best (Graham, 1969).
            place = min(range(count), key=filled.__getitem__)
            rows[place].append(sample)
            filled[place] += size
        if max(filled) <= most:
            return [row for row in rows if row]
        count += 1


def _length(row: Row) -> int:
    """The tokens of a row without padding."""
    shared = shared_length(row)
    return shared + sum(len(sample.ids) - 1 - shared for sample in row)


def packed_length(batch: MicroBatch) -> int:
    """How many tokens a micro-batch has, with the padding of its rows to one length."""
    return len(batch) * max(map(_length, batch))


def pack(batch: MicroBatch, alignment: int = 1) -> dict[str, Any]:
    """One micro-batch as tensors, for R rows of T tokens, of which L are followed by a learned one.

    input_ids, position_ids int64[R, T]; attention_mask bool[R, 1, T, T], True where row attends to column, or None
    where every row is one sample: each token then attends to all before it, for which there are faster kernels;
    lengths int64[R, T], the length of the sample that each token belongs to; places int64[L], which of the R·T
    tokens, row after row, are followed by a learned one; labels int64[L], those tokens. T is filled up to a multiple
    of `alignment` with tokens that nothing attends to but themselves.
    """
    import torch

    width = -(-max(map(_length, batch)) // alignment) * alignment
    rows = [_fill(row, width) for row in batch]
    owners = torch.tensor([row.owner for row in rows])
    visible = (owners[:, None, :] == owners[:, :, None]) | ((owners == 0)[:, None, :] & (owners > 0)[:, :, None])
    return {
        "input_ids": torch.tensor([row.ids for row in rows]),
        "position_ids": torch.tensor([row.positions for row in rows]),
        "attention_mask": None if all(len(row) == 1 for row in batch) else visible.tril()[:, None],
        "lengths": torch.tensor([row.lengths for row in rows]),
        "places": torch.tensor([number * width + place for number, row in enumerate(rows) for place in row.places]),
        "labels": torch.tensor([label for row in rows for label in row.labels]),
    }


@dataclass
class _Filled:
    """One row's columns, a value for each token; `places` and `labels` have one for each learned token."""

    ids: list[int]
    positions: list[int]
    owner: list[int]  # 0 what all share, from 1 the samples, below 0 padding
    lengths: list[int]
    places: list[int]
    labels: list[int]


def _fill(samples: Row, width: int) -> _Filled:
    shared = shared_length(samples)
    longest = max(len(sample.ids) - 1 for sample in samples)
    row = _Filled(samples[0].ids[:shared], list(range(shared)), [0] * shared, [longest] * shared, [], [])
    for number, sample in enumerate(samples, 1):
        end = len(sample.ids) - 1
        row.places += range(len(row.ids) + sample.first - 1 - shared, len(row.ids) + end - shared)
        row.labels += sample.ids[sample.first :]
        row.ids += sample.ids[shared:end]
        row.positions += range(shared, end)
        row.owner += [number] * (end - shared)
        row.lengths += [end] * (end - shared)
    padding = width - len(row.ids)
    row.ids += [0] * padding
    row.positions += range(len(row.positions), width)
    row.owner += range(-1, -1 - padding, -1)
    row.lengths += [1] * padding
    return row


def shared_length(samples: Sequence[Sample]) -> int:
    """How many leading ids all samples have in common and none learns anything from.

    The place before a sample's first learned token predicts that token, so it stays the sample's own.
    """
    first = samples[0].ids
    length = min(sample.first for sample in samples) - 1
    for sample in samples[1:]:
        while sample.ids[:length] != first[:length]:
            length -= 1
    return length
