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
from stellar_local.files import (
    PARTIAL_SUFFIX,
    atomic_text,
    ensure_folder,
    exclusive,
    read_text,
    regular_target,
    sha256,
)
from stellar_local.native.cores import physical_cores
from stellar_local.native.header import read_header

from . import card, manifest, pipeline
from .gguf_out import GgufStream, journal_of
from .job import InputsChanged, Job, Order, prepare
from .levels import LEVELS, Level, tensor_type
from .llama import Shape
from .lora_gguf import write_lora_gguf
from .manifest import LevelFile
from .merged_folder import MergedFolder
from .metadata import metadata
from .space import check_space

MODELFILE = "Modelfile"


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
    if order.lora_gguf is not None:
        if len(order.adapters) != 1:
            raise UsageError("--lora-gguf writes one adapter", "give exactly one with --adapter")
        _check_lora(order.lora_gguf)
    job = prepare(order)
    result = Exported(job.name, job.weights, hf=order.hf, lora_gguf=order.lora_gguf)
    with ExitStack() as stack:
        streams: list[GgufStream] = []
        finished: dict[str, LevelFile] = {}
        earlier = None
        if order.out is not None and levels:
            ensure_folder(order.out)
            stack.enter_context(exclusive(order.out / ".lock", order.out))
            earlier = _check_out(order, order.out, job.name, job.inputs)
            finished = _finished(order.out, earlier, levels)
            for level in levels:
                if level.name not in finished:
                    streams.append(_stream(job, order.out, level))
        merged = None
        if order.hf is not None:
            merged = MergedFolder(order.hf, job)
            stack.enter_context(merged.locked())
        if order.lora_gguf is not None:
            _write_lora(job, order.lora_gguf)
        _write(job, streams, merged)
        if order.out is not None and levels:
            made = finished | {stream.level: _level_file(job, stream) for stream in streams}
            _describe(job, order.out, [made[name] for name in LEVELS if name in made], earlier)
            for stream in streams:
                stream.forget()
            _say_unfinished(order.out)
            result.levels = [made[level.name] for level in levels]
            result.kept = [level.name for level in levels if level.name in finished]
    result.seconds = time.monotonic() - started
    return result


def _check_lora(path: Path) -> None:
    """Raise UsageError if --lora-gguf would overwrite anything but an adapter's GGUF."""
    if not path.name or path.is_dir():
        raise UsageError(f"--lora-gguf is no file: {path}", "give the path of a file to write")
    if path.exists():
        try:
            ours = regular_target(path) and read_header(path).metadata.get("general.type") == "adapter"
        except StellarError:
            ours = False
        if not ours:
            raise UsageError(f"{path} exists, and is no adapter's GGUF", "choose another file for --lora-gguf")


def _write_lora(job: Job, path: Path) -> None:
    """Write the one adapter as a GGUF. Raises StellarError."""
    adapter, weight = job.adapters[0]
    base = Shape.from_config(job.base.config)
    ensure_folder(path.absolute().parent)
    with exclusive(path.with_name(f".{path.name}.lock"), path):
        write_lora_gguf(adapter, weight, base, job.name, path, base_name=job.base_name)


def _check_out(order: Order, out: Path, name: str, inputs: str) -> manifest.Manifest | None:
    """The manifest of an earlier run with the same inputs. Raises UsageError rather than lose what is not this run's.

    An earlier run with other inputs may be overwritten, but entirely: a folder holds the levels of one model.
    """
    if any(out.exists() and folder.exists() and out.samefile(folder) for folder in order.folders):
        raise UsageError(f"--out is a folder that is read: {out}", "choose another folder for --out")
    another = "choose another folder for --out"
    targets = {level.name: out / f"{name}-{level.name}.gguf" for level in order.levels}
    if order.lora_gguf is not None and order.lora_gguf.absolute() in [path.absolute() for path in targets.values()]:
        raise UsageError(f"--lora-gguf is the file of a level: {order.lora_gguf}", "choose another file for it")
    try:
        earlier = manifest.read_manifest(out)
    except StellarError as error:
        raise UsageError(f"{out} is not a folder that can be added to: {error.message}", another) from error
    listed = {item.file for item in earlier.levels.values()} if earlier is not None else set()
    others = [path for path in targets.values() if path.name not in listed and not journal_of(path).exists()]
    if earlier is None:
        others += [out / card.FILE, out / MODELFILE]
    if foreign := next((path.name for path in others if path.exists() or path.is_symlink()), None):
        raise UsageError(
            f"{out} holds {foreign}, which no conversion of ours made and this one would overwrite", another
        )
    if earlier is None:
        return None
    if earlier.recipe.get("inputs") == inputs:
        return earlier
    asked = {level.name for level in order.levels}
    left = [item.file for name, item in earlier.levels.items() if name not in asked and (out / item.file).exists()]
    if left:
        raise UsageError(
            f"{out} holds {left[0]}, made from other inputs or by another version",
            f"{another}, remove that one, or ask for its level too",
        )
    return None


