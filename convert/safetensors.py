"""The safetensors container: a JSON header, then raw tensors. Read in row blocks, written as a stream.

Knows the format (8 bytes of header length, the header, the data) and four float types; a tensor of another type is
listed and not read. Files are read at offsets and never mapped: a file that shrinks meanwhile gives an error and not
a dead process, and what was read is not counted as memory in use. Knows no model.
"""

from __future__ import annotations

import json
import math
import os
import struct
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stellar_local.errors import ModelError
from stellar_local.files import explain, require_file

ITEM_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_STORED = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_OTHER_SIZES = {  # what quantized checkpoints store; types of less than a byte are not measured
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 1),
    **dict.fromkeys(("U16", "I16"), 2),
    **dict.fromkeys(("U32", "I32"), 4),
    **dict.fromkeys(("U64", "I64", "C64"), 8),
}
# Weights read at once, 4 MiB as float32. The cut is the same whatever the number of threads, and so are merged numbers.
PIECE = 1 << 20
_LONGEST_HEADER = 100_000_000  # the limit that the reference implementation sets


class RowSource(Protocol):
    """A tensor that can be read in blocks of rows, from many threads at once."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> str: ...

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows `start` to `stop` as a float32 array of their own. Raises ModelError, StellarError."""


def pieces(rows: int, columns: int, multiple: int = 1) -> Iterator[tuple[int, int]]:
    """Cut rows into ranges of at most PIECE weights, each a whole number of `multiple` rows (one at least)."""
    step = max(1, PIECE // max(1, columns * multiple)) * multiple
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


def spans(shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Where to cut a tensor of this shape for reading it once: ranges of rows, of about a million weights each."""
    return pieces(shape[0] if shape else 1, math.prod(shape[1:]))


def same_values(one: RowSource, other: RowSource) -> bool:
    """Whether two tensors are equal in shape and in every value, compared a few rows at a time."""
    return one.shape == other.shape and all(
        np.array_equal(one.read(start, stop), other.read(start, stop)) for start, stop in spans(one.shape)
    )


class SharedFile:
    """A file that many threads read at once, each at its own offset, through one descriptor.

    Opened at once, closed when nothing refers to it any more.
    """

    def __init__(self, path: Path) -> None:
        """Open `path` for reading. Raises StellarError."""
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        except OSError as error:
            raise explain(error, path, "read") from error
        weakref.finalize(self, os.close, self._descriptor)
        self._lock = threading.Lock()  # where a read must seek first

    @property
    def size(self) -> int:
        """The file's length in bytes, now."""
        return os.fstat(self._descriptor).st_size

    def fill(self, buffer: memoryview, offset: int) -> int:
        """Read into all of `buffer` from `offset` on; returns how many bytes there were. Raises StellarError."""
        done = 0
        try:
            while done < len(buffer):
                count = self._read(buffer[done:], offset + done)
                if not count:
                    break
                done += count
        except OSError as error:
            raise explain(error, self.path, "read") from error
        return done

    def _read(self, buffer: memoryview, offset: int) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self._descriptor, [buffer], offset)
        with self._lock:  # Windows
            os.lseek(self._descriptor, offset, os.SEEK_SET)
            data = os.read(self._descriptor, len(buffer))
        buffer[: len(data)] = data
        return len(data)


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies: its file, type ("BF16" …), shape and the byte offset of its data in the file."""

    file: SharedFile
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def rows(self) -> int:
        """The length of the first dimension (1 for a scalar)."""
        return self.shape[0] if self.shape else 1

    @property
    def origin(self) -> Path:
        """The file that holds it."""
        return self.file.path

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows `start` to `stop` as a float32 array of their own, [stop - start, …]; only they are read.

        May be called from many threads. Raises ModelError for a type that is no float, and for a file that has
        become shorter; StellarError if it cannot be read.
        """
        require_float(self.origin, self.name, self.dtype)
        inner = self.shape[1:]
        stored = np.empty((max(0, min(stop, self.rows) - start), *inner), _STORED[self.dtype])
        if stored.size:
            begin = self.offset + start * math.prod(inner) * ITEM_SIZES[self.dtype]
            raw = stored.reshape(-1).view(np.uint8)
            if self.file.fill(raw.data, begin) < raw.size:
                raise ModelError(
                    f"{self.origin} ended early, within {self.name}: it was changed while it was read",
                    "let downloads and copies of it finish, then start again",
                )
        return to_float32(stored, self.dtype)


def require_float(path: Path, name: str, dtype: str) -> None:
    """Raise ModelError unless `dtype`, as safetensors names it, is one of the four float types that are read here."""
    if dtype not in ITEM_SIZES:
        raise ModelError(
            f"{path} stores {name} as {dtype}: quantized or integer weights cannot be merged or converted",
            "use the original checkpoint in float32, float16 or bfloat16",
        )


def to_float32(stored: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """Stored values as contiguous float32; BF16 comes as uint16 and is the upper half of a float32.

    Float32 is returned as it is, not copied.
    """
    if dtype == "BF16":
        bits = stored.astype(np.uint32)
        bits <<= np.uint32(16)
        return np.asarray(bits.view(np.float32))
    with np.errstate(over="ignore"):  # a float64 too large becomes infinite, and is refused where it is used
        return np.ascontiguousarray(stored, np.float32)


def from_float32(rows: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    """Float32 values as stored ones, rounded to the nearest (ties to even); BF16 is given as uint16.

    Raises ModelError for NaN, infinity and values that the type cannot hold.
    """
    if dtype == "F32":
        if not np.isfinite(rows).all():
            raise ModelError("a weight is NaN or infinite", "the checkpoint or the adapter is damaged")
        return rows
    if dtype == "F16":
        with np.errstate(over="ignore"):
            half = rows.astype(np.float16)
        if not np.isfinite(half).all():
            raise ModelError("a weight is beyond what float16 can hold", "choose bfloat16 or float32")
        return half
    bits = rows.view(np.uint32)
    even = (bits >> np.uint32(16)) & np.uint32(1)
    upper = np.asarray((bits + np.uint32(0x7FFF) + even) >> np.uint32(16), np.uint16)
    if not np.isfinite(rows).all() or (upper & np.uint16(0x7F80) == 0x7F80).any():
        raise ModelError("a weight is beyond what bfloat16 can hold", "choose float32, and look where it comes from")
    return upper


def read_table(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one file by name, of whatever type. Raises ModelError for a file that is cut or damaged."""
    require_file(path, "weights file")
    damaged = ModelError(f"damaged safetensors file: {path}", "download or save it again")
    file = SharedFile(path)
    size = file.size
    prefix = bytearray(8)
    length = struct.unpack("<Q", prefix)[0] if file.fill(memoryview(prefix), 0) == 8 else -1
    if not 0 < length <= _LONGEST_HEADER:
        raise damaged
    raw = bytearray(min(length, size))
    if file.fill(memoryview(raw), 8) < length:
        raise ModelError(f"truncated safetensors file: {path}", "download it again")
    table: dict[str, StoredTensor] = {}
    try:
        for name, entry in json.loads(raw, object_pairs_hook=_without_doubles).items():
            if name == "__metadata__":
                continue
            dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
            if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
                raise damaged
            item = ITEM_SIZES.get(dtype, _OTHER_SIZES.get(dtype))
            if end < begin or (item is not None and end - begin != math.prod(shape) * item):
                raise damaged
            table[name] = StoredTensor(file, name, dtype, shape, 8 + length + begin)
            if 8 + length + end > size:
                raise ModelError(
                    f"truncated safetensors file: {path} ends within {name}",
                    "download it again: the copy is incomplete",
                )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged from error
    return table


def _without_doubles(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Raises ValueError if it states a key twice, since readers differ in which of the two they take."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is there twice")
    return found


def header_bytes(entries: Sequence[tuple[str, Sequence[int], str]], metadata: Mapping[str, str]) -> bytes:
    """The header of a file that holds `entries` (name, shape, dtype) in this order, padded to 8 bytes."""
    offset = 0
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    for name, shape, dtype in entries:
        end = offset + math.prod(shape) * ITEM_SIZES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    raw = json.dumps(header, separators=(",", ":")).encode("utf-8")
    raw += b" " * (-len(raw) % 8)
    return struct.pack("<Q", len(raw)) + raw
