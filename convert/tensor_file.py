"""A file of a header and tensors one after another, written as a stream, and taken up again after a kill.

While a file is unfinished, a journal beside it lists the SHA-256 of each complete tensor. A later run with the same
inputs checks the tensors against it and goes on after the last good one. Knows bytes and hashes; knows no format.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from stellar_local.files import explain

JOURNAL_SUFFIX = ".journal"
_BLOCK = 4 << 20


class Journal:
    """The digests of an output's complete tensors, one a line after a first line that says what it was made from.

    Lines are only ever appended, each after its tensor's bytes; a line that a kill cut short is no digest and ends
    the list. `inputs` is a fingerprint of everything that decides the bytes.
    """

    def __init__(self, path: Path, inputs: str) -> None:
        self.path, self._inputs = path, inputs
        self._file: IO[bytes] | None = None

    def digests(self) -> list[str]:
        """What an earlier run with the same inputs wrote; [] if there was none. Raises StellarError."""
        try:
            lines = self.path.read_bytes().decode("ascii", "replace").split("\n")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise explain(error, self.path, "read") from error
        return lines[1:-1] if lines[0] == self._inputs else []

    def begin(self, digests: Sequence[str]) -> None:
        """Start the journal with the digests that still hold. Raises StellarError."""
        self.close()
        try:
            self._file = self.path.open("wb", buffering=0)
            self._file.write("".join(f"{line}\n" for line in (self._inputs, *digests)).encode("ascii"))
        except OSError as error:
            raise explain(error, self.path, "write") from error

    def add(self, digest: str) -> None:
        """Note one more complete tensor. Raises StellarError."""
        assert self._file is not None
        try:
            self._file.write(f"{digest}\n".encode("ascii"))
        except OSError as error:
            raise explain(error, self.path, "write") from error

    def close(self) -> None:
        """Close the file and keep it."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def remove(self) -> None:
        """Close and remove the file."""
        self.close()
        self.path.unlink(missing_ok=True)


class TensorFile:
    """One file: `header`, then tensors of the given `sizes` in bytes, each padded to `alignment` (as the header is)."""

    def __init__(self, path: Path, header: bytes, sizes: Sequence[int], alignment: int = 1) -> None:
        self.path, self._header, self._sizes, self._alignment = path, header, sizes, alignment
        self.digests: list[str] = []
        self._file: IO[bytes] | None = None
        self._whole, self._tensor = hashlib.sha256(), hashlib.sha256()
        self.size = 0

    @property
    def final_size(self) -> int:
        """The size of the finished file in bytes."""
        return self._padded(len(self._header)) + sum(map(self._padded, self._sizes))

    @property
    def complete(self) -> bool:
        """Whether every tensor is there."""
        return len(self.digests) == len(self._sizes)

    @property
    def sha256(self) -> str:
        """The SHA-256 of the file as far as it is written."""
        return self._whole.hexdigest()

    def check(self, digests: Sequence[str], where: Path | None = None) -> None:
        """Take over the leading tensors of the file (or of `where`) whose bytes have the `digests`.

        Reads what it takes over, for the hash of the whole file. Raises StellarError.
        """
        self.digests, self.size, self._whole = [], 0, hashlib.sha256()
        path = where or self.path
        try:
            with path.open("rb") as file:
                begin = self._header + bytes(self._padded(len(self._header)) - len(self._header))
                if file.read(len(begin)) != begin:
                    return
                self._whole.update(begin)
                self.size = len(begin)
                for size, digest in zip(self._sizes, digests, strict=False):
                    if not self._take(file, size, digest):
                        return
        except FileNotFoundError:
            return
        except OSError as error:
            raise explain(error, path, "read") from error

    def open(self) -> None:
        """Open for writing after what `check` took over, or from the start. Raises StellarError."""
        try:
            if self.size:
                self._file = self.path.open("r+b", buffering=0)
                self._file.truncate(self.size)
                self._file.seek(self.size)
            else:
                self._file = self.path.open("wb", buffering=0)
                self._append(self._header)
                self._pad()
        except OSError as error:
            raise explain(error, self.path, "write") from error

    def write(self, data: memoryview) -> None:
        """Append the next bytes of the current tensor. Raises StellarError, for a full disk above all."""
        self._tensor.update(data)
        self._append(data)

    def end_tensor(self) -> str:
        """Pad the current tensor, which is complete; returns its SHA-256. Raises StellarError."""
        self._pad()
        self.digests.append(self._tensor.hexdigest())
        self._tensor = hashlib.sha256()
        return self.digests[-1]

    def close(self) -> None:
        """Close the file, as far as it was written."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None

    def sync(self) -> None:
        """See that the closed file is on the disk. Raises StellarError."""
        try:
            with self.path.open("rb+") as file:
                os.fsync(file.fileno())
        except OSError as error:
            raise explain(error, self.path, "write") from error

    def _take(self, file: IO[bytes], size: int, digest: str) -> bool:
        """Read one tensor; whether it is whole and its bytes are those of `digest`."""
        whole, tensor = self._whole.copy(), hashlib.sha256()
        for block in _blocks(file, size):
            tensor.update(block)
            whole.update(block)
        padding = bytes(self._padded(size) - size)
        if tensor.hexdigest() != digest or file.read(len(padding)) != padding:
            return False
        whole.update(padding)
        self._whole = whole
        self.size += self._padded(size)
        self.digests.append(digest)
        return True

    def _append(self, data: bytes | memoryview) -> None:
        assert self._file is not None
        view = memoryview(data)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise explain(error, self.path, "write") from error
        self._whole.update(data)
        self.size += len(data)

    def _pad(self) -> None:
        self._append(bytes(self._padded(self.size) - self.size))

    def _padded(self, size: int) -> int:
        return -(-size // self._alignment) * self._alignment


def _blocks(file: IO[bytes], size: int) -> Iterator[bytes]:
    """The next `size` bytes of a file in blocks; fewer at its end."""
    while size and (block := file.read(min(size, _BLOCK))):
        size -= len(block)
        yield block
