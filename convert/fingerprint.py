"""What decides an export's bytes, as one short text: two runs with the same fingerprint write the same files.

Reading all of a base takes as long as converting it, so its weights are known by size, time of change, and a sample of
their bytes; every other file that is read by its content. Knows files and versions; knows nothing of what they mean.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import stellar_local
from stellar_local.files import explain, sampled, sha256

_WEIGHTS = (".safetensors", ".bin")
_SMALL = (".json", ".model", ".jinja")  # configuration, index, tokenizer, templates
PACKAGES = ("llama-cpp-python", "gguf", "numpy")


def tool_versions() -> dict[str, str]:
    """The versions of this project and of the packages that decide bytes."""
    return {"stellar-local": stellar_local.__version__} | {name: _version(name) for name in PACKAGES}


def fingerprint(bases: Iterable[Path], adapters: Iterable[Path], choices: Mapping[str, Any]) -> str:
    """64 hexadecimal digits over base folders, adapter folders and the options, as JSON. Raises StellarError."""
    stated = {
        "bases": [
            [[path.name, *sampled(path)] if path.suffix in _WEIGHTS else _whole(path) for path in _files(base)]
            for base in bases
        ],
        "adapters": [[_whole(path) for path in _files(adapter)] for adapter in adapters],
        "choices": dict(choices),
        "tools": tool_versions(),
        "machine": platform.machine(),  # quantized bytes depend on the processor's kind
    }
    return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()


def _files(folder: Path) -> list[Path]:
    """The files of a folder that may be read, in order; what else lies there decides nothing."""
    return sorted(path for path in folder.iterdir() if path.suffix in (*_WEIGHTS, *_SMALL) and path.is_file())


def _whole(path: Path) -> list[str | int]:
    try:
        return [path.name, sha256(path)]
    except OSError as error:
        raise explain(error, path, "read") from error


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
