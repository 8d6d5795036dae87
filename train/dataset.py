"""Triples → token ids with the learned part marked, and micro-batches packed without padding.

A micro-batch is one row: the tokens that all its samples begin with (a template's system line) stand there once,
each sample's own tokens follow, and a mask lets a sample see the common part and itself alone. In a causal model
that gives the same hidden states as separate rows, so loss and gradients are exactly those of the padded form,
without computing padding or the common part again and again. torch is imported when tensors are made, not before.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from stellar_local.errors import StellarError
from stellar_local.prompts import Segment, Template, Text, token_ids

from .corpus import Triple
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Sample:
    """One sample's ids, BOS to end token; the loss is on ids[first:], marked by position and never by token id."""

    ids: list[int]
    first: int


@dataclass(frozen=True)
class Counts:
    """What became of the rows. `split` counts the kept ones whose prompt and answer were tokenized apart."""

    rows: int
    kept: int
    too_long: int
    empty: int
    split: int
    learned_tokens: int
    tokens: int

    def as_json(self) -> dict[str, int]:
        """The counts as they stand in `training.json`."""
        return asdict(self)


def encode(
    triple: Triple, template: Template, tokenizer: Tokenizer, train_on_inputs: bool = False
) -> tuple[Sample, bool]:
    """Tokenize one triple; returns the sample and whether its prompt and answer had to be tokenized apart.

    The ids are those of the whole string, as llama.cpp gives them, wherever the prompt's ids are their beginning.
    An answer that begins with white space may merge with the prompt's last line break: then the two are tokenized
    apart, because a prompt that is being answered never contains a piece of the answer. Raises UsageError.
    """
    prompt, whole = template.training(triple.instruction, triple.input, triple.output)
    add_bos = tokenizer.add_bos if template.add_bos is None else template.add_bos
    bos = [tokenizer.bos_id] if add_bos and tokenizer.bos_id is not None else []
    head = bos + token_ids(prompt, tokenizer.encode, tokenizer.special)
    ids = bos + token_ids(whole, tokenizer.encode, tokenizer.special)
    apart = ids[: len(head)] != head
    if apart:
        ids = head + token_ids(_answer(prompt, whole), tokenizer.encode, tokenizer.special)
    # Nothing precedes the first token, so nothing can be asked to predict it.
    return Sample(ids, 1 if train_on_inputs else max(1, len(head))), apart


def _answer(prompt: Sequence[Segment], whole: Sequence[Segment]) -> list[Segment]:
    """What `whole` adds to `prompt`, where the last text of the prompt may go on."""
    last, joined = prompt[-1], whole[len(prompt) - 1]
    if isinstance(last, Text) and isinstance(joined, Text):
        return [Text(joined.text[len(last.text) :]), *whole[len(prompt) :]]
    return list(whole[len(prompt) :])


def encode_all(
    triples: Sequence[Triple], template: Template, tokenizer: Tokenizer, cutoff: int, train_on_inputs: bool = False
) -> tuple[list[Sample], Counts]:
    """Tokenize all triples, leaving out those longer than `cutoff` tokens and those without an answer token.

    A cut answer would teach the model to stop nowhere or anywhere, so none is ever cut. Raises StellarError if
    nothing is left, UsageError if the template does not fit the vocabulary.
    """
    samples: list[Sample] = []
    too_long = empty = split = 0
    for triple in triples:
        sample, apart = encode(triple, template, tokenizer, train_on_inputs)
        if len(sample.ids) <= sample.first:
            empty += 1
        elif len(sample.ids) > cutoff:
            too_long += 1
        else:
            samples.append(sample)
            split += apart
    if not samples:
        raise StellarError(
            f"no row is left: of {len(triples)}, {too_long} exceed {cutoff} tokens and {empty} have no answer",
            "raise --cutoff-len" if too_long else "check the data",
        )
    counts = Counts(
        rows=len(triples),
        kept=len(samples),
        too_long=too_long,
        empty=empty,
        split=split,
        learned_tokens=sum(len(sample.ids) - sample.first for sample in samples),
        tokens=sum(len(sample.ids) for sample in samples),
    )
    return samples, counts


def hold_out(samples: Sequence[Sample], size: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Split into (training, validation) by a seeded draw; `size` is a number of samples, or a fraction below 1.

    Raises StellarError if that leaves nothing to train on.
    """
    count = int(size) if size >= 1 else round(size * len(samples))
    if count >= len(samples):
        raise StellarError(
            f"--val-set-size {size:g} takes all of the {len(samples)} rows", "choose a smaller number, or 0 for none"
        )
    chosen = set(random.Random(seed).sample(range(len(samples)), count))
    train = [sample for index, sample in enumerate(samples) if index not in chosen]
    return train, [samples[index] for index in sorted(chosen)]


def pack(samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
    """One micro-batch as the model's arguments, for T packed tokens of which L are followed by a learned one.

    input_ids, position_ids int64[1, T]; attention_mask bool[1, 1, T, T], True where row attends to column;
    logits_to_keep int64[L], the places whose next token is learned; labels int64[L], those tokens.
    """
    import torch

    shared = _shared(samples)
    ids, positions, owner = samples[0].ids[:shared], list(range(shared)), [0] * shared
    places: list[int] = []
    labels: list[int] = []
    for number, sample in enumerate(samples, 1):
        end = len(sample.ids) - 1  # the last token is only ever a label
        places += range(len(ids) + sample.first - 1 - shared, len(ids) + end - shared)
        labels += sample.ids[sample.first :]
        ids += sample.ids[shared:end]
        positions += range(shared, end)
        owner += [number] * (end - shared)
    owners = torch.tensor(owner)
    visible = (owners[None, :] == owners[:, None]) | (owners == 0)[None, :]
    return {
        "input_ids": torch.tensor([ids]),
        "position_ids": torch.tensor([positions]),
        "attention_mask": visible.tril()[None, None],
        "logits_to_keep": torch.tensor(places),
        "labels": torch.tensor(labels),
    }


def _shared(samples: Sequence[Sample]) -> int:
    """How many leading ids all samples have in common and none learns anything from.

    The place before a sample's first learned token predicts that token, so it stays the sample's own.
    """
    first = samples[0].ids
    length = min(sample.first for sample in samples) - 1
    for sample in samples[1:]:
        while sample.ids[:length] != first[:length]:
            length -= 1
    return length
