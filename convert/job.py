"""What an export is asked for, settled and checked before the first byte is written.

Opens the base and its adapters, and chooses the vocabulary, the template and the name. Writes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stellar_local.errors import ModelError, UsageError
from stellar_local.files import is_writable, own_name, read_text, sha256
from stellar_local.prompts import Template, load_template, parse_template, template_names, token_ids

from .about import About, read_about
from .adapter import Adapter
from .checkpoint import Checkpoint
from .fingerprint import fingerprint
from .hf import TEMPLATE_FILE
from .imatrix import Importance, read_imatrix
from .levels import Level, check_importance
from .llama import ROPE_FREQS, Shape, Tensor, check_tensors
from .merge import Merger
from .vocab import Vocabulary, read_vocabulary


class InputsChanged(ModelError):
    """What was read is not what it was at the beginning: the outputs are a mixture."""


@dataclass(frozen=True)
class Order:
    """What the user asks for. `adapters` are folders and weights; `template` is a shipped template's name or a file;
    `about` holds what the model's description shall say whatever its sources say (fields of about.About).
    """

    base: Path
    adapters: Sequence[tuple[Path, float]] = ()
    out: Path | None = None
    levels: Sequence[Level] = ()
    name: str | None = None
    template: str | None = None
    threads: int | None = None
    hf: Path | None = None
    hf_dtype: str | None = None
    lora_gguf: Path | None = None
    imatrix: Path | None = None
    delta_base: Path | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folders(self) -> list[Path]:
        """Every folder that is read."""
        return [*self.bases, *(folder for folder, _ in self.adapters)]

    @property
    def bases(self) -> list[Path]:
        """The base and, if it is a difference, what it differs from."""
        return [self.base] if self.delta_base is None else [self.base, self.delta_base]


@dataclass(frozen=True)
class Job:
    """An order whose parts are opened. `inputs` is the fingerprint of everything that decides the bytes."""

    order: Order
    base: Checkpoint
    merger: Merger
    adapters: Sequence[tuple[Adapter, float]]
    vocabulary: Vocabulary
    template: Template | None
    importance: Importance | None
    about: About
    name: str
    inputs: str

    @property
    def shape(self) -> Shape:
        """The merged model's shape."""
        return self.merger.shape

    @property
    def tensors(self) -> list[Tensor]:
        """What a GGUF holds, in order: LLaMA 3.1's frequency divisors first, where there are any."""
        extra = [] if self.shape.rope_factors() is None else [Tensor("", ROPE_FREQS, (self.shape.head_dim // 2,))]
        return extra + self.shape.tensors()

    @property
    def weights(self) -> int:
        """How many weights the model has."""
        return sum(tensor.size for tensor in self.tensors)

    @property
    def base_name(self) -> str:
        """What the base is called: the name of its folder."""
        return own_name(self.base.folder)

    def check_inputs(self) -> None:
        """Raise InputsChanged if anything that was read has changed since `prepare`, StellarError if it is gone."""
        if _fingerprint(self.order, self.about, self.template, self.name) != self.inputs:
            raise InputsChanged(
                "the base or an adapter was changed while it was read", "run again when nothing else writes there"
            )

    def adapter_records(self) -> list[dict[str, Any]]:
        """Name, weight, rank, alpha and SHA-256 of each adapter, for the files that tell what was merged."""
        return [
            {
                "name": own_name(adapter.folder),
                "weight": weight,
                "rank": adapter.rank,
                "alpha": adapter.alpha,
                "sha256": sha256(adapter.weights),
            }
            for adapter, weight in self.adapters
        ]


def prepare(order: Order) -> Job:
    """Open and check everything. Raises StellarError."""
    name = _model_name(order)
    checkpoint = Checkpoint.open(order.base, order.delta_base)
    shape = Shape.from_config(checkpoint.config)
    shapes = {tensor: source.shape for tensor, source in checkpoint.tensors.items()}
    check_tensors(shape, shapes, str(order.base))
    opened = [(Adapter.open(folder), weight) for folder, weight in order.adapters]
    for adapter, _ in opened:
        adapter.check_fits(checkpoint, shape)
    merger = Merger(checkpoint, shape, opened)
    folders = [folder for folder, _ in order.adapters]
    vocabulary = read_vocabulary(order.base, checkpoint.config, merger.shape.vocabulary, folders)
    template = find_template(order.template, folders)
    if template is not None:
        _check_template(template, vocabulary)
        vocabulary.chat_template = template.jinja()
        if template.add_bos is not None:
            vocabulary.add["bos"] = template.add_bos
    importance = None
    if order.imatrix is not None:
        importance = read_imatrix(order.imatrix)
        importance.check_fits(merger.shape.tensors())
        check_importance(order.levels, merger.shape, importance.entries)
    about = read_about(order.base, folders, order.about)
    inputs = _fingerprint(order, about, template, name)
    return Job(order, checkpoint, merger, opened, vocabulary, template, importance, about, name, inputs)


def _fingerprint(order: Order, about: About, template: Template | None, name: str) -> str:
    """The fingerprint of all that decides the bytes of an order's files. Raises StellarError."""
    choices = {
        "name": name,
        "base": own_name(order.base),
        "about": asdict(about),
        "imatrix": [order.imatrix.name, sha256(order.imatrix)] if order.imatrix else None,
        "weights": [weight for _, weight in order.adapters],
        "template": [template.name, template.source] if template else None,
    }
    return fingerprint(order.bases, [folder for folder, _ in order.adapters], choices)


def find_template(option: str | None, adapters: Iterable[Path]) -> Template | None:
    """The template by name or file, else the one that training left with the adapters, else None. Raises UsageError."""
    if option is not None:
        return load_template(option)
    sources = {read_text(path, "template") for folder in adapters if (path := folder / TEMPLATE_FILE).is_file()}
    if len(sources) > 1:
        raise UsageError("these adapters were trained with different templates", "choose one with --template")
    for source in sources:
        known = [name for name in template_names() if load_template(name).source == source]
        return parse_template(source, known[0] if known else "own")
    return None


def _model_name(order: Order) -> str:
    """The name that files begin with. Raises UsageError for one that is no part of a file name."""
    folder = order.out or order.hf
    default = folder.absolute().name if folder else (order.lora_gguf or Path()).stem
    found = order.name if order.name is not None else default
    if not is_writable(found) or not re.fullmatch(r"[^\s/\\:*?\"<>|\0-\x1f\x7f][^/\\:*?\"<>|\0-\x1f\x7f]*", found):
        raise UsageError(f"not usable in a file name: {found!r}", "choose a simple one with --name")
    return found


def _check_template(template: Template, vocabulary: Vocabulary) -> None:
    """Raise UsageError if the template names a special token that this vocabulary lacks."""
    affixes = (template.system, template.user, template.assistant)
    parts = [part for affix in affixes for part in (*affix.prefix, *affix.suffix)]
    token_ids([*parts, *template.stop], encode=lambda text: [], special=vocabulary.id_of)
