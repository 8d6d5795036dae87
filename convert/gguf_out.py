"""Writing one GGUF file as a stream: the header first, then each tensor's bytes in order.

The header is gguf's own writer's; the data never exists as a whole, and a killed run is taken up again. Knows the
container; knows no quantization.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from stellar_local.errors import StellarError
from stellar_local.files import explain, partial_path, regular_target
from stellar_local.native.ggml import GgmlType

from .levels import stored_size
from .llama import Tensor
from .manifest import TensorRecord
from .tensor_file import JOURNAL_SUFFIX, Journal, TensorFile

ALIGNMENT = 32


def journal_of(path: Path) -> Path:
    """Where the journal of an unfinished `path` lies."""
    return path.with_name(f".{path.name}{JOURNAL_SUFFIX}")


class GgufStream:
    """One GGUF that is being written to `path`, under a temporary name until it is finished.

    Tensors come whole and in the order of `tensors`, the first `done` of them left out: an earlier run wrote them.
    """

    def __init__(
        self,
        path: Path,
        metadata: Mapping[str, Any],
        tensors: Sequence[Tensor],
        types: Mapping[str, GgmlType],
        inputs: str = "",
        level: str = "",
    ) -> None:
        self.path = path = regular_target(path)
        self.types, self.level = types, level
        self._names = [tensor.gguf for tensor in tensors]
        sizes = [stored_size(tensor, types[tensor.gguf]) for tensor in tensors]
        self.weight_bytes = sum(sizes)
        self.file = TensorFile(partial_path(path), _header(metadata, tensors, types), sizes, ALIGNMENT)
        self._journal = Journal(journal_of(path), inputs)
        self._kept = False
        if self.file.path.is_symlink() or (self.file.path.exists() and not self.file.path.is_file()):
            raise StellarError(f"{self.file.path} is in the way: it is no plain file", "remove it")

    def take_up(self) -> None:
        """Find what an earlier run left and may be kept. Raises StellarError."""
        digests = self._journal.digests()
        if len(digests) == len(self._names) and not self.file.path.exists():  # killed just after the last renaming
            self.file.check(digests, self.path)
            self._kept = self.file.complete
        if not self._kept:
            self.file.check(digests)

    def open(self) -> None:
        """Begin writing, or go on. Raises StellarError."""
        if not self._kept:
            self.file.open()
            self._journal.begin(self.file.digests)

    @property
    def done(self) -> int:
        """How many tensors are complete."""
        return len(self.file.digests)

    @property
    def missing(self) -> int:
        """How many bytes are still to be written."""
        return self.file.final_size - self.file.size

    def records(self) -> dict[str, TensorRecord]:
        """The type and the SHA-256 of each tensor's stored bytes, by name."""
        digests = zip(self._names, self.file.digests, strict=True)
        return {name: TensorRecord(self.types[name].name, digest) for name, digest in digests}

    def form(self, tensor: Tensor) -> GgmlType | None:
        """The type that this file stores a tensor in."""
        return self.types.get(tensor.gguf)

    def write(self, data: memoryview) -> None:
        """Append the next rows of the current tensor. Raises StellarError, for a full disk above all."""
        self.file.write(data)

    def end_tensor(self) -> None:
        """Say that the current tensor is complete. Raises StellarError."""
        self._journal.add(self.file.end_tensor())

    def finish(self) -> None:
        """Give the complete file its name; the journal stays until `forget`. Raises StellarError."""
        self.file.close()
        self._journal.close()
        if self._kept:
            return
        self.file.sync()
        try:
            self.file.path.replace(self.path)
        except OSError as error:
            raise explain(error, self.path, "write") from error

    def forget(self) -> None:
        """Remove the journal: the file is on record elsewhere."""
        self._journal.remove()

    def abandon(self) -> bool:
        """Close after an error. A file with whole tensors stays for the next run; whether there are any."""
        self.file.close()
        self._journal.close()
        if not self._kept and not self.done:
            self.file.path.unlink(missing_ok=True)
            self._journal.remove()
        return self.done > 0

    def discard(self) -> None:
        """Close and remove the unfinished file."""
        self.file.close()
        self.file.path.unlink(missing_ok=True)
        self._journal.remove()


def _header(metadata: Mapping[str, Any], tensors: Sequence[Tensor], types: Mapping[str, GgmlType]) -> bytes:
    """Everything before the data, not yet padded."""
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
    out = io.BytesIO()
    # The writer opens files by path only; an open one in memory is what it takes for its own.
    writer.fout, writer.state = [out], gguf.gguf_writer.WriterState.EMPTY
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    return out.getvalue()


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
