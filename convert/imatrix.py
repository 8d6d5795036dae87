"""Importance matrices: how much an error in each column of each matrix costs, as llama.cpp's llama-imatrix measures it.

Reads both of its forms and gives the values that llama-quantize makes of them. Sources: tools/imatrix/imatrix.cpp (what
is written), common/imatrix-loader.cpp and load_imatrix in tools/quantize/quantize.cpp (how it is read). Knows files and
names of tensors; knows no level and measures nothing.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stellar_local.errors import ModelError
from stellar_local.files import explain, require_file
from stellar_local.native.ggml import GgmlType
from stellar_local.native.header import Header, TensorInfo, read_header

from .llama import Tensor

_HINT = "give a file that llama-imatrix wrote for this very model"
_AGAIN = "make it again, or download it again"
_SUMS, _COUNTS = ".in_sum2", ".counts"
_KEYS = ("imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size")
# Limits of the older form, far above what a real file has: names of 25 bytes, and for a LLaMA of 405B under a thousand
# entries and 80 MB.
_LONGEST_NAME, _MOST_ENTRIES, _LARGEST = 256, 1 << 16, 1 << 29


@dataclass(frozen=True)
class Importance:
    """An importance matrix: `entries` maps a tensor's GGUF name to float32 [columns], finite and not negative.

    `datasets` names the texts it was measured on, as the file does; `chunks` counts the pieces that they were cut into
    (0 where the file does not say).
    """

    path: Path
    entries: Mapping[str, NDArray[np.float32]]
    datasets: tuple[str, ...]
    chunks: int

    def check_fits(self, tensors: Iterable[Tensor]) -> None:
        """Raise ModelError unless it was made for a model with these tensors: some known, none of another length."""
        known = 0
        for tensor in tensors:
            entry = self.entries.get(tensor.gguf)
            if entry is None:
                continue
            known += 1
            if len(entry) != tensor.columns:
                raise ModelError(
                    f"the importance matrix {self.path} was made for another model: "
                    f"{tensor.gguf} has {len(entry)} columns there and {tensor.columns} here",
                    _HINT,
                )
        if not known:
            raise ModelError(f"the importance matrix {self.path} holds no tensor of this model", _HINT)

    def metadata(self) -> dict[str, Any]:
        """What llama-quantize adds to a GGUF's metadata, with names of files only, never a folder of this computer."""
        found: dict[str, Any] = {"quantize.imatrix.file": self.path.name}
        if self.datasets:
            found["quantize.imatrix.dataset"] = re.split(r"[/\\]", self.datasets[0])[-1]
        found["quantize.imatrix.entries_count"] = len(self.entries)
        if self.chunks > 0:
            found["quantize.imatrix.chunks_count"] = self.chunks
        return found


def read_imatrix(path: Path) -> Importance:
    """Read an importance matrix, a GGUF or the older form (.dat), whatever the file's name.

    Raises ModelError for a file that is missing, neither of the two, damaged or truncated, or whose values are
    negative or not finite.
    """
    require_file(path, "importance matrix", "make one with llama-imatrix, or check the path")
    try:
        with path.open("rb") as handle:
            is_gguf = handle.read(4) == b"GGUF"
        found = _read_gguf(read_header(path, whole=True)) if is_gguf else _read_dat(path)
    except OSError as error:
        raise explain(error, path, "read") from error
    for name, entry in found.entries.items():
        if not (np.isfinite(entry).all() and entry.min() >= 0):
            raise ModelError(f"{path}: the importance of {name} holds negative, infinite or NaN values", _AGAIN)
    return found


