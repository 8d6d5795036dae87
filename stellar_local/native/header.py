"""Reading a GGUF file's header in pure Python: metadata, tensor table, and whether the file is whole.

Works on a file cut after the tensor table. Knows the container format (GGUF specification, version 2 and 3), not
what a model means. Vocabulary-sized arrays are skipped, not built, so that a header reads in milliseconds.
"""

from __future__ import annotations

import mmap
import os
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelError
from ..files import explain, require_file
from . import ggml

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_LONGEST_KEPT_ARRAY = 1024
_DEFAULT_ALIGNMENT = 32
_MAPPED_FIRST = 32 << 20  # bytes: more than a LLaMA's header has
_MOST_LAYERS = 512  # LLAMA_MAX_LAYERS: llama.cpp asserts on more


@dataclass(frozen=True)
class TensorInfo:
    """One row of the tensor table. `shape` is in ggml's order (the row length first), `offset` from the data start."""

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int

    @property
    def nbytes(self) -> int:
        """The tensor's size in bytes; 0 for a type that this build of ggml does not know."""
        rows = 1
        for dimension in self.shape[1:]:
            rows *= dimension
        return ggml.row_size(self.type, self.shape[0]) * rows


@dataclass(frozen=True)
class Header:
    """What a GGUF file says of itself. Arrays of more than 1,024 elements are given as their length.

    `file_size` and `changed`, the time of its last change in nanoseconds, are those of when it was read.
    """

    path: Path
    metadata: dict[str, Any]
    tensors: list[TensorInfo]
    data_start: int
    file_size: int
    changed: int

    @property
    def architecture(self) -> str:
        """The model architecture, "" where none is stated."""
        return str(self.metadata.get("general.architecture", ""))

    def value(self, key: str, default: Any = None) -> Any:
        """An architecture's own value: `value("context_length")` reads `llama.context_length`."""
        return self.metadata.get(f"{self.architecture}.{key}", default)

    @property
    def full_size(self) -> int:
        """The size in bytes that the file must have to hold every tensor."""
        return self.data_start + max((tensor.offset + tensor.nbytes for tensor in self.tensors), default=0)


class _Cursor:
    """A position in the mapped file; reading past its end is a truncated header."""

    def __init__(self, data: mmap.mmap, path: Path, longest: int) -> None:
        self._data, self._path, self._longest, self.at = data, path, longest, 8

    def take(self, format: str) -> Any:
        size = struct.calcsize("<" + format)
        if self.at + size > len(self._data):
            raise _truncated(self._path)
        value = struct.unpack_from("<" + format, self._data, self.at)
        self.at += size
        return value[0] if len(value) == 1 else value

    def skip(self, size: int) -> None:
        if self.at + size > len(self._data):
            raise _truncated(self._path)
        self.at += size

    def text(self) -> str:
        size = self.take("Q")
        start = self.at
        self.skip(size)
        return self._data[start : self.at].decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind in _SCALARS:
            return self.take(_SCALARS[kind])
        if kind != _ARRAY:
            raise ModelError(f"damaged GGUF header (value type {kind}): {self._path}", "download or convert it again")
        inner, count = self.take("IQ")
        keep = count <= self._longest
        if inner in _SCALARS:
            start = self.at
            self.skip(count * struct.calcsize("<" + _SCALARS[inner]))
            return list(struct.unpack_from(f"<{count}{_SCALARS[inner]}", self._data, start)) if keep else count
        if keep:
            return [self.value(inner) for _ in range(count)]
        if inner != _STRING:
            raise ModelError(f"damaged GGUF header (array of {inner}): {self._path}", "download or convert it again")
        self._skip_texts(count)
        return count

    def _skip_texts(self, count: int) -> None:
        """Pass over so many texts: a vocabulary has hundreds of thousands, and each step here costs as often."""
        at, end, length = self.at, len(self._data) - 8, struct.Struct("<Q").unpack_from
        for _ in range(count):
            if at > end:
                raise _truncated(self._path)
            at += 8 + length(self._data, at)[0]
        self.at = at
        self.skip(0)


class _Truncated(ModelError):
    """The header goes on where the file, or what was mapped of it, ends."""


def _truncated(path: Path) -> ModelError:
    return _Truncated(f"truncated GGUF file: {path}", "download or convert it again")


