"""One sequence's memory as a file in llama.cpp's own format: written, checked, taken up again.

llama.cpp believes much of what such a file says: a damaged one may put nonsense into memory, abort the process, or be a
pipe that never ends. So its structure is read here first (llama-context.cpp: state_seq_save_file; llama-kv-cache.cpp:
state_write). Knows the format; whether a state belongs to this model, these adapters and this build of llama.cpp is
for whoever keeps the file to know.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import StellarError
from ..files import explain, require_file
from .context import KV_TYPES, Context
from .library import api, complaints


class StateError(StellarError):
    """A file holds no memory that this context can take up."""


_CELL = np.dtype([("position", "=i4"), ("sequences", "=u4"), ("sequence", "=i4")])


def size(context: Context, sequence: int) -> int:
    """The bytes that `save` would write of a sequence."""
    _require(context, sequence)
    counted = int(api().llama_state_seq_get_size(context.handle, sequence))  # 8 bytes of it are of another header
    return counted - 8 + 12 + 4 * context.length(sequence)


def save(context: Context, sequence: int, path: Path, tokens: Sequence[int]) -> int:
    """Write the memory of a sequence, which holds these tokens, to `path`; returns the number of bytes.

    An existing file is overwritten, and on failure a part of it may be left. Raises StellarError where it cannot be
    written, if the sequence does not hold as many tokens, or while the next decode has cells to move or copy first.
    """
    _require(context, sequence)
    count = len(tokens)
    if not count or count != context.length(sequence):
        raise StellarError(f"sequence {sequence} holds {context.length(sequence)} tokens, not {count}")
    if not context.settled:
        raise StellarError("the context has cells to move or copy first, with the next decode")
    if path.exists() and not path.is_file():  # a pipe would make llama.cpp wait
        raise StellarError(f"cannot write {path}: it is no file")
    complaints()
    array = (ctypes.c_int32 * count)(*tokens)
    written = int(api().llama_state_seq_save_file(context.handle, os.fsencode(path), sequence, array, count))
    if not written:
        raise StellarError(f"cannot write {path}: {complaints() or 'no reason given'}", "see that there is space")
    try:
        found = path.stat().st_size
    except OSError as error:
        raise explain(error, path, "write") from error
    if found != written:  # what was still buffered when llama.cpp closed the file; it does not look
        raise StellarError(f"cannot write {path}: {found:,} of {written:,} bytes are there", "see that there is space")
    return written


def load(context: Context, sequence: int, path: Path, capacity: int) -> list[int]:
    """Fill an empty sequence with the memory that `save` wrote, of at most `capacity` tokens; returns the tokens.

    What follows the state in the file is left alone. Raises StateError if the file is not such a state of this
    context's shape, or there are not enough free cells; the sequence is empty then.
    """
    _require(context, sequence)
    if context.length(sequence):
        raise StellarError(f"sequence {sequence} is not empty")
    tokens = read_tokens(context, path)
    if len(tokens) > capacity:
        raise StateError(f"{path} holds {len(tokens)} tokens, more than {capacity}")
    complaints()
    context.spoilt = not context.flash  # until it is seen to be gone again
    array, count = (ctypes.c_int32 * len(tokens))(), ctypes.c_size_t()
    done = api().llama_state_seq_load_file(
        context.handle, os.fsencode(path), sequence, array, len(tokens), ctypes.byref(count)
    )
    if context.recount(sequence) != len(tokens) or not done or list(array) != tokens:
        context.truncate(sequence, 0)
        raise StateError(f"llama.cpp cannot restore {path}: {complaints() or 'no reason given'}")
    return tokens


def read_tokens(context: Context, path: Path) -> list[int]:
    """The tokens whose memory a file holds, after a check that it has this context's shape from beginning to end.

    Raises StateError if it has not, another StellarError if it cannot be read.
    """
    _require(context)
    try:
        with require_file(path, "saved memory").open("rb") as file:
            return _Reader(file, path, context).tokens()
    except OSError as error:
        raise explain(error, path, "read") from error


def _require(context: Context, sequence: int = 0) -> None:
    if not 0 <= sequence < context.sequences:
        raise StellarError(f"sequence {sequence} does not exist: there are {context.sequences}")
    if api().llama_model_n_swa(context.model.handle) > 0:
        raise StellarError("the memory of a model with sliding windows is not whole, and is neither saved nor restored")


class _Reader:
    """Reads a state's structure, without the tensors' data, and compares it with a context's."""

    def __init__(self, file: BinaryIO, path: Path, context: Context) -> None:
        self._file, self._path, self._context = file, path, context
        self._size = os.fstat(file.fileno()).st_size

    def _wrong(self, what: str) -> StateError:
        return StateError(f"not a state of this model's memory ({what}): {self._path}")

    def _take(self, format: str) -> Any:
        return struct.unpack("=" + format, self._bytes(struct.calcsize("=" + format)))

    def _bytes(self, size: int) -> bytes:
        if size > self._size - self._file.tell() or len(data := self._file.read(size)) < size:
            raise self._wrong("truncated")
        return data

    def _skip(self, size: int) -> None:
        if size > self._size - self._file.tell():
            raise self._wrong("truncated")
        self._file.seek(size, os.SEEK_CUR)

    def tokens(self) -> list[int]:
        llama, context = api(), self._context
        if self._take("II") != (llama.LLAMA_STATE_SEQ_MAGIC, llama.LLAMA_STATE_SEQ_VERSION):
            raise self._wrong("another kind or version")
        (count,) = self._take("I")
        if not 0 < count <= context.capacity:
            raise self._wrong(f"{count} tokens for a context of {context.capacity}")
        tokens = np.frombuffer(self._bytes(4 * count), "=i4")
        if tokens.min() < 0 or tokens.max() >= context.model.n_vocab:
            raise self._wrong("tokens that the model lacks")
        (streams,) = self._take("I")
        if streams != (1 if context.unified else context.sequences):
            raise self._wrong(f"{streams} separate memories")
        held = 0
        for _ in range(streams):
            (cells,) = self._take("I")
            held += cells
            if held not in (0, count):
                raise self._wrong(f"{held} cells for {count} tokens")
            if cells:
                self._cells(count)
                self._layers(count)
        if not held:
            raise self._wrong("no cells")
        return [int(token) for token in tokens]

    def _cells(self, count: int) -> None:
        cells = np.frombuffer(self._bytes(_CELL.itemsize * count), _CELL)
        if (cells["sequences"] != 1).any() or (np.sort(cells["position"]) != np.arange(count)).any():
            raise self._wrong("cells out of place")

    def _layers(self, count: int) -> None:
        transposed, layers = self._take("II")
        if transposed > 1 or layers != api().llama_model_n_layer(self._context.model.handle):
            raise self._wrong(f"{layers} layers")
        if bool(transposed) == self._context.flash:
            raise self._wrong("values in the layout of another --flash-attn")
        for values in (False, True):
            for _ in range(layers):
                (kind,) = self._take("i")
                if kind != KV_TYPES[self._context.kv_type]:
                    raise self._wrong(f"a KV cache of type {kind}")
                if values and transposed:
                    element, width = self._take("II")
                    row = element * width
                else:
                    (row,) = self._take("Q")
                self._skip(row * count)