def _read_gguf(header: Header) -> Importance:
    """The form of today: NAME.in_sum2, the sums of squares, and NAME.counts, how many rows were summed."""
    path, fields = header.path, header.metadata
    if fields.get("general.type") != "imatrix" and not set(_KEYS) <= fields.keys():
        kind = f"a {header.architecture} model" if header.architecture else "something else"
        raise ModelError(f"not an importance matrix: the GGUF file {path} holds {kind}", _HINT)
    datasets, chunks, size = (fields.get(key) for key in _KEYS)
    if not isinstance(datasets, list) or not isinstance(chunks, int) or not isinstance(size, int):
        missing = next((key for key in _KEYS if key not in fields), "usable metadata")
        raise _damaged(path, f"it has no {missing}")
    infos = {tensor.name: tensor for tensor in header.tensors}
    entries = {}
    for name in infos:
        stem = name.removesuffix(_SUMS).removesuffix(_COUNTS)
        if stem == name or stem in entries:
            continue
        if stem + _SUMS not in infos or stem + _COUNTS not in infos:
            raise _damaged(path, f"{stem} has no sums or no counts")
        sums, counts = (_stored(header, infos[stem + suffix]) for suffix in (_SUMS, _COUNTS))
        if not len(counts) or not len(sums) or len(sums) % len(counts):
            raise _damaged(path, f"{stem} has {len(sums)} sums and {len(counts)} counts")
        if not np.isfinite(counts).all():
            raise _damaged(path, f"the counts of {stem} hold infinite or NaN values")
        entries[stem] = _means(sums, counts)
    if not entries:
        raise _damaged(path, "it has no entries")
    return Importance(path, entries, tuple(map(str, datasets)), chunks)


def _stored(header: Header, info: TensorInfo) -> NDArray[np.float32]:
    """A tensor's values, flat."""
    if info.type != GgmlType.F32:
        raise _damaged(header.path, f"{info.name} is not float32")
    start = header.data_start + info.offset
    if start + info.nbytes > header.file_size:
        raise _truncated(header.path)
    if not info.nbytes:
        return np.empty(0, np.float32)
    return np.fromfile(header.path, "<f4", info.nbytes // 4, offset=start).astype(np.float32, copy=False)


def _means(sums: NDArray[np.float32], counts: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sums over counts, as load_imatrix: one count for each matrix of a tensor, and 1 where nothing was counted."""
    whole = np.floor(counts.astype(np.float64) + 0.5)  # std::lround, for what is not negative
    parts = sums.reshape(len(counts), -1)
    means = np.ones_like(parts)
    seen = whole > 0
    means[seen] = parts[seen] / whole[seen, None].astype(np.float32)
    return means.reshape(-1)


def _read_dat(path: Path) -> Importance:
    """The older form: counted entries of name, number of calls and values; then, perhaps, chunks and the dataset.

    It has no mark of its own, so its first numbers and its size are judged before the rest is read.
    """
    with path.open("rb") as handle:
        head = handle.read(8)
        number, first = struct.unpack("<ii", head.ljust(8, b"\0"))
        if not 0 < number <= _MOST_ENTRIES or not 0 < first <= _LONGEST_NAME:
            raise ModelError(f"not an importance matrix: {path}", _HINT)
        if (size := path.stat().st_size) > _LARGEST:
            raise ModelError(f"not an importance matrix: {path} has {size:,} bytes, more than any has", _HINT)
        cursor = _Cursor(path, head + handle.read(_LARGEST))
    cursor.take(4)
    entries: dict[str, NDArray[np.float32]] = {}
    for _ in range(number):
        length = cursor.count()
        if not 0 < length <= _LONGEST_NAME:
            raise _damaged(path, f"a name of {length} bytes")
        name, calls, size = cursor.text(length), cursor.count(), cursor.count()
        if size < 1:
            raise _damaged(path, f"{name} has {size} values")
        values = np.frombuffer(cursor.take(4 * size), "<f4").astype(np.float32)
        entries[name] = values / np.float32(calls) if calls > 0 else values
    chunks = 0 if cursor.at_end else cursor.count()
    dataset = "" if cursor.at_end else cursor.text(cursor.count())
    return Importance(path, entries, (dataset,) if dataset else (), chunks)


class _Cursor:
    """A position in a file of the older form; reading past its end is a truncated file."""

    def __init__(self, path: Path, data: bytes) -> None:
        self._path, self._data, self._at = path, data, 0

    @property
    def at_end(self) -> bool:
        return self._at == len(self._data)

    def take(self, size: int) -> bytes:
        if size < 0 or self._at + size > len(self._data):
            raise _truncated(self._path)
        self._at += size
        return self._data[self._at - size : self._at]

    def count(self) -> int:
        return int(struct.unpack("<i", self.take(4))[0])

    def text(self, size: int) -> str:
        return self.take(size).decode("utf-8", "replace")  # a dataset's name may be in another encoding


def _damaged(path: Path, reason: str) -> ModelError:
    return ModelError(f"damaged importance matrix {path}: {reason}", _AGAIN)


def _truncated(path: Path) -> ModelError:
    return ModelError(f"truncated importance matrix: {path}", _AGAIN)
