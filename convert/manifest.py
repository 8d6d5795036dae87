"""manifest.json: what a folder of levels was made of, and each file's and each tensor's size and SHA-256.

For programs, readable by people: one line a tensor. Holds no path and no date. K-quants differ in their last bits
between kinds of processor, so the platform is told (its kind alone). Knows the manifest's form; opens no model.
"""

from __future__ import annotations

import json
import math
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from stellar_local.errors import ModelError
from stellar_local.files import read_text
from stellar_local.prompts import Template

from .about import About
from .fields import shown
from .fingerprint import tool_versions

FILE = "manifest.json"
_FORMAT = 1
_SHA256 = re.compile(r"[0-9a-f]{64}")
_HINT = "convert the model again, or take the file from where the folder came from"


@dataclass(frozen=True)
class TensorRecord:
    """One stored tensor: ggml's name of its type, and the SHA-256 of its bytes without padding."""

    type: str
    sha256: str


@dataclass(frozen=True)
class Figures:
    """How far a level is from the reference over some tokens: mean KL divergence in nats, share of equal top tokens."""

    tokens: int
    kl: float
    same_top: float


@dataclass(frozen=True)
class Divergence:
    """A level's distance from the level `reference`, overall and by language."""

    reference: str
    overall: Figures
    languages: Mapping[str, Figures]


@dataclass(frozen=True)
class LevelFile:
    """One written level: its file's name and size in bytes, bits per weight, SHA-256, and its tensors by name."""

    level: str
    file: str
    size: int
    bits_per_weight: float
    sha256: str
    tensors: Mapping[str, TensorRecord] = field(default_factory=dict)
    divergence: Divergence | None = None


@dataclass(frozen=True)
class Result:
    """What an export made and of what. `adapters` holds name, weight, rank, alpha and SHA-256 of each, `imatrix` the
    name and SHA-256 of the importance matrix, `inputs` the fingerprint of all that decides the bytes.
    """

    name: str
    base: str
    weights: int
    context: int
    adapters: Sequence[Mapping[str, Any]]
    template: Template | None
    levels: Sequence[LevelFile]
    imatrix: Mapping[str, str] | None = None
    about: About = About()
    inputs: str = ""
    chat_template: bool = True  # whether the files hold one


@dataclass(frozen=True)
class Manifest:
    """A manifest: `recipe` is all of its JSON object but the levels. Two runs that agree in it make the same files."""

    recipe: Mapping[str, Any]
    levels: Mapping[str, LevelFile]

    def text(self) -> str:
        """The file's text."""
        return _lines({**self.recipe, "levels": {name: _entry(item) for name, item in self.levels.items()}}) + "\n"

    def measured(self, found: Mapping[str, Divergence]) -> Manifest:
        """The same manifest with the divergence of some levels."""
        changed = {name: replace(self.levels[name], divergence=figures) for name, figures in found.items()}
        return replace(self, levels={**self.levels, **changed})


def manifest_of(result: Result) -> Manifest:
    """The manifest of an export."""
    about = {name: value for name, value in asdict(result.about, dict_factory=_known).items() if name != "sampling"}
    recipe = {
        "format": _FORMAT,
        "name": result.name,
        "inputs": result.inputs,
        "base": {"name": result.base, "weights": result.weights, "context_length": result.context},
        "adapters": [dict(item) for item in result.adapters],
        "imatrix": dict(result.imatrix) if result.imatrix else None,
        "template": result.template.name if result.template else None,
        "tools": tool_versions(),
        "platform": {"machine": platform.machine(), "system": platform.system()},
        "about": about,
    }
    levels = {item.level: replace(item, bits_per_weight=round(item.bits_per_weight, 4)) for item in result.levels}
    return Manifest(json.loads(json.dumps(recipe)), levels)  # plain JSON values, as after reading


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a converted folder, None where there is none. Raises ModelError for a damaged one."""
    path = folder / FILE
    return parse_manifest(read_text(path, "manifest"), str(path)) if path.is_file() else None


def parse_manifest(text: str, where: str = FILE) -> Manifest:
    """Parse a manifest. Raises ModelError for one that is damaged, or that a later version of this program wrote."""
    try:
        data = json.loads(text)
        json.dumps(data, ensure_ascii=False, allow_nan=False).encode("utf-8")  # it will be written again
        if data["format"] != _FORMAT:
            raise ModelError(
                f"{where} has the format {data['format']!r}; {_FORMAT} is known here", "install a newer stellar-local"
            )
        levels = {str(name): _level(name, item) for name, item in data.pop("levels").items()}
        str(data["name"])
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ModelError(f"the manifest is damaged: {where} ({type(error).__name__}: {error})", _HINT) from error
    return Manifest(data, levels)


def _level(name: str, item: Mapping[str, Any]) -> LevelFile:
    """One level's entry; anything of another form is a ValueError, KeyError, TypeError or OverflowError."""
    file, size = item["file"], item["size"]
    if not isinstance(file, str) or Path(file).name != file or not file.endswith(".gguf"):
        raise ValueError(f"{file!r} is not the name of a .gguf file")  # a manifest must not reach outside its folder
    if not isinstance(size, int) or not 0 <= size < 1 << 63:
        raise ValueError(f"{shown(size)} is not a size")
    found = item.get("divergence")
    return LevelFile(
        name,
        file,
        size,
        _number(item["bits_per_weight"]),
        _hash(item["sha256"]),
        {str(key): TensorRecord(str(value["type"]), _hash(value["sha256"])) for key, value in item["tensors"].items()},
        None if found is None else _divergence(found),
    )


def _hash(value: object) -> str:
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise ValueError(f"{value!r} is not a SHA-256")
    return value


def _number(value: object) -> float:
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{shown(value)} is not a number")
    return float(value)


def _divergence(data: Mapping[str, Any]) -> Divergence:
    figures = {
        str(name): Figures(int(_number(item["tokens"])), _number(item["kl"]), _number(item["same_top"]))
        for name, item in data.items()
        if name != "reference"
    }
    return Divergence(str(data["reference"]), figures.pop("overall"), figures)


def _entry(item: LevelFile) -> dict[str, Any]:
    out: dict[str, Any] = {
        "file": item.file,
        "size": item.size,
        "bits_per_weight": item.bits_per_weight,
        "sha256": item.sha256,
    }
    if item.divergence is not None:
        figures = {"overall": item.divergence.overall, **item.divergence.languages}
        out["divergence"] = {"reference": item.divergence.reference} | {
            name: {"tokens": found.tokens, "kl": round(found.kl, 9), "same_top": round(found.same_top, 6)}
            for name, found in figures.items()
        }
    return out | {"tensors": {name: asdict(record) for name, record in item.tensors.items()}}


def _lines(value: object, indent: str = "") -> str:
    """Indented JSON in which an object of up to three plain values, and a list of plain values, is one line."""
    items = list(value.values()) if isinstance(value, dict) else value
    nested = isinstance(items, list) and any(isinstance(item, (dict, list)) for item in items)
    if not isinstance(items, list) or not items or (not nested and (isinstance(value, list) or len(items) <= 3)):
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    deeper = indent + "  "
    parts = [_lines(item, deeper) for item in items]
    if isinstance(value, dict):
        parts = [f"{json.dumps(key, ensure_ascii=False)}: {part}" for key, part in zip(value, parts, strict=True)]
    start, end = "{}" if isinstance(value, dict) else "[]"
    return start + "\n" + ",\n".join(deeper + part for part in parts) + f"\n{indent}{end}"


def _known(items: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """A mapping of what has a value."""
    return {name: value for name, value in items if value}
