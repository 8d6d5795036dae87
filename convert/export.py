"""One pass from a base and its adapters to every level and a merged folder, and nothing lost when it is killed.

Files get their names when they are complete; run again with the same inputs, an export keeps what is finished and goes
on where an unfinished file ends. Knows the order of steps; the pass itself is `pipeline`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from stellar_local.console import progress, say
from stellar_local.errors import ModelError, StellarError, UsageError
from stellar_local.files import atomic_text, ensure_folder, exclusive, sha256
from stellar_local.native.cores import physical_cores

from . import card, manifest, pipeline
from .gguf_out import GgufStream
from .job import Job, Order, prepare
from .levels import LEVELS, Level, tensor_type
from .llama import Shape
from .lora_gguf import write_lora_gguf
from .manifest import LevelFile
from .merged_folder import MergedFolder
from .metadata import metadata
from .space import check_space


@dataclass
class Exported:
    """What an export made. `kept` names the levels that an earlier run had finished, `hf` the merged folder."""

    name: str
    weights: int
    levels: list[LevelFile] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    hf: Path | None = None
    lora_gguf: Path | None = None
    seconds: float = 0.0


def export(order: Order) -> Exported:
    """Carry out an order. Raises StellarError.

    UsageError for a wrong choice, ModelError for a base or an adapter that is broken, unsupported or does not fit,
    StellarError for a disk that is full or read-only, or inputs that vanish.
    """
    started = time.monotonic()
    levels = order.levels if order.out is not None else ()
    if not levels and order.hf is None and order.lora_gguf is None:
        raise UsageError("nothing to write", "give --out for GGUF files or --hf for a merged Hugging Face folder")
    if order.lora_gguf is not None and len(order.adapters) != 1:
        raise UsageError("--lora-gguf writes one adapter", "give exactly one with --adapter")
    job = prepare(order)
    result = Exported(job.name, job.weights, hf=order.hf, lora_gguf=order.lora_gguf)
    if order.lora_gguf is not None:
        (adapter, weight) = job.adapters[0]
        base = job.base.folder.resolve().name
        write_lora_gguf(adapter, weight, Shape.from_config(job.base.config), job.name, order.lora_gguf, base_name=base)
    with ExitStack() as stack:
        streams: list[GgufStream] = []
        finished: dict[str, LevelFile] = {}
        if order.out is not None and levels:
            _check_out(order, order.out)
            ensure_folder(order.out)
            stack.enter_context(exclusive(order.out / ".lock", order.out))
            finished = _finished(order.out, job)
            for level in levels:
                if level.name not in finished:
                    streams.append(_stream(job, order.out, level))
        merged = None
        if order.hf is not None:
            merged = MergedFolder(order.hf, job)
            stack.enter_context(merged.locked())
        _write(job, streams, merged)
        if order.out is not None and levels:
            made = finished | {stream.level: _level_file(job, stream) for stream in streams}
            _describe(job, order.out, [made[name] for name in LEVELS if name in made])
            for stream in streams:
                stream.forget()
            result.levels = [made[level.name] for level in levels]
            result.kept = [level.name for level in levels if level.name in finished]
    result.seconds = time.monotonic() - started
    return result


def _check_out(order: Order, out: Path) -> None:
    """Raise UsageError if files that are not ours would be overwritten."""
    if any(out.exists() and folder.exists() and out.samefile(folder) for folder in order.folders):
        raise UsageError(f"--out is a folder that is read: {out}", "choose another folder for --out")
    foreign = [name for name in (card.FILE, "Modelfile") if (out / name).exists()]
    if foreign and not (out / manifest.FILE).exists():
        raise UsageError(f"{out} holds a {foreign[0]} that would be overwritten", "choose another folder for --out")


def _stream(job: Job, out: Path, level: Level) -> GgufStream:
    given = job.importance is not None
    types = {tensor.gguf: tensor_type(level, tensor, job.shape, given) for tensor in job.tensors}
    fields = metadata(job.name, job.shape, level, job.vocabulary, job.template, job.weights, job.about)
    if job.importance is not None and level.quantized:
        fields |= job.importance.metadata()
    return GgufStream(out / f"{job.name}-{level.name}.gguf", fields, job.tensors, types, job.inputs, level.name)


def _finished(out: Path, job: Job) -> dict[str, LevelFile]:
    """The levels that an earlier run with the same inputs finished; those asked for are read and compared."""
    asked = {level.name for level in job.order.levels}
    found: dict[str, LevelFile] = {}
    try:
        recorded = manifest.read_manifest(out)
    except ModelError:
        return found  # damaged: it is written anew
    if recorded is None or recorded.recipe.get("inputs") != job.inputs:
        return found
    for item in recorded.levels.values():
        path = out / item.file
        if not path.is_file() or path.stat().st_size != item.size:
            continue
        if item.level in asked:
            say(f"{item.file} is there; checking it")
            if sha256(path) != item.sha256:
                say(f"{item.file} was changed; writing it again")
                continue
        found[item.level] = item
    return found


def _write(job: Job, streams: Sequence[GgufStream], merged: MergedFolder | None) -> None:
    """The pass; after it every output has its name. What an interrupted one wrote is kept for the next run."""
    order = job.order
    outputs: list[GgufStream | MergedFolder] = [*streams]
    if merged is not None and not merged.finished:
        outputs.append(merged)
    if not outputs:
        return
    count = len(job.tensors)
    try:
        for output in outputs:
            output.take_up()
            if output.done:
                say(f"{output.path.name}: going on after {output.done} of {count} tensors")
        needs: dict[Path, int] = {}
        for output in outputs:
            folder = output.path.absolute().parent
            needs[folder] = needs.get(folder, 0) + output.missing
        check_space(needs)
        for output in outputs:
            output.open()
        what = ", ".join([stream.level for stream in streams] + ["merged folder"] * (merged in outputs))
        entries = job.importance.entries if job.importance is not None else {}
        threads = order.threads or physical_cores()
        with progress(f"{job.name}: {what}", job.weights, "weights") as bar:
            pipeline.run(job.tensors, job.merger, outputs, entries, threads, bar, job.name)
        for output in outputs:
            output.finish()
    except BaseException as error:
        # Inputs that are wrong stay wrong; after anything else the same command can go on.
        keep = isinstance(error, (StellarError, KeyboardInterrupt, SystemExit)) and not isinstance(error, ModelError)
        kept = [output.abandon(keep) for output in outputs]
        if any(kept):
            say("what is written so far is kept: the same command goes on from there")
        raise


def _level_file(job: Job, stream: GgufStream) -> LevelFile:
    bits = 8 * stream.weight_bytes / job.weights
    return LevelFile(stream.level, stream.path.name, stream.file.size, bits, stream.file.sha256, stream.records())


def _describe(job: Job, out: Path, made: Sequence[LevelFile]) -> None:
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
    result = manifest.Result(
        job.name,
        base,
        job.weights,
        job.shape.context,
        adapters,
        job.template,
        made,
        imatrix={"name": job.importance.path.name, "sha256": sha256(job.importance.path)} if job.importance else None,
        about=job.about,
        inputs=job.inputs,
    )
    ids = [job.vocabulary.id_of(name) for name in ("eos_token", "bos_token")]
    eos, bos = ("" if token is None else job.vocabulary.tokens[token] for token in ids)
    atomic_text(out / manifest.FILE, manifest.manifest_of(result).text())
    atomic_text(out / card.FILE, card.model_card(result, eos, bos))
    atomic_text(out / "Modelfile", card.modelfile(result, eos, bos))
