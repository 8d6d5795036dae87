"""The safetensors container: a JSON header, then raw tensors. Read in row blocks, written as a stream.

Knows the format (8 bytes of header length, the header, the data) and three float types; knows no model.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stellar_local.errors import ModelError
from stellar_local.files import explain, require_file

ITEM_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_STORED = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_LONGEST_HEADER = 100_000_000  # the limit that the reference implementation sets


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies: its file, type ("BF16" …), shape and the byte offset of its data in the file."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def rows(self) -> int:
        """The length of the first dimension (1 for a scalar)."""
        return self.shape[0] if self.shape else 1

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows `start` to `stop` as float32 [stop - start, …]; only these rows are read from the disk."""
        if math.prod(self.shape) == 0:
            return np.zeros((stop - start, *self.shape[1:]), np.float32)
        try:
            stored = np.memmap(self.path, _STORED[self.dtype], "r", self.offset, self.shape or (1,))
        except OSError as error:
            raise explain(error, self.path, "read") from error
        return to_float32(np.asarray(stored[start:stop]), self.dtype)


def to_float32(stored: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """A contiguous float32 copy of stored values; BF16 comes as uint16 and is the upper half of a float32."""
    if dtype == "BF16":
        return np.asarray((stored.astype(np.uint32) << np.uint32(16)).view(np.float32), np.float32)
    return np.array(stored, np.float32, order="C")


def from_float32(rows: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    """Float32 values as stored ones, rounded to the nearest (ties to even); BF16 is given as uint16."""
    if dtype == "F32":
        return rows
    if dtype == "F16":
        with np.errstate(over="ignore"):
            half = rows.astype(np.float16)
        if not np.isfinite(half).all():
            raise ModelError("a weight is beyond what float16 can hold", "choose bfloat16 or float32")
        return half
    bits = rows.view(np.uint32)
    even = (bits >> np.uint32(16)) & np.uint32(1)
    return np.asarray((bits + np.uint32(0x7FFF) + even) >> np.uint32(16), np.uint16)


def read_table(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one file by name. Raises ModelError for a file that is cut, damaged or of other types."""
    require_file(path, "weights file")
    damaged = ModelError(f"damaged safetensors file: {path}", "download or save it again")
    try:
        size = path.stat().st_size
        with path.open("rb") as handle:
            prefix = handle.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else -1
            if not 0 < length <= _LONGEST_HEADER:
                raise damaged
            raw = handle.read(length)
    except OSError as error:
        raise explain(error, path, "read") from error
    if len(raw) < length:
        raise ModelError(f"truncated safetensors file: {path}", "download it again")
    table: dict[str, StoredTensor] = {}
    try:
        entries = {key: value for key, value in json.loads(raw).items() if key != "__metadata__"}
        for name, entry in entries.items():
            dtype, shape, (begin, end) = entry["dtype"], tuple(map(int, entry["shape"])), entry["data_offsets"]
            if dtype not in ITEM_SIZES:
                raise ModelError(
                    f"{path} stores {name} as {dtype}: quantized or integer weights cannot be merged or converted",
                    "use the original checkpoint in float32, float16 or bfloat16",
                )
            if end - begin != math.prod(shape) * ITEM_SIZES[dtype] or begin < 0 or min(shape, default=0) < 0:
                raise damaged
            table[name] = StoredTensor(path, dtype, shape, 8 + length + begin)
            if 8 + length + end > size:
                raise ModelError(
                    f"truncated safetensors file: {path} ends within {name}",
                    "download it again: the copy is incomplete",
                )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged from error
    return table


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