def _stream(job: Job, out: Path, level: Level) -> GgufStream:
    given = job.importance is not None
    types = {tensor.gguf: tensor_type(level, tensor, job.shape, given) for tensor in job.tensors}
    fields = metadata(job.name, job.shape, level, job.vocabulary, job.template, job.weights, job.about)
    if job.importance is not None and level.quantized:
        fields |= job.importance.metadata()
    return GgufStream(out / f"{job.name}-{level.name}.gguf", fields, job.tensors, types, job.inputs, level.name)


def _finished(out: Path, earlier: manifest.Manifest | None, levels: Sequence[Level]) -> dict[str, LevelFile]:
    """The levels that an earlier run with the same inputs finished; those asked for are read and compared."""
    asked = {level.name for level in levels}
    found: dict[str, LevelFile] = {}
    for item in earlier.levels.values() if earlier is not None else ():
        path = out / item.file
        if not path.is_file() or path.stat().st_size != item.size:
            continue
        if item.level in asked:
            say(f"{item.file} is there; checking it")
            if sha256(path) != item.sha256:
                say(f"{item.file} was changed; writing it again")
                continue
        journal_of(path).unlink(missing_ok=True)  # of a run that was killed when all was written
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
    opened: list[GgufStream | MergedFolder] = []
    try:
        for output in outputs:
            output.take_up()
            if output.done:
                say(f"{output.path.name}: going on after {output.done} of {len(job.tensors)} tensors")
        needs: dict[Path, int] = {}
        for output in outputs:
            folder = output.path.absolute().parent
            needs[folder] = needs.get(folder, 0) + output.missing
        check_space(needs)
        for output in outputs:
            opened.append(output)
            output.open()
        what = ", ".join([stream.level for stream in streams] + ["merged folder"] * (merged in outputs))
        entries = job.importance.entries if job.importance is not None else {}
        threads = order.threads or physical_cores()
        with progress(f"{job.name}: {what}", job.weights, "weights") as bar:
            pipeline.run(job.tensors, job.merger, outputs, entries, threads, bar, job.name)
        job.check_inputs()
        for output in outputs:
            output.finish()
    except InputsChanged:
        for output in opened:
            output.discard()
        raise
    except BaseException as error:
        kept = [output.abandon() for output in opened]
        if any(kept) and isinstance(error, ModelError):
            say("what is written so far is kept (.partial): levels that this does not concern go on from there")
        elif any(kept):
            say("what is written so far is kept: the same command goes on from there")
        raise


def _level_file(job: Job, stream: GgufStream) -> LevelFile:
    bits = 8 * stream.weight_bytes / job.weights
    return LevelFile(stream.level, stream.path.name, stream.file.size, bits, stream.file.sha256, stream.records())


def _describe(job: Job, out: Path, made: Sequence[LevelFile], earlier: manifest.Manifest | None) -> None:
    """Write manifest.json, README.md and Modelfile beside the levels.

    Where an `earlier` run made the same model, only the table of README.md changes: people may have added to the rest.
    """
    result = manifest.Result(
        job.name,
        job.base_name,
        job.weights,
        job.shape.context,
        job.adapter_records(),
        job.template,
        made,
        imatrix={"name": job.importance.path.name, "sha256": sha256(job.importance.path)} if job.importance else None,
        about=job.about,
        inputs=job.inputs,
        chat_template=bool(job.vocabulary.chat_template),
    )
    ids = [job.vocabulary.id_of(name) for name in ("eos_token", "bos_token")]
    eos, bos = ("" if token is None else job.vocabulary.tokens[token] for token in ids)
    atomic_text(out / manifest.FILE, manifest.manifest_of(result).text())
    old = read_text(out / card.FILE, "model card") if earlier and (out / card.FILE).is_file() else None
    changed = card.replace_table(old, made) if old is not None else card.model_card(result, eos, bos)
    if changed is not None:
        atomic_text(out / card.FILE, changed)
    if earlier is None or not (out / MODELFILE).is_file():
        atomic_text(out / MODELFILE, card.modelfile(result, eos, bos))


def _say_unfinished(out: Path) -> None:
    """Name what interrupted runs for other levels left, which may be gigabytes."""
    for path in sorted(out.glob(f"*.gguf{PARTIAL_SUFFIX}")):
        say(f"{path.name} is of an unfinished level: ask for that level to finish it, or remove the file")
