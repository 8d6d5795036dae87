"""What decides an export's bytes, as one short text: two runs with the same fingerprint write the same files.

Weights of the base are known by name, size and time of change, since reading them takes as long as converting; every
other file by its content. Knows files and versions; knows nothing of what they mean.
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
from stellar_local.files import explain, sha256

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
PACKAGES = ("llama-cpp-python", "gguf", "numpy")


def tool_versions() -> dict[str, str]:
    """The versions of this project and of the packages that decide bytes."""
    return {"stellar-local": stellar_local.__version__} | {name: _version(name) for name in PACKAGES}


def fingerprint(bases: Iterable[Path], adapters: Iterable[Path], choices: Mapping[str, Any]) -> str:
    """64 hexadecimal digits over base folders, adapter folders and the options, as JSON. Raises StellarError."""
    stated = {
        "bases": [[_known(path, by_content=path.suffix not in _WEIGHTS) for path in _files(base)] for base in bases],
        "adapters": [[_known(path, by_content=True) for path in _files(adapter)] for adapter in adapters],
        "choices": dict(choices),
        "tools": tool_versions(),
        "machine": platform.machine(),  # quantized bytes depend on the processor's kind
    }
    return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()


def _files(folder: Path) -> list[Path]:
    """The files of a folder in order, those of subfolders left out: nothing is read from there."""
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def _known(path: Path, by_content: bool) -> list[str | int]:
    try:
        status = path.stat()
        return [path.name, status.st_size, sha256(path) if by_content else status.st_mtime_ns]
    except OSError as error:
        raise explain(error, path, "read") from error


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
