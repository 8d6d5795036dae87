"""A PEFT LoRA adapter, opened and checked: what it does to which tensor of a base, or why it cannot be merged.

Understood: rank and alpha per module, rsLoRA, DoRA, LoRA on embeddings and output, modules trained whole, resized
embeddings, trained tokens, trained biases, lora_bias. Everything else is refused by name. Source: peft 0.21.
Knows adapters and a base's tensors; does no merging, and knows nothing of GGUF.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stellar_local.errors import ModelError, UsageError
from stellar_local.files import require_folder

from .adapter_config import CONFIG, MERGE_WITH_PEFT, AdapterConfig
from .adapter_keys import Found, sort_tensors
from .checkpoint import Checkpoint, load_bin
from .compare import is_finite, is_zero, same_rows
from .llama import EMBEDDING, OUTPUT, Shape
from .safetensors import RowSource, read_table
from .trained_on import check_trained_on

WEIGHTS, WEIGHTS_BIN = "adapter_model.safetensors", "adapter_model.bin"
_OTHER_BASE = "give the base that it was trained on"
_INCOMPLETE = "the adapter is incomplete; save it again"


@dataclass(frozen=True)
class Pair:
    """A (float32 [rank, columns]) and B ([rows, rank]), read when needed; scale·B·A has the tensor's shape."""

    a: RowSource
    b: RowSource
    scale: float


@dataclass(frozen=True)
class TokenRows:
    """Rows of an embedding that were trained alone: `rows` [n, columns] are the new rows `indices`."""

    indices: tuple[int, ...]
    rows: RowSource


@dataclass(frozen=True)
class BiasChange:
    """What lora_bias adds to a bias: scale·added, `added` [rows]."""

    added: RowSource
    scale: float


