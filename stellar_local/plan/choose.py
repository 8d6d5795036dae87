"""MODEL on the command line → the .gguf file to open: a file as it is, or a folder's best level that fits.

Knows converted folders and how much memory a model needs at least; the type mixes behind the levels are convert's.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import ModelError, UsageError
from ..native.header import Header, read_header
from ..session import DEFAULT_CONTEXT
from .hardware import available_memory

_RESERVE = 512 << 20  # compute buffers and the program itself
_KV_BYTES = {"f16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}  # of one value, block scales included


def kv_memory(header: Header, n_ctx: int, kv_type: str = "f16") -> int:
    """Bytes of keys and values of `n_ctx` tokens, over all layers."""
    heads = header.value("attention.head_count", 1)
    kv_heads = header.value("attention.head_count_kv", heads)
    width = header.value("attention.key_length") or header.value("embedding_length", 0) // max(heads, 1)
    return int(2 * header.value("block_count", 0) * n_ctx * kv_heads * width * _KV_BYTES[kv_type])


def needed_memory(header: Header, n_ctx: int, kv_type: str = "f16") -> int:
    """Bytes to run a model with `n_ctx` tokens of KV: weights + KV + a reserve for compute buffers."""
    return header.file_size + kv_memory(header, n_ctx, kv_type) + _RESERVE


def _usual(header: Header) -> int:
    return min(DEFAULT_CONTEXT, int(header.value("context_length", DEFAULT_CONTEXT)))


def level_of(path: Path) -> str:
    """The level in a file name of the form NAME-LEVEL.gguf, in upper case."""
    return path.stem.rpartition("-")[2].upper()


def choose_model(
    path: Path, level: str | None = None, n_ctx: int | None = None, memory: int | None = None, kv_type: str = "f16"
) -> Path:
    """The file to open for MODEL. In a folder: the named level, else the largest file that fits in memory, with `n_ctx`
    tokens of KV [default: 4096, or as many as the model was trained with].

    `memory` (bytes) defaults to what the system has available. If nothing fits, the smallest file is chosen, since
    memory-mapped weights still run, slowly. Raises ModelError or UsageError.
    """
    if not path.exists():
        raise ModelError(f"model not found: {path}", "give a .gguf file or a folder made by stellar convert")
    if not path.is_dir():
        if level:
            raise UsageError(f"--level chooses within a folder, but {path} is a file", "leave --level out")
        return path
    files = sorted(path.glob("*.gguf"), key=lambda file: file.stat().st_size, reverse=True)
    if level and files:
        for file in files:
            if level_of(file) == level.upper():
                return file
        have = ", ".join(level_of(file) for file in files)
        raise UsageError(f"level {level} is not in {path}", f"it holds {have}")
    memory = available_memory() if memory is None else memory
    smallest = None
    for file in files if memory is not None else reversed(files):
        header = read_header(file)
        if header.metadata.get("general.type") == "adapter":  # a LoRA adapter beside the levels
            continue
        smallest = file
        if memory is None or needed_memory(header, n_ctx or _usual(header), kv_type) <= memory:
            return file
    if smallest is None:
        what = " (a Hugging Face folder)" if (path / "config.json").exists() else ""
        raise ModelError(f"no .gguf file in {path}{what}", "make one with stellar convert --base DIR --out DIR")
    return smallest