def read_header(path: Path, whole: bool = False) -> Header:
    """Read the header of a GGUF file; `whole` keeps arrays of any length, the vocabulary's too.

    Raises ModelError if the file is missing, not a GGUF, or cut within the header.
    """
    require_file(path, "model", "give a .gguf file or a folder made by stellar convert")
    try:
        status = path.stat()
        with path.open("rb") as handle:
            magic = handle.read(8)
            if magic[:4] != b"GGUF":
                raise ModelError(f"not a GGUF file: {path}", "stellar convert makes one from a Hugging Face folder")
            if len(magic) < 8:
                raise _truncated(path)
            version = struct.unpack("<I", magic[4:])[0]
            if version not in (2, 3):
                raise ModelError(f"unsupported GGUF version {version}: {path}", "version 2 and 3 are read")
            longest = status.st_size if whole else _LONGEST_KEPT_ARRAY
            if status.st_size > _MAPPED_FIRST:  # all of it would count against a limit of address space
                with (
                    suppress(_Truncated),
                    mmap.mmap(handle.fileno(), _MAPPED_FIRST, access=mmap.ACCESS_READ) as data,
                ):
                    return _parse(_Cursor(data, path, longest), path, status)
            with mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _parse(_Cursor(data, path, longest), path, status)
    except OSError as error:
        raise explain(error, path, "read") from error


def _parse(cursor: _Cursor, path: Path, status: os.stat_result) -> Header:
    tensor_count, pair_count = cursor.take("QQ")
    metadata: dict[str, Any] = {}
    for _ in range(pair_count):
        key = cursor.text()
        metadata[key] = cursor.value(cursor.take("I"))
    tensors = []
    for _ in range(tensor_count):
        name, dimensions = cursor.text(), cursor.take("I")
        if not 1 <= dimensions <= 4:
            raise ModelError(f"damaged GGUF header (tensor {name[:40]!r}): {path}", "download or convert it again")
        shape = tuple(cursor.take("Q") for _ in range(dimensions))
        kind, offset = cursor.take("IQ")
        tensors.append(TensorInfo(name, shape, kind, offset))
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment <= 0:
        raise ModelError(f"damaged GGUF header (alignment {alignment}): {path}", "download or convert it again")
    start = -(-cursor.at // alignment) * alignment
    return Header(path, metadata, tensors, start, status.st_size, status.st_mtime_ns)


def check_vocabulary(header: Header) -> None:
    """Raise ModelError for a vocabulary on which llama.cpp would abort; `header` must have been read whole.

    It asserts that no two tokens are equal, and looks up the byte tokens of a SentencePiece vocabulary unchecked.
    """
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list):
        raise ModelError(f"this GGUF has no vocabulary: {header.path}", "download or convert it again")
    known = set(tokens)
    if len(known) != len(tokens):
        raise ModelError(
            f"damaged GGUF file: its vocabulary repeats a token: {header.path}", "download or convert it again"
        )
    if header.metadata.get("tokenizer.ggml.model") == "llama" and not all(f"<0x{n:02X}>" in known for n in range(256)):
        raise ModelError(f"this GGUF's vocabulary lacks byte tokens: {header.path}", "download or convert it again")


def check_runnable(header: Header, cut: bool = False) -> None:
    """Raise ModelError unless the file is a language model that llama.cpp can be asked to load, and whole, or `cut`
    after its header, which is enough for planning.
    """
    if header.metadata.get("general.type") == "adapter":
        raise ModelError(f"this GGUF is a LoRA adapter, not a model: {header.path}", "give the model's own file")
    if not header.architecture or not header.tensors:
        raise ModelError(f"this GGUF holds no model: {header.path}", "give a model's .gguf file")
    for tensor in header.tensors:
        if not tensor.nbytes:
            raise ModelError(
                f"tensor {tensor.name[:40]!r} has a type that this build of llama.cpp does not know: {header.path}",
                "convert it again, or install a newer llama-cpp-python",
            )
    parts = [tensor.name.split(".") for tensor in header.tensors]
    layers = {part[1] for part in parts if part[0] == "blk" and len(part) > 1}
    stated, split = header.value("block_count", 0), header.metadata.get("split.count", 1) != 1
    if not isinstance(stated, int) or not 0 < stated <= _MOST_LAYERS or (stated != len(layers) and not split):
        raise ModelError(
            f"damaged GGUF file: it states {stated} layers and holds {len(layers)}: {header.path}",
            "download or convert it again",
        )
    if header.file_size < header.full_size and not cut:
        raise ModelError(
            f"truncated GGUF file: {header.path} has {header.file_size:,} of {header.full_size:,} bytes",
            "download or convert it again",
        )
