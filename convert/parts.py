"""What one adapter does to each tensor, and to an output that the base shares with its embeddings.

Such an output (tie_word_embeddings) is where PEFT's merge and the trained model part ways: merge_and_unload adds
every change to the one shared tensor, while the model that was trained applied each to its own side. The trained
model is what a user wants, so what is found here is what the unmerged PeftModel computes (peft 0.21.2):

- LoRA, DoRA or a whole module on embed_tokens or lm_head changes that side alone; the other keeps the base's tensor.
- ensure_weight_tying saves both sides, with equal changes.
- Trained tokens of embed_tokens count for both, unless lm_head has trained tokens of its own.
- Resized embeddings without any of these are one tensor still.

Knows adapters; knows nothing of how rows are computed.
"""

from __future__ import annotations

from dataclasses import dataclass

from stellar_local.errors import ModelError

from .adapter import Adapter, BiasChange, Pair, TokenRows
from .llama import EMBEDDING, OUTPUT, Shape
from .safetensors import RowSource, same_values


@dataclass(frozen=True)
class Part:
    """What one adapter does to one tensor, in this order: the base's own rows, or `grown` with rows for added tokens
    in their place, or `replaced`; LoRA; DoRA's magnitude, of rows or (`by_column`) of columns; token rows; bias."""

    grown: RowSource | None = None
    replaced: RowSource | None = None
    pair: Pair | None = None
    magnitude: RowSource | None = None
    by_column: bool = False
    tokens: TokenRows | None = None
    bias: BiasChange | None = None

    @property
    def is_plain(self) -> bool:
        """Whether it only adds B·A."""
        return self.pair is not None and self.grown is None and self.magnitude is None

    @property
    def changes(self) -> bool:
        """Whether it does more than bring rows for added tokens."""
        return any(part is not None for part in (self.replaced, self.pair, self.tokens, self.bias))

    def rows(self, held: int) -> int:
        """How many rows a tensor that has `held` in the base has after it."""
        source = self.replaced or self.grown
        return source.shape[0] if source else held


def parts_of(adapter: Adapter, shape: Shape) -> dict[str, Part]:
    """What `adapter`, which fits the base, does to each tensor, the output of a tied base included.

    Raises ModelError where embeddings and output would have different numbers of tokens, and where the adapter does
    not hold what the trained model's output was.
    """
    tables = {name: adapter.copies[name] for name in (EMBEDDING, OUTPUT) if name in adapter.copies}
    grown = {name: table for name, table in tables.items() if table.shape[0] > shape.vocabulary}
    groups = (grown, adapter.replaced, adapter.pairs, adapter.token_rows, adapter.bias_changes)
    parts = {
        name: Part(
            grown.get(name),
            adapter.replaced.get(name),
            adapter.pairs.get(name),
            adapter.magnitudes.get(name),
            name == EMBEDDING,
            adapter.token_rows.get(name),
            adapter.bias_changes.get(name),
        )
        for name in {name for group in groups for name in group}
    }
    if shape.tied:
        _complete_tied(adapter, parts, next(iter(grown.values()), None))
    embedded, output = (parts.get(name, Part()).rows(shape.vocabulary) for name in (EMBEDDING, OUTPUT))
    if embedded != output:
        raise ModelError(
            f"{adapter.folder} has {embedded} tokens in embed_tokens and {output} in lm_head",
            "train it again with embed_tokens and lm_head in modules_to_save, or from a base that has the added tokens",
        )
    return parts


def same_part(one: Part | None, other: Part | None) -> bool:
    """Whether two parts change one tensor in the same way. DoRA's on embeddings and on outputs never do."""
    one, other = one or Part(), other or Part()
    if one.magnitude or other.magnitude:
        return False
    if one.tokens and other.tokens and one.tokens.indices != other.tokens.indices:
        return False
    if one.pair and other.pair and one.pair.scale != other.pair.scale:
        return False
    return all(_equal(*both) for both in zip(_sources(one), _sources(other), strict=True))


def _complete_tied(adapter: Adapter, parts: dict[str, Part], grown: RowSource | None) -> None:
    """Fill in the side of a tied base that the adapter says nothing about. Raises ModelError where it cannot be known.

    `grown` is the shared tensor with rows for added tokens, if the adapter brings it.
    """
    if grown is not None:
        parts.setdefault(EMBEDDING, Part(grown))
        parts.setdefault(OUTPUT, Part(grown))
    embedding, output = parts.get(EMBEDDING, Part()), parts.get(OUTPUT, Part())
    if not output.changes:
        whole_module = embedding.replaced is not None and adapter.config.saves("model.embed_tokens")
        if adapter.config.ties and (embedding.pair or embedding.replaced):
            raise ModelError(
                f"{adapter.folder} says ensure_weight_tying, but lacks lm_head's half of it",
                "save it again with PEFT's save_pretrained",
            )
        if embedding.tokens or (embedding.replaced and not whole_module):
            parts[OUTPUT] = embedding
    elif embedding.tokens and output.replaced:
        raise ModelError(
            f"{adapter.folder} trained tokens of embed_tokens and brings a whole lm_head, which this base shares with "
            "its embeddings: which of the two the output was cannot be told",
            "merge it with the PEFT release that trained it, and convert the merged folder",
        )


def _sources(part: Part) -> list[RowSource | None]:
    """Everything that is stored of a part of the embeddings or of the output, but DoRA's magnitude."""
    halves = [part.pair.a, part.pair.b] if part.pair else [None, None]
    return [part.replaced or part.grown, *halves, part.tokens.rows if part.tokens else None]


def _equal(one: RowSource | None, other: RowSource | None) -> bool:
    return one is other if one is None or other is None else same_values(one, other)
