"""The files beside the levels: manifest.json for programs, README.md for people, Modelfile for Ollama.

Holds no absolute path: a folder that is passed on must not tell where it was made. Knows results, not how they came.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import stellar_local
from stellar_local.prompts import EOS, Segment, Special, Template

from .levels import LEVELS
from .space import readable

_OLLAMA_ORDER = ("Q4_K_M", "Q5_K_M", "Q8_0")


@dataclass(frozen=True)
class LevelFile:
    """One written level: its file's name and size in bytes, bits per weight and SHA-256."""

    level: str
    file: str
    size: int
    bits_per_weight: float
    sha256: str
    tensors: Mapping[str, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """What an export made and of what. `adapters` holds name, weight, rank, alpha and SHA-256 of each."""

    name: str
    base: str
    weights: int
    context: int
    adapters: Sequence[Mapping[str, Any]]
    template: Template | None
    levels: Sequence[LevelFile]
    inputs: str = ""


def recorded(path: Path, inputs: str) -> list[LevelFile]:
    """The levels that a manifest lists, if it was made from the same inputs; else []."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["inputs"] != inputs:
            return []
        return [LevelFile(level, **item) for level, item in data["levels"].items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def manifest(result: Result) -> str:
    """The manifest as JSON text."""
    data = {
        "format": 1,
        "name": result.name,
        "inputs": result.inputs,
        "base": {"name": result.base, "weights": result.weights, "context_length": result.context},
        "adapters": list(result.adapters),
        "template": result.template.name if result.template else None,
        "tools": {"stellar-local": stellar_local.__version__}
        | {name: _version(name) for name in ("llama-cpp-python", "gguf", "numpy")},
        "levels": {
            item.level: {
                "file": item.file,
                "size": item.size,
                "bits_per_weight": round(item.bits_per_weight, 4),
                "sha256": item.sha256,
                "tensors": item.tensors,
            }
            for item in result.levels
        },
    }
    return json.dumps(data, ensure_ascii=False, indent=2) + "\n"


def model_card(result: Result) -> str:
    """A short model card in Markdown."""
    rows = [
        f"| {item.level} | `{item.file}` | {readable(item.size)} | {item.bits_per_weight:.2f} "
        f"| {LEVELS[item.level].purpose} |"
        for item in result.levels
    ]
    merged = [f"- adapter: {item['name']} (weight {item['weight']:g}, rank {item['rank']})" for item in result.adapters]
    prompt = f"the template `{result.template.name}`" if result.template else "the base's own chat template"
    chosen = _preferred(result.levels)
    lines = [
        f"# {result.name}",
        "",
        f"- base: {result.base} ({result.weights:,} weights, context {result.context:,})",
        *merged,
        f"- prompts: {prompt}, stored in each file",
        "",
        "| level | file | size | bits per weight | |",
        "|---|---|---|---|---|",
        *rows,
        "",
        f"Chat: `stellar chat {chosen.file}`. With Ollama: `ollama create {result.name.lower()} -f Modelfile`.",
        "",
        f"Made by stellar-local {stellar_local.__version__}; `manifest.json` holds the checksums.",
        "The base's licence applies.",
    ]
    return "\n".join(lines) + "\n"


def modelfile(result: Result, eos: str) -> str:
    """An Ollama Modelfile; `eos` is the text of the end token. Where the base's own chat template is kept, Ollama
    recognises that by itself.
    """
    lines = [f"FROM ./{_preferred(result.levels).file}"]
    template = result.template
    if template is not None:
        lines.append(f'TEMPLATE """{_go_template(template, eos)}"""')
        if template.system_default:
            lines.append(f'SYSTEM """{template.system_default}"""')
        for stop in template.stop:
            text = _text(stop, eos)
            lines.append(f"PARAMETER stop {json.dumps(text, ensure_ascii=False)}")
    return "\n".join(lines) + "\n"


def _go_template(template: Template, eos: str) -> str:
    """A template in Go's template language, each text as a quoted literal so that braces stay braces."""

    def literal(parts: Iterable[Segment]) -> str:
        text = "".join(_text(part, eos) for part in parts)
        return f"{{{{ {json.dumps(text, ensure_ascii=False)} }}}}" if text else ""

    out = "{{ if .System }}" + literal(template.system.prefix) + "{{ .System }}" + literal(template.system.suffix)
    out += '{{ end }}{{ range .Messages }}{{ if eq .Role "user" }}' + literal(template.user.prefix) + "{{ .Content }}"
    out += literal(template.user.suffix) + literal(template.assistant.prefix)
    # Ollama ends a conversation with a user's message; what opens the answer belongs to it.
    out += '{{ else if eq .Role "assistant" }}{{ .Content }}' + literal(template.assistant.suffix)
    return out + "{{ end }}{{ end }}"


def _text(part: Segment, eos: str) -> str:
    if not isinstance(part, Special):
        return part.text
    return eos if part.token == EOS else part.token


def _preferred(levels: Sequence[LevelFile]) -> LevelFile:
    """The level that most people want of those made."""
    by_name = {item.level: item for item in levels}
    return next((by_name[name] for name in _OLLAMA_ORDER if name in by_name), levels[0])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
