"""GGUF files of full size that hold a header and nothing else, for llama.cpp to load with `no_alloc`.

llama.cpp compares the tensor table with the file's size before it loads anything, so a header alone is refused; a
sparse file with the size that the table asks for is taken, and costs no space on file systems that keep holes (ext4,
XFS, Btrfs, tmpfs, APFS; NTFS and FAT reserve the full size). Its weights are zeros: it says nothing.
Knows the container format; knows no model.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import ModelError
from ..files import atomic_file, explain
from ..native.header import Header, TensorInfo, check_runnable

_VERSION, ALIGNMENT = 3, 32
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9  # gguf_metadata_value_type
_LARGEST = (1 << 63) - 1  # bytes that any file system can be asked for


def header_bytes(metadata: Mapping[str, Any], tensors: Iterable[TensorInfo]) -> bytes:
    """A GGUF's bytes up to the first tensor's, padded to 32.

    Whole numbers are stored as unsigned 32-bit, in lists as signed, and real ones as 32-bit floats, as llama.cpp reads
    them. Raises TypeError for other values than numbers, truth values, text, and lists of one of the kinds.
    """
    table = [
        _text(tensor.name)
        + struct.pack(f"<I{len(tensor.shape)}QIQ", len(tensor.shape), *tensor.shape, tensor.type, tensor.offset)
        for tensor in tensors
    ]
    pairs = [_text(key) + _value(value) for key, value in metadata.items()]
    out = b"GGUF" + struct.pack("<IQQ", _VERSION, len(table), len(pairs)) + b"".join(pairs) + b"".join(table)
    return out + bytes(-len(out) % ALIGNMENT)


def write_sparse(header: Header, source: Path | None, path: Path) -> None:
    """Write a file of `header.full_size` bytes to `path` that holds the header alone.

    `source` is the file that the header was read from, whole or cut anywhere after its tensor table: its header is
    copied as it is, vocabulary and all. None: the header is a made one, as `shapes.shape_header` gives.
    Raises ModelError for what is no whole model in one file and for a source that has changed since it was read,
    StellarError where the file cannot be written.
    """
    if header.metadata.get("split.count", 1) != 1:
        raise ModelError(
            f"this GGUF is one of several parts of a model: {header.path}", "join them with llama-gguf-split --merge"
        )
    check_runnable(header, cut=True)
    if header.full_size > _LARGEST:
        raise ModelError(f"damaged GGUF header (tensor offsets): {header.path}", "download or convert it again")
    data = header_bytes(header.metadata, header.tensors) if source is None else _header_of(source, header)
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        file.write(data)
        file.truncate(header.full_size)


def _header_of(source: Path, header: Header) -> bytes:
    """The source's own bytes before its data; fewer where it was cut within the padding that ends them."""
    try:
        with source.open("rb") as file:
            data = file.read(header.data_start)
        status = source.stat()
    except OSError as error:
        raise explain(error, source, "read") from error
    if (status.st_size, status.st_mtime_ns) != (header.file_size, header.changed):
        raise ModelError(f"the file has changed since its header was read: {source}", "try again when it is complete")
    return data


def _text(text: str) -> bytes:
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def _value(value: object) -> bytes:
    """One metadata value: its type's number and its bytes."""
    if isinstance(value, bool):
        return struct.pack("<I?", _BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", _UINT32, value)
    if isinstance(value, float):
        return struct.pack("<If", _FLOAT32, value)
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _text(value)
    if isinstance(value, list) and value:
        return struct.pack("<I", _ARRAY) + _array(value)
    raise TypeError(f"no GGUF value of ours: {value!r}")


def _array(values: list[Any]) -> bytes:
    """A list's inner type, length and elements."""
    kind, count = type(values[0]), len(values)
    if any(type(value) is not kind for value in values):
        raise TypeError("a GGUF list holds values of one kind")
    if kind is str:
        return struct.pack("<IQ", _STRING, count) + b"".join(map(_text, values))
    if kind in (int, float):
        inner, letter = (_INT32, "i") if kind is int else (_FLOAT32, "f")
        return struct.pack(f"<IQ{count}{letter}", inner, count, *values)
    raise TypeError(f"no GGUF list of ours: {kind.__name__}")
