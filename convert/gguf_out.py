"""Writing one GGUF file as a stream: the header first, then each tensor's bytes in order, hashed on the way.

The header is gguf's own writer's; the data never exists as a whole. Knows the container; knows no quantization.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from stellar_local.files import explain
from stellar_local.native.ggml import GgmlType, row_size

from .llama import Tensor

ALIGNMENT = 32


def padded(size: int) -> int:
    """A size rounded up to the alignment of tensor data."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def stored_size(tensor: Tensor, type: GgmlType) -> int:
    """The bytes of a tensor at a type, without padding."""
    return tensor.rows * row_size(type, tensor.columns)


class GgufStream:
    """An open GGUF file that is being written; close it even after an error.

    Tensors must come in the order of `types`, whole.
    """

    def __init__(
        self, path: Path, metadata: Mapping[str, Any], tensors: Sequence[Tensor], types: Mapping[str, GgmlType]
    ) -> None:
        self.types = types
        self.data_size = sum(padded(stored_size(tensor, types[tensor.gguf])) for tensor in tensors)
        self.weight_bytes = sum(stored_size(tensor, types[tensor.gguf]) for tensor in tensors)
        writer = gguf.GGUFWriter(None, "llama")  # adds general.architecture
        for key, value in metadata.items():
            _add(writer, key, value)
        for tensor in tensors:
            type = types[tensor.gguf]
            writer.add_tensor_info(
                tensor.gguf,
                tensor.shape,
                np.dtype(np.float32),  # not looked at where the stored type is given
                stored_size(tensor, type),
                gguf.GGMLQuantizationType(int(type)),
            )
        self._path = path
        try:
            try:
                writer.write_header_to_file(path)
                writer.write_kv_data_to_file()
                writer.write_ti_data_to_file()
            finally:
                writer.close()
            header = path.read_bytes()
            self._hash = hashlib.sha256(header)
            self.size = len(header)
            self._file = path.open("ab")
        except OSError as error:
            raise explain(error, path, "write") from error
        self.end_tensor()

    def write(self, pieces: Sequence[NDArray[np.uint8]]) -> None:
        """Append the next rows of the current tensor. Raises StellarError, for a full disk above all."""
        for piece in pieces:
            self._append(piece.data.cast("B"))

    def end_tensor(self) -> None:
        """Pad to the alignment, after the header and after the last rows of each tensor."""
        self._append(bytes(padded(self.size) - self.size))

    def close(self) -> None:
        """Close the file, as far as it was written."""
        try:
            self._file.close()
        except OSError as error:
            raise explain(error, self._path, "write") from error

    @property
    def sha256(self) -> str:
        """The SHA-256 of everything written so far, as hexadecimal digits."""
        return self._hash.hexdigest()

    def _append(self, data: bytes | memoryview) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            raise explain(error, self._path, "write") from error
        self._hash.update(data)
        self.size += len(data)


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    """Add one metadata value; whole numbers are unsigned 32-bit, real ones 32-bit floats, as llama.cpp reads them."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, np.int32):  # the few that llama.cpp's converter writes signed
        writer.add_int32(key, int(value))
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