@dataclass(frozen=True)
class Adapter:
    """An opened adapter; every mapping goes by the base's tensor names.

    `pairs`: LoRA. `magnitudes`: DoRA's m, [rows] of a linear layer, [columns] of the embeddings. `replaced`: whole
    tensors (modules_to_save, resized embeddings, trained biases). `token_rows`: trained tokens. `bias_changes`:
    lora_bias. `copies`: the base's own tensors, saved beside their changes; they may have rows for added tokens.
    """

    folder: Path
    weights: Path
    config: AdapterConfig
    pairs: Mapping[str, Pair]
    magnitudes: Mapping[str, RowSource]
    replaced: Mapping[str, RowSource]
    token_rows: Mapping[str, TokenRows]
    bias_changes: Mapping[str, BiasChange]
    copies: Mapping[str, RowSource]

    @property
    def rank(self) -> int:
        """The rank of the modules that have none of their own."""
        return self.config.rank

    @property
    def alpha(self) -> float:
        """The lora_alpha of the modules that have none of their own."""
        return self.config.alpha

    @classmethod
    def open(cls, folder: Path) -> Adapter:
        """Open an adapter folder. Raises ModelError for a broken, empty or unsupported one, by name."""
        require_folder(folder, "adapter", "give the folder that holds adapter_config.json")
        if not (folder / CONFIG).is_file():
            if (folder / "config.json").is_file():
                raise ModelError(f"{folder} is a whole model, not an adapter", "give it with --base")
            raise ModelError(f"{folder} holds no {CONFIG}", "give the folder that training wrote")
        config = AdapterConfig.read(folder)
        weights = folder / WEIGHTS
        if not weights.is_file():
            weights = folder / WEIGHTS_BIN
        if not weights.is_file():
            raise ModelError(f"{folder} holds no {WEIGHTS}", "training may have been cut short; train again")
        tensors: Mapping[str, RowSource] = read_table(weights) if weights.name == WEIGHTS else load_bin(weights)
        found = sort_tensors(folder, tensors, EMBEDDING)
        if not (found.halves or found.replaced or found.tokens):
            raise ModelError(
                f"{folder} is empty: it changes no weight",
                "alpaca-lora with a newer PEFT saves such adapters; train with stellar train, or with save_pretrained",
            )
        for name, tensor in tensors.items():
            if not is_finite(tensor):
                raise ModelError(
                    f"{folder} holds NaN or infinite values ({name})", "its training diverged; train again"
                )
        made = cls(
            folder,
            weights,
            config,
            _pairs(folder, found, config),
            found.magnitudes,
            found.replaced,
            _token_rows(folder, found, config),
            {name: BiasChange(added, config.scale_of(_module(name))) for name, added in found.bias_changes.items()},
            found.copies,
        )
        made._check_whole()
        return made

    def check_fits(self, base: Checkpoint, shape: Shape) -> None:
        """Raise ModelError unless every part fits `base`, and all evidence says that it was trained on it.

        Only names that differ are a warning. Also raises for parts that its configuration promises and that are
        missing, and for an adapter that changes nothing.
        """
        tensors = {tensor.name: base.source(tensor.name) for tensor in shape.tensors()}
        tensors.setdefault(OUTPUT, tensors[EMBEDDING])
        self._check_shapes({name: source.shape for name, source in tensors.items()})
        check_trained_on(self.folder, self.config.base, base)
        for name, copy in self.copies.items():
            if not same_rows(copy, tensors[name]):
                raise ModelError(
                    f"{self.folder} brings a {name} of its own, which is not the base's",
                    f"it was trained on another base, or changed this one first; {_OTHER_BASE}, or {MERGE_WITH_PEFT}",
                )
        self._check_promises(tensors, shape.tied)
        if not any(True for _ in self._changes(tensors)):
            raise ModelError(
                f"{self.folder} changes nothing: every lora_B is zero", "it was saved before its training began"
            )

    def rows_of(self, name: str, held: int) -> int:
        """How many rows a tensor of the base, which has `held`, has after this adapter: more for added tokens."""
        source = self.replaced.get(name) or self.copies.get(name)
        return source.shape[0] if source is not None else held

    def _check_whole(self) -> None:
        """Raise ModelError where tensors and configuration contradict each other."""
        lost = set(self.pairs) ^ set(self.magnitudes) if self.config.dora or self.magnitudes else set()
        if lost:
            raise ModelError(
                f"{self.folder} has LoRA without DoRA's magnitude, or the reverse, on {_module(min(lost))}", _INCOMPLETE
            )
        if self.magnitudes and not self.config.dora:
            raise ModelError(f"{self.folder} holds DoRA's magnitudes, but {CONFIG} does not say use_dora", _INCOMPLETE)
        if self.config.targets and not self.pairs:
            raise ModelError(
                f"{self.folder} is empty of LoRA, though {CONFIG} names modules for it",
                "save it again with PEFT's save_pretrained",
            )
        strays = [name for name in self.bias_changes if f"{_module(name)}.weight" not in self.pairs]
        if odd := [*strays, *(set(self.token_rows) & {*self.pairs, *self.replaced})]:
            raise ModelError(f"{self.folder} changes {odd[0]} in ways that do not go together", MERGE_WITH_PEFT)

    def _check_shapes(self, held: Mapping[str, tuple[int, ...]]) -> None:
        parts = (self.pairs, self.magnitudes, self.replaced, self.token_rows, self.bias_changes, self.copies)
        for name in sorted({name for part in parts for name in part}):
            if name not in held:
                if name.endswith(".bias") and f"{_module(name)}.weight" in held:
                    raise ModelError(
                        f"{self.folder} trained {name}, but this base has no biases",
                        "such an adapter can be merged into a base with biases only, by PEFT too",
                    )
                raise ModelError(
                    f"{self.folder} changes {name}, which the base does not have", "it was trained on another base"
                )
            rows = self.rows_of(name, held[name][0])
            expected = (rows, *held[name][1:])
            grows = name in (EMBEDDING, OUTPUT) and rows >= held[name][0]
            for found, wanted in self._shapes(name, expected):
                if found != wanted or (rows != held[name][0] and not grows):
                    raise ModelError(
                        f"{self.folder} was made for another base: it changes {name} as {list(found)}, "
                        f"which is {list(held[name] if found == wanted else wanted)} here",
                        _OTHER_BASE,
                    )
            tokens = self.token_rows.get(name)
            if tokens and max(tokens.indices) >= rows:
                raise ModelError(
                    f"{self.folder} trained token {max(tokens.indices)}, but the base has {rows} of them",
                    "give the base with the tokens added to it",
                )

    def _shapes(self, name: str, expected: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Each part's shape on a tensor, and what it must be for a tensor of the shape `expected`."""
        for source in (self.replaced.get(name), self.copies.get(name)):
            if source is not None:
                yield source.shape, expected
        if pair := self.pairs.get(name):
            yield (pair.b.shape[0], pair.a.shape[1]), expected
        if name in self.magnitudes:
            yield self.magnitudes[name].shape, (expected[1] if name == EMBEDDING else expected[0],)
        if tokens := self.token_rows.get(name):
            yield tokens.rows.shape, (len(tokens.indices), expected[1])
        if name in self.bias_changes:
            yield self.bias_changes[name].added.shape, expected

    def _check_promises(self, tensors: Mapping[str, RowSource], tied: bool) -> None:
        """Raise ModelError if a module of the base that the configuration names has no tensors in the adapter."""
        for name, source in tensors.items():
            module, missing = _module(name), ""
            if not name.endswith(".weight"):
                continue
            if self.config.saves(module) and name not in self.replaced:
                missing = "modules_to_save"
            elif len(source.shape) == 2 and self.config.is_target(module):
                missing = "" if name in self.pairs or name in self.replaced else "target_modules"
            elif (self.config.tokens_of(module) is None) == (name in self.token_rows):
                shared = tied and name == OUTPUT and EMBEDDING in self.token_rows
                missing = "" if shared else "trainable_token_indices"
            if missing:
                raise ModelError(f"{self.folder} and its {missing} do not agree about {module}", _INCOMPLETE)

    def _changes(self, tensors: Mapping[str, RowSource]) -> Iterator[str]:
        """The tensors that the adapter changes, compared with the base only where that is needed to know."""
        for name, pair in self.pairs.items():
            if not (is_zero(pair.b) or is_zero(pair.a)):
                yield name
        for name, bias in self.bias_changes.items():
            if not is_zero(bias.added):
                yield name
        for name, source in self.replaced.items():
            if source.shape != tensors[name].shape or not same_rows(source, tensors[name]):
                yield name
        for name, tokens in self.token_rows.items():
            rows, held = whole(tokens.rows), tensors[name]
            if any(
                index >= held.shape[0] or not np.array_equal(row, held.read(index, index + 1)[0])
                for index, row in zip(tokens.indices, rows, strict=True)
            ):
                yield name


def parse_adapter(text: str) -> tuple[Path, float]:
    """`DIR` or `DIR:WEIGHT` → (folder, weight). A folder of exactly that name wins. Raises UsageError."""
    head, colon, tail = text.rpartition(":")
    if not colon or not head or Path(text).exists():
        return Path(text), 1.0
    try:
        weight = float(tail)
    except ValueError:  # a drive's colon, or one in the name
        return Path(text), 1.0
    if not 1e-30 < abs(weight) < 1e30:  # neither nothing nor infinity in float32
        raise UsageError(f"an adapter's weight must be a number other than 0: {text}", "for example --adapter DIR:0.5")
    return Path(head), weight


def _pairs(folder: Path, found: Found, config: AdapterConfig) -> dict[str, Pair]:
    """Match the halves A and B. Raises ModelError for a missing half and for another rank than the configuration's."""
    pairs = {}
    for name, half in found.halves.items():
        module = _module(name)
        if len(half) < 2:
            (present,) = half  # of embeddings, the stored halves change places
            missing = f"lora_embedding_{present}" if name == EMBEDDING else f"lora_{'B' if present == 'A' else 'A'}"
            raise ModelError(f"{folder} lacks {missing} of {module}", _INCOMPLETE)
        a, b, rank = half["A"], half["B"], config.rank_of(module)
        if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != rank or b.shape[1] != rank:
            raise ModelError(
                f"{folder}: {module} has A {list(a.shape)} and B {list(b.shape)}, which is not rank {rank}",
                f"{CONFIG} belongs to another adapter",
            )
        pairs[name] = Pair(a, b, config.scale_of(module))
    return pairs


def _token_rows(folder: Path, found: Found, config: AdapterConfig) -> dict[str, TokenRows]:
    """Give trained rows their indices, which only the configuration has. Raises ModelError where it lacks them."""
    out = {}
    for name, rows in found.tokens.items():
        indices = config.tokens_of(_module(name))
        if indices is None and name == OUTPUT:  # shares what was trained on the embeddings, see parts.py
            indices = config.tokens_of(_module(EMBEDDING))
        if indices is None:
            raise ModelError(
                f"{folder} trained tokens of {_module(name)}, but {CONFIG} does not say which", _INCOMPLETE
            )
        out[name] = TokenRows(indices, rows)
    return out


def _module(name: str) -> str:
    """The module that a tensor belongs to."""
    return name.rpartition(".")[0]


def whole(source: RowSource) -> NDArray[np.float32]:
    """All of a small tensor as float32."""
    return source.read(0, source.shape[0])
