"""What the model has computed of a conversation, in a file beside its session, so that it need not be computed again.

The file is llama.cpp's state file, followed by a trailer: what made it, as a fingerprint, and a checksum of all before.
Nothing else tells llama.cpp that a state belongs to another model, adapter or build: it would go on with it, and answer
nonsense. Such a file can always be done without. Knows the engine and the file; knows nothing of turns.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import struct
import zlib
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..engine.request import Adapters
from ..errors import StellarError
from ..files import explain, partial_path, regular_target, sampled
from ..native.header import Header
from ..native.state import StateError
from ..runtime import Runtime

_MAGIC = b"stellarK"
_FOOTER = struct.Struct("<IQ8s")  # checksum, length of the JSON before, _MAGIC
_BLOCK = 1 << 20

_FEWEST = 32  # tokens: fewer are computed while a file is looked for
_SMALL = 64 << 20  # bytes
_DISK = 500e6  # bytes a second that a disk is thought to read


class KVCache:
    """The file `path`, of at most `limit` bytes, for a runtime's model as it was when it was loaded."""

    def __init__(self, path: Path, runtime: Runtime, limit: int) -> None:
        self._path, self._engine, self._limit = path, runtime.engine, limit

    def save(self, tokens: Sequence[int], adapters: Adapters = (), prompt_speed: float | None = None) -> int:
        """Write what is in memory of these tokens, computed with these adapters; returns the file's bytes, 0 for none.

        Below 32 tokens, or above `limit` bytes, there is no file, nor where the model's file is not the one any more
        that was loaded. Up to 64 MiB there always is. Above, there is one if computing the tokens again, at
        `prompt_speed` tokens a second as measured in this session, takes more than twice as long as a disk needs to
        read them at 500 MB/s: a 13B computes 3,000 tokens in 0.6 s on a GPU, and their 2.4 GB would not come sooner.
        An older file stays where there is no new one.

        The file appears whole or not at all, is readable by its owner only, and is not forced to the disk: what a power
        cut leaves of it, its checksum tells. Raises StellarError where it cannot be written, or while a request runs.
        """
        if not (trailer := self._trailer(adapters)):
            return 0

        def worth(count: int, size: int) -> bool:
            if count < _FEWEST or size + len(trailer) + _FOOTER.size > self._limit:
                return False
            return size <= _SMALL or (prompt_speed is not None and count / prompt_speed > 2 * size / _DISK)

        path = regular_target(self._path)
        temporary = partial_path(path)
        try:
            try:
                temporary.unlink(missing_ok=True)
                os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
                if not self._engine.save(temporary, tokens, adapters, worth):
                    return 0
                size = _seal(temporary, trailer)
                temporary.replace(path)
                return size
            finally:
                with suppress(OSError):
                    temporary.unlink(missing_ok=True)
        except OSError as error:
            raise explain(error, path, "write") from error

    def restore(self, tokens: Sequence[int], adapters: Adapters = ()) -> int:
        """Take up what the file has of these tokens; returns how many of them are in memory then.

        Where there is no file, or none that can be read, 0. One that is damaged, that another model, adapter, scale,
        type of cache, attention or version has made, or that has more tokens than the context, is removed. Raises
        StellarError only while a request runs, and if the engine is closed.
        """
        try:
            if not self._path.is_file():
                return 0
            trailer = self._trailer(adapters)
            if trailer and _is_sound(self._path, trailer):
                with suppress(StateError):
                    return self._engine.restore(self._path, tokens, adapters)
            self._path.unlink()
        except OSError:
            pass
        return 0

    def _trailer(self, adapters: Adapters) -> bytes:
        """All that decides what the model computes of given tokens, hashed, as JSON; b"" if that is not known.

        Of the files it is their content and time of change, not their place: one that is moved stays the same.
        """
        context = self._engine.context
        try:
            build = version("llama-cpp-python")
        except PackageNotFoundError:
            build = "unknown"
        try:
            stated = {
                "model": self._identity(context.model.header),
                "adapters": [[self._identity(adapter.header), float(scale)] for adapter, scale in adapters],
                "vocabulary": context.model.n_vocab,
                "kv": [context.kv_type, context.rotated, context.flash],
                "sequences": 1 if context.unified else context.sequences,
                "build": [build, platform.machine(), context.offloaded],
            }
        except StellarError:
            return b""
        digest = hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()
        return json.dumps({"version": 1, "fingerprint": digest}).encode()

    def _identity(self, header: Header) -> str:
        """A model's or adapter's file: size, time of change, the header's bytes and samples of the others.

        The time, since a training run may change few tensors, which samples can miss. A copy that has a new time is
        another file then: that costs computing once, where a mistake would cost wrong answers. Raises StellarError if
        the file is not the one that was loaded any more.
        """
        size, changed, digest = sampled(header.path)
        if (size, changed) != (header.file_size, header.changed):
            raise StellarError(f"{header.path} has changed since it was loaded")
        try:
            with header.path.open("rb") as file:
                head = hashlib.sha256(file.read(header.data_start)).hexdigest()
        except OSError as error:
            raise explain(error, header.path, "read") from error
        return f"{size} {changed} {digest} {head}"


def _seal(path: Path, trailer: bytes) -> int:
    """Add the trailer, and a checksum of all; returns the size of the whole."""
    with path.open("rb+") as file:
        checksum = 0
        while block := file.read(_BLOCK):
            checksum = zlib.crc32(block, checksum)
        file.write(trailer + _FOOTER.pack(zlib.crc32(trailer, checksum), len(trailer), _MAGIC))
        return file.tell()


def _is_sound(path: Path, trailer: bytes) -> bool:
    """Whether a file was written to its end with this trailer, and is as it was then. Raises OSError."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END) - _FOOTER.size
        if end < len(trailer):
            return False
        file.seek(end - len(trailer))
        stated = file.read(len(trailer))
        checksum, length, magic = _FOOTER.unpack(file.read(_FOOTER.size))
        if (stated, length, magic) != (trailer, len(trailer), _MAGIC):
            return False
        file.seek(0)
        found = 0
        while end and (block := file.read(min(_BLOCK, end))):
            found = zlib.crc32(block, found)
            end -= len(block)
        return bool(found == checksum)
