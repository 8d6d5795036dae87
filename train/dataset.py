"""Triples → token ids with the learned part marked; what is too long is left out, cut or split, as asked.

Knows a template and a tokenizer; knows no tensors and no model.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from stellar_local.answered import joined
from stellar_local.errors import StellarError
from stellar_local.prompts import Special, Template

from .corpus import Triple
from .tokenizer import Tokenizer


@dataclass(frozen=True)
class Sample:
    """One sample's ids, BOS to end token; the loss is on ids[first:], marked by position and never by token id.

    `part` numbers the samples that one row was split into, from 0: they stand one after the other.
    """

    ids: list[int]
    first: int
    part: int = 0


@dataclass(frozen=True)
class Counts:
    """What became of the rows.

    `too_long` rows were left out, `truncated` ones cut, `divided` ones split into several samples; `empty` ones have
    no answer. `split` counts the kept ones whose prompt and answer were tokenized apart. `kept` counts samples.
    """

    rows: int
    kept: int
    too_long: int
    truncated: int
    divided: int
    empty: int
    split: int
    learned_tokens: int
    tokens: int

    def as_json(self) -> dict[str, int]:
        """The counts as they stand in `training.json`."""
        return asdict(self)


@dataclass(frozen=True)
class Encoding:
    """How rows become samples: `over_long` is drop, truncate or split; `end` says whether the end token is learned."""

    cutoff: int
    over_long: str = "drop"
    train_on_inputs: bool = False
    end: bool = True


def encode(
    triple: Triple, template: Template, tokenizer: Tokenizer, train_on_inputs: bool = False, end: bool = True
) -> tuple[Sample, bool]:
    """Tokenize one triple; returns the sample and whether its prompt and answer had to be tokenized apart.

    The ids are those that evaluation scores (stellar_local.answered). Raises UsageError.
    """
    prompt, whole = template.training(triple.instruction, triple.input, triple.output)
    if not end and isinstance(whole[-1], Special):
        whole = whole[:-1]
    add_bos = tokenizer.add_bos if template.add_bos is None else template.add_bos
    bos = [tokenizer.bos_id] if add_bos and tokenizer.bos_id is not None else []
    ids, head, apart = joined(prompt, whole, tokenizer.encode, tokenizer.special)
    # Nothing precedes the first token, so nothing can be asked to predict it.
    return Sample(bos + ids, 1 if train_on_inputs else max(1, len(bos) + head)), apart


def encode_all(
    triples: Sequence[Triple], template: Template, tokenizer: Tokenizer, encoding: Encoding
) -> tuple[list[Sample], Counts]:
    """Tokenize all triples; what exceeds the cutoff follows `encoding.over_long`.

    Left out is, under every policy, a row whose prompt alone reaches the cutoff. Raises StellarError if nothing is
    left, UsageError if the template does not fit the vocabulary.
    """
    samples: list[Sample] = []
    too_long = truncated = divided = empty = split = 0
    for triple in triples:
        sample, apart = encode(triple, template, tokenizer, encoding.train_on_inputs, encoding.end)
        if len(sample.ids) <= sample.first:
            empty += 1
            continue
        fitting = fit(sample, encoding)
        too_long += not fitting
        truncated += len(fitting) == 1 and len(fitting[0].ids) < len(sample.ids)
        divided += len(fitting) > 1
        split += apart and bool(fitting)
        samples += fitting
    if not samples:
        raise StellarError(
            f"no row is left: of {len(triples)}, {too_long} exceed {encoding.cutoff} tokens and {empty} have no answer",
            "raise --cutoff-len" if too_long else "check the data",
        )
    counts = Counts(
        rows=len(triples),
        kept=len(samples),
        too_long=too_long,
        truncated=truncated,
        divided=divided,
        empty=empty,
        split=split,
        learned_tokens=sum(len(sample.ids) - sample.first for sample in samples),
        tokens=sum(len(sample.ids) for sample in samples),
    )
    return samples, counts


def fit(sample: Sample, encoding: Encoding) -> list[Sample]:
    """A sample as samples of at most `cutoff` tokens: itself, none, its beginning, or several that share its tokens.

    A cut answer lacks its end token, so that nobody learns to stop there. Split, each answer token is learned once:
    every further sample repeats the prompt and, unlearned, as much of the answer before it as fills half the room.
    Where prompts are learned too, or there is room for one token only, a row is cut instead.
    """
    ids, cutoff = sample.ids, encoding.cutoff
    if len(ids) <= cutoff:
        return [sample]
    room = cutoff - sample.first
    if encoding.over_long == "drop" or room < 1:
        return []
    if encoding.over_long == "truncate" or room < 2 or encoding.train_on_inputs:
        return [Sample(ids[:cutoff], sample.first)]
    pieces = [Sample(ids[:cutoff], sample.first)]
    context = room // 2
    for start in range(cutoff, len(ids), room - context):
        part = ids[: sample.first] + ids[start - context : start + room - context]
        pieces.append(Sample(part, sample.first + context, len(pieces)))
    return pieces


def hold_out(samples: Sequence[Sample], size: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Split into (training, validation) by a seeded draw.

    `size` is a number of rows, or a fraction below 1: one row at least, as who asks for validation should get it. All
    parts of a row come to the same side: they share tokens. Raises StellarError if nothing is left to train on.
    """
    rows: list[list[Sample]] = []
    for sample in samples:
        if sample.part:
            rows[-1].append(sample)
        else:
            rows.append([sample])
    count = int(size) if size >= 1 else max(size > 0, round(size * len(rows)))
    if count >= len(rows):
        raise StellarError(
            f"--val-set-size {size:g} takes all of the {len(rows)} rows", "choose a smaller number, or 0 for none"
        )
    chosen = set(random.Random(seed).sample(range(len(rows)), count))
    train = [sample for index, row in enumerate(rows) if index not in chosen for sample in row]
    return train, [sample for index in sorted(chosen) for sample in rows[index]]
