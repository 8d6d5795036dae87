"""The models under test: which files MODEL… names, what each is called, and what proves which one it was.

Knows files, levels and hashes; runs no model.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .. import __version__
from ..config import RuntimeOptions
from ..console import one_line, progress
from ..errors import StellarError, UsageError
from ..files import atomic_text, explain, sha256
from ..flags import wish_of
from ..plan.models import candidates
from ..plan.opening import choose
from ..plan.shapes import LEVELS
from ..prompts import load_template
from ..runtime import parse_adapter
from .results import file_name

_HASHES = ".hashes.json"
_PACKAGES = ("llama-cpp-python", "numpy", "sacrebleu")


@dataclass(frozen=True)
class Subject:
    """A model under test: its file, and what tables call it."""

    path: Path
    label: str


def subjects(
    models: Sequence[Path], options: RuntimeOptions, labels: Sequence[str] = (), all_levels: bool = False
) -> list[Subject]:
    """The models that MODEL… names: a file, or of a folder the best level that fits, that of --level, or all of them.

    Labels are the files' names without .gguf, with their folder's where two are the same, or those given. Raises
    UsageError, ModelError.
    """
    files: list[Path] = []
    for model in models:
        if not model.is_dir() or all_levels:
            files += [candidate.path for candidate in candidates(model)]
        else:
            files.append(choose(model, wish_of(options), options.level).path)
    repeated = [
        path for number, path in enumerate(files) if path.resolve() in {one.resolve() for one in files[:number]}
    ]
    if repeated:
        raise UsageError(f"{repeated[0]} is named twice", "leave one out")
    if labels and len(labels) != len(files):
        raise UsageError(f"{len(labels)} labels for {len(files)} models", "give one --label for each, in their order")
    named = list(labels) or _labels(files)
    if not all(one_line(label).strip() for label in named):
        raise UsageError("a label is empty", "give each model a name with --label")
    if len({file_name(label) for label in named}) < len(named):
        raise UsageError("two models have labels that are the same, or make one file", "give each its own with --label")
    return [Subject(path, label) for path, label in zip(files, named, strict=True)]


def _labels(files: Sequence[Path]) -> list[str]:
    stems = [path.stem for path in files]
    return [
        stem if stems.count(stem) == 1 else f"{path.resolve().parent.name}-{stem}"
        for stem, path in zip(stems, files, strict=True)
    ]


def describe(subject: Subject, options: RuntimeOptions, folder: Path) -> dict[str, Any]:
    """What a log's header says of a model: its file's name, level, size and SHA-256, and the adapters it runs with.

    `folder` keeps the hashes of large files, so that each is read for it once. Raises StellarError.
    """
    (model,) = candidates(subject.path)
    header = model.header
    weights = sum(math.prod(tensor.shape) for tensor in header.tensors)
    size = sum(tensor.nbytes for tensor in header.tensors)
    adapters = [parse_adapter(text) for text in options.lora]
    return {
        "label": subject.label,
        "file": subject.path.name,
        "name": str(header.metadata.get("general.name", subject.path.stem)),
        "level": model.level if model.level in LEVELS else "",
        "bytes": header.file_size,
        "parameters": weights,
        "bits_per_weight": round(8 * size / weights, 3) if weights else None,
        "sha256": known_hash(subject.path, folder),
        "lora": [{"file": path.name, "scale": scale, "sha256": known_hash(path, folder)} for path, scale in adapters],
    }


def known_hash(path: Path, folder: Path) -> str:
    """A file's SHA-256, kept in `folder` for as long as its size and its time of change stay. Raises StellarError."""
    kept = folder / _HASHES
    try:
        known = json.loads(kept.read_bytes()) if kept.is_file() or not kept.exists() else None
    except (OSError, ValueError, RecursionError):
        known = {}
    if not isinstance(known, dict):
        known = {}
    try:
        status = path.stat()
        key = f"{os.path.realpath(path)}:{status.st_size}:{status.st_mtime_ns}"
        if not re.fullmatch("[0-9a-f]{64}", str(known.get(key))):
            with progress(f"{path.name}: SHA-256", 1) as bar:
                known[key] = sha256(path)
                bar.advance()
            atomic_text(kept, json.dumps(known, indent=1) + "\n")
    except OSError as error:
        raise explain(error, path, "read") from error
    return str(known[key])


def template_named(options: RuntimeOptions) -> str:
    """What a log says of the template that was asked for: its name and a digest of its content; "" for the model's own.

    Raises UsageError for one that is not there.
    """
    if not options.template:
        return ""
    template = load_template(options.template)
    return f"{template.name} {hashlib.sha256(template.source.encode('utf-8', 'replace')).hexdigest()[:16]}"


def surroundings() -> dict[str, Any]:
    """The machine and the versions, as a header says them."""
    from ..doctor.features import this_processor
    from ..native.devices import gpus

    found = {"stellar-local": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    try:
        cards = [device.description or device.name for device in gpus()]
    except StellarError:
        cards = []
    processor = this_processor()[0] or platform.machine()
    return {"machine": ", ".join([processor, f"{os.cpu_count()} cores", *cards]), "versions": found}
