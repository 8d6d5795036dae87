"""What an export is asked for, settled and checked before the first byte is written.

Opens the base and its adapters, and chooses the vocabulary, the template and the name. Writes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf

from stellar_local.errors import UsageError
from stellar_local.files import read_text
from stellar_local.prompts import Template, load_template, parse_template, template_names, token_ids

from .adapter import Adapter
from .checkpoint import Checkpoint
from .fingerprint import fingerprint
from .levels import Level
from .llama import OUTPUT, ROPE_FREQS, Shape, Tensor, check_tensors
from .merge import Merger
from .vocab import Vocabulary, read_vocabulary

TEMPLATE_FILE = "template.json"  # what training leaves in the adapter's folder


@dataclass(frozen=True)
class Order:
    """What the user asks for. `adapters` are folders and weights; `template` is a shipped template's name or a file."""

    base: Path
    adapters: Sequence[tuple[Path, float]] = ()
    out: Path | None = None
    levels: Sequence[Level] = ()
    name: str | None = None
    template: str | None = None
    hf: Path | None = None
    hf_dtype: str | None = None
    threads: int | None = None

    @property
    def folders(self) -> list[Path]:
        """Every folder that is read."""
        return [self.base, *(folder for folder, _ in self.adapters)]


@dataclass(frozen=True)
class Job:
    """An order whose parts are opened. `inputs` is the fingerprint of everything that decides the bytes."""

    order: Order
    base: Checkpoint
    merger: Merger
    adapters: Sequence[tuple[Adapter, float]]
    vocabulary: Vocabulary
    template: Template | None
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


def prepare(order: Order) -> Job:
    """Open and check everything. Raises StellarError."""
    name = _model_name(order.name, order.out or order.hf)
    checkpoint = Checkpoint.open(order.base)
    shape = Shape.from_config(checkpoint.config)
    shapes = {tensor: source.shape for tensor, source in checkpoint.tensors.items()}
    check_tensors(shape, shapes, str(order.base))
    opened = [(Adapter.open(folder), weight) for folder, weight in order.adapters]
    for adapter, _ in opened:
        parts = {tensor.name: checkpoint.source(tensor.name) for tensor in shape.tensors()}
        adapter.check_fits(parts, tied_output=OUTPUT if shape.tied else None)
    merger = Merger(checkpoint, shape, opened)
    vocabulary = read_vocabulary(order.base, checkpoint.config, merger.shape.vocabulary)
    template = find_template(order.template, [folder for folder, _ in order.adapters])
    if template is not None:
        _check_template(template, vocabulary)
        vocabulary.chat_template = template.jinja()
        if template.add_bos is not None:
            vocabulary.add["bos"] = template.add_bos
    choices = {
        "name": name,
        "weights": [weight for _, weight in order.adapters],
        "template": template.source if template else None,
    }
    inputs = fingerprint([order.base], [folder for folder, _ in order.adapters], choices)
    return Job(order, checkpoint, merger, opened, vocabulary, template, name, inputs)


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


def metadata(job: Job, level: Level) -> dict[str, Any]:
    """All metadata of one level's file but general.architecture; keys and order as llama.cpp's converter's."""
    shape, count = job.shape, job.weights
    out: dict[str, Any] = {
        "general.type": "model",
        "general.name": job.name,
        "general.size_label": gguf.size_label(count, count, 0, 0),
        "llama.block_count": shape.layers,
        "llama.context_length": shape.context,
        "llama.embedding_length": shape.width,
        "llama.feed_forward_length": shape.feed_forward,
        "llama.attention.head_count": shape.heads,
        "llama.attention.head_count_kv": shape.kv_heads,
    }
    if shape.rope.get("rope_type") == "linear":
        out |= {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": float(shape.rope["factor"])}
    own = {}
    if job.template is not None:
        own = {"stellar.template": job.template.source, "stellar.template.name": job.template.name}
    return out | {
        "llama.rope.freq_base": shape.rope_theta,
        "llama.attention.layer_norm_rms_epsilon": shape.rms_eps,
        "llama.attention.key_length": shape.head_dim,
        "llama.attention.value_length": shape.head_dim,
        "general.file_type": level.ftype,
        "llama.vocab_size": shape.vocabulary,
        "llama.rope.dimension_count": shape.head_dim,
        **job.vocabulary.metadata(),
        "general.quantization_version": gguf.GGML_QUANT_VERSION,
        **own,
    }


def _model_name(name: str | None, folder: Path | None) -> str:
    """The name that files begin with. Raises UsageError for one that is no part of a file name."""
    found = name if name is not None else (folder or Path()).absolute().name
    if not re.fullmatch(r"[^\s/\\:*?\"<>|][^/\\:*?\"<>|\0]*", found):
        raise UsageError(f"not usable in a file name: {found!r}", "choose a simple one with --name")
    return found


def _check_template(template: Template, vocabulary: Vocabulary) -> None:
    """Raise UsageError if the template names a special token that this vocabulary lacks."""
    affixes = (template.system, template.user, template.assistant)
    parts = [part for affix in affixes for part in (*affix.prefix, *affix.suffix)]
    token_ids([*parts, *template.stop], encode=lambda text: [], special=vocabulary.id_of)
