"""One pass from a base and its adapters to every level: each block of rows is read, merged and quantized once.

Nothing is held but one block, so a 13B merges on a small machine, and five levels cost one read. Files appear
complete or not at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from stellar_local.console import progress
from stellar_local.errors import UsageError
from stellar_local.files import atomic_file, atomic_folder, atomic_text, ensure_folder, exclusive, read_text, sha256
from stellar_local.native.cores import physical_cores
from stellar_local.native.ggml import GgmlType
from stellar_local.prompts import Template, load_template, parse_template, template_names, token_ids

from . import card
from .adapter import Adapter
from .checkpoint import Checkpoint
from .gguf_out import GgufStream
from .hf import WeightsWriter, stored_dtype, write_surroundings
from .levels import Level, tensor_type
from .llama import ROPE_FREQS, Shape, Tensor, check_tensors, head_order
from .merge import Merger, blocks
from .quantize import Quantizer
from .space import check_space
from .vocab import Vocabulary, read_vocabulary

TEMPLATE_FILE = "template.json"  # what training leaves in the adapter's folder


@dataclass
class _Job:
    """Everything that is settled before the first byte is written."""

    base: Checkpoint
    shape: Shape
    adapters: list[tuple[Adapter, float]]
    merger: Merger
    vocabulary: Vocabulary
    template: Template | None
    name: str

    @property
    def tensors(self) -> list[Tensor]:
        """What a GGUF holds, in order: LLaMA 3.1's frequency divisors first, where there are any."""
        extra = [] if self.shape.rope_factors() is None else [Tensor("", ROPE_FREQS, (self.shape.head_dim // 2,))]
        return extra + self.shape.tensors()


def export(
    base: Path,
    adapters: Sequence[tuple[Path, float]] = (),
    out: Path | None = None,
    levels: Sequence[Level] = (),
    name: str | None = None,
    template: str | None = None,
    threads: int | None = None,
    hf: Path | None = None,
    hf_dtype: str | None = None,
) -> list[card.LevelFile]:
    """Merge `adapters` (folder, weight) into `base` and write `levels` to `out` and a merged folder to `hf`.

    `template` is a shipped template's name or a file; None takes the adapter's own, else the base's chat template
    stays. Returns the files written. Raises StellarError: UsageError for a wrong choice, ModelError for a base or an
    adapter that is broken, unsupported or does not fit, StellarError for a disk that is full or read-only.
    """
    if (out is None or not levels) and hf is None:
        raise UsageError("nothing to write", "give --out for GGUF files or --hf for a merged Hugging Face folder")
    job = _prepare(base, adapters, template, _model_name(name, out or hf))
    if hf is not None:
        dtype = stored_dtype(hf_dtype) if hf_dtype else _base_dtype(job)
        if hf.exists() and not (hf.is_dir() and not any(hf.iterdir())):
            raise UsageError(f"{hf} exists already", "choose another folder for --hf, or remove it")
        ensure_folder(hf.absolute().parent)
    with ExitStack() as stack:
        streams: dict[str, GgufStream] = {}
        if out is not None and levels:
            ensure_folder(out)
            stack.enter_context(exclusive(out / ".lock", out))
            for level in levels:
                temporary = stack.enter_context(atomic_file(out / f"{job.name}-{level.name}.gguf"))
                types = {tensor.gguf: tensor_type(level, tensor, job.shape) for tensor in job.tensors}
                stream = GgufStream(temporary, _metadata(job, level), job.tensors, types)
                streams[level.name] = stack.enter_context(closing(stream))
        needs = {out: sum(stream.data_size for stream in streams.values())} if out is not None else {}
        weights = None
        if hf is not None:
            stack.enter_context(exclusive(hf.absolute().with_name(f".{hf.name}.lock"), hf))
            folder = stack.enter_context(atomic_folder(hf))
            entries = [(tensor.name, tensor.shape) for tensor in job.shape.tensors()]
            weights = stack.enter_context(closing(WeightsWriter(folder, entries, dtype)))
            needs[hf.absolute().parent] = weights.size
            write_surroundings(folder, job.base, dtype, job.template, job.vocabulary.adds_bos)
        check_space(needs)
        what = ", ".join(streams) or "merged folder"
        with Quantizer(threads or physical_cores()) as quantizer:
            _run(job, quantizer, list(streams.values()), weights, f"{job.name}: {what}")
        if weights is not None:
            weights.finish()
    if out is None or not streams:
        return []
    count = sum(tensor.size for tensor in job.tensors)
    made = [
        card.LevelFile(level, f"{job.name}-{level}.gguf", stream.size, 8 * stream.weight_bytes / count, stream.sha256)
        for level, stream in streams.items()
    ]
    _describe(job, out, made, count)
    return made


def _prepare(base: Path, adapters: Sequence[tuple[Path, float]], template: str | None, name: str) -> _Job:
    """Open and check everything. Raises StellarError."""
    checkpoint = Checkpoint.open(base)
    shape = Shape.from_config(checkpoint.config)
    shapes = {tensor: source.shape for tensor, source in checkpoint.tensors.items()}
    check_tensors(shape, shapes, str(base))
    opened = [(Adapter.open(folder), weight) for folder, weight in adapters]
    for adapter, _ in opened:
        adapter.check_fits(checkpoint, shape)
    merger = Merger(checkpoint, shape, opened)
    shape = merger.shape
    vocabulary = read_vocabulary(base, checkpoint.config, shape.vocabulary)
    chosen = find_template(template, [folder for folder, _ in adapters])
    if chosen is not None:
        _check_template(chosen, vocabulary)
        vocabulary.chat_template = chosen.jinja()
        if chosen.add_bos is not None:
            vocabulary.add["bos"] = chosen.add_bos
    return _Job(checkpoint, shape, opened, merger, vocabulary, chosen, name)


def _model_name(name: str | None, folder: Path | None) -> str:
    """The name that files begin with. Raises UsageError for one that is no part of a file name."""
    found = name if name is not None else (folder or Path()).absolute().name
    if not re.fullmatch(r"[^\s/\\:*?\"<>|][^/\\:*?\"<>|\0]*", found):
        raise UsageError(f"not usable in a file name: {found!r}", "choose a simple one with --name")
    return found


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


def _check_template(template: Template, vocabulary: Vocabulary) -> None:
    """Raise UsageError if the template names a special token that this vocabulary lacks."""
    affixes = (template.system, template.user, template.assistant)
    parts = [part for affix in affixes for part in (*affix.prefix, *affix.suffix)]
    token_ids([*parts, *template.stop], encode=lambda text: [], special=vocabulary.id_of)


def _base_dtype(job: _Job) -> str:
    found = job.base.source(job.shape.tensors()[0].name).dtype
    return "F32" if found == "F64" else found


def _metadata(job: _Job, level: Level) -> dict[str, Any]:
    """All metadata of one level's file but general.architecture; keys and order as llama.cpp's converter's."""
    shape = job.shape
    count = sum(tensor.size for tensor in job.tensors)
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
        "general.quantization_version": gguf.GGML_QUANT_VERSION,
        **job.vocabulary.metadata(),
        **own,
    }


def _run(
    job: _Job, quantizer: Quantizer, streams: Sequence[GgufStream], weights: WeightsWriter | None, label: str
) -> None:
    """The pass over all tensors."""
    with progress(label, sum(tensor.size for tensor in job.tensors)) as bar:
        for tensor in job.tensors:
            for rows in _blocks(job, tensor):
                if weights is not None and tensor.name:
                    weights.write(rows)
                if streams:
                    types = [stream.types[tensor.gguf] for stream in streams]
                    _store(quantizer, streams, types, _reordered(rows, tensor, job.shape))
                bar.advance(rows.size)
            for stream in streams:
                stream.end_tensor()
            if weights is not None and tensor.name:
                weights.end_tensor()


def _blocks(job: _Job, tensor: Tensor) -> Iterable[NDArray[np.float32]]:
    """A tensor's rows in the checkpoint's order; blocks of q and k hold whole heads."""
    if not tensor.name:
        factors = job.shape.rope_factors()
        return [] if factors is None else [factors.reshape(1, -1)]
    heads = job.shape.head_dim if tensor.heads and len(tensor.shape) > 1 else 1
    return (job.merger.rows(tensor.name, *cut) for cut in blocks(tensor.rows, tensor.columns, heads))


def _reordered(rows: NDArray[np.float32], tensor: Tensor, shape: Shape) -> NDArray[np.float32]:
    """The same rows in the GGUF's order; a bias is one row, reordered within."""
    if not tensor.heads:
        return rows
    if len(tensor.shape) == 1:
        return np.ascontiguousarray(rows[:, head_order(rows.shape[1], tensor.heads)])
    return rows[head_order(rows.shape[0], rows.shape[0] // shape.head_dim)]


def _store(
    quantizer: Quantizer, streams: Sequence[GgufStream], types: Sequence[GgmlType], rows: NDArray[np.float32]
) -> None:
    """Quantize a block once for each type and write it to every level that uses that type."""
    pieces = quantizer.run(rows, types)
    for stream, type in zip(streams, types, strict=True):
        stream.write(pieces[type])


def _describe(job: _Job, out: Path, made: Sequence[card.LevelFile], count: int) -> None:
    """Write manifest.json, README.md and Modelfile beside the levels."""
    adapters = [
        {
            "name": adapter.folder.resolve().name,
            "weight": weight,
            "rank": adapter.rank,
            "alpha": adapter.alpha,
            "sha256": sha256(adapter.weights),
        }
        for adapter, weight in job.adapters
    ]
    base = job.base.folder.resolve().name
    result = card.Result(job.name, base, count, job.shape.context, adapters, job.template, made)
    end = job.vocabulary.id_of("eos_token")
    eos = "" if end is None else job.vocabulary.tokens[end]
    atomic_text(out / "manifest.json", card.manifest(result))
    atomic_text(out / "README.md", card.model_card(result))
    atomic_text(out / "Modelfile", card.modelfile(result, eos))
