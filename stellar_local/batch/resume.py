"""The --out file: opened for one process, appended to line by line, and gone on with after whatever ended the last run.

Knows files and records; knows no model. Memory: 4 bytes for each line of the input that the file covers.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..console import say
from ..errors import StellarError
from ..files import atomic_file, exclusive, explain, regular_target
from ..records import Identifier
from .fields import Item
from .reader import Shard

_BEGINNING = b'{"id": '  # of each of our lines, and so of one that was cut
_MOST_LINES = 1 << 28
_COMPARED = 16  # answers whose prompts are compared with the input's


class Done:
    """Which lines of the input a file has already: a checksum of each one's id by its index.

    Of the first answers it knows the prompts' tokens: `differs` tells another input by them where ids are line numbers.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._marks = path, array("I")
        self._prompts: dict[int, int] = {}
        self.count = self.failed = 0

    def add(self, record: Mapping[str, Any]) -> bool:
        """Note a record; False if its line is there already."""
        index = record["index"]
        if index >= len(self._marks):
            room = max(index + 1, 2 * len(self._marks))
            self._marks.frombytes(bytes(4 * (room - len(self._marks))))
        if self._marks[index]:
            return False
        self._marks[index] = _mark(record["id"])
        self.count += 1
        self.failed += "error" in record
        if len(self._prompts) < _COMPARED and isinstance(size := _prompt_tokens(record), int):
            self._prompts[index] = size
        return True

    def differs(self, item: Item, tokens: Callable[[Item], int]) -> None:
        """Raise StellarError if this line, which the file has, does not come to as many `tokens` as it did then."""
        size = self._prompts.pop(item.index, None)
        if size is not None and not item.error and tokens(item) != size:
            raise StellarError(
                f"{self._path} was made from another input: line {item.index + 1} has a prompt of another length",
                "give the input, model, template and system line it was made with, or another name with --out",
            )

    def has(self, item: Item) -> bool:
        """Whether the file has this line. Raises StellarError if it has another id there."""
        mark = self._marks[item.index] if item.index < len(self._marks) else 0
        if mark and mark != _mark(item.id):
            raise StellarError(
                f"{self._path} was made from another input: line {item.index + 1} has another id there",
                "give the input it was made from, or another name with --out",
            )
        return bool(mark)

    def check(self, items: Iterable[Item]) -> None:
        """Compare with the input, as far as the file goes. Raises StellarError where they differ."""
        left = self.count
        if not left:
            return
        for item in items:
            left -= self.has(item)
            if not left:
                return
        raise StellarError(
            f"{self._path} was made from another input: it has {self.count} lines that this one lacks",
            "give the input it was made from, or another name with --out",
        )


def _prompt_tokens(record: Mapping[str, Any]) -> Any:
    usage = record.get("usage")
    return usage.get("prompt_tokens") if isinstance(usage, dict) else None


def _mark(id: Identifier) -> int:
    """A checksum of an id, never 0."""
    kind = "t" if isinstance(id, str) else "n"
    return zlib.crc32(f"{kind}{id}".encode("utf-8", "surrogatepass")) | 1 << 31


class OutFile(io.RawIOBase):
    """The file, appended to. A line that cannot be written whole is taken back, so that the file stays whole."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path, self._descriptor = path, descriptor

    def writable(self) -> bool:
        return True

    def write(self, line: Any, /) -> int:
        """Append one line. Raises StellarError."""
        before, view = os.fstat(self._descriptor).st_size, memoryview(line)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except BaseException as error:
            with suppress(OSError):
                os.ftruncate(self._descriptor, before)
            if isinstance(error, OSError):
                raise explain(error, self._path, "write") from error
            raise
        return len(line)


@dataclass
class _Found:
    """What a scan came to: the bytes of whole records, those of a cut last line, and the number of errors."""

    whole: int = 0
    cut: int = 0
    errors: int = 0


@contextmanager
def out_file(
    path: Path, shard: Shard, check: Callable[[Done], None], resume: bool = False, retry: bool = False
) -> Iterator[tuple[OutFile, Done]]:
    """Open `path` for this process alone: (the file, what it has). What was written is on the disk when the block ends.

    With `resume` a file may have lines already, and a cut last one is cut off; with `retry` error records are taken
    out, so that their lines are run again. Nothing is changed unless the file is one of ours and `check` passes.
    Raises StellarError.
    """
    path = regular_target(path)
    with exclusive(path.with_name(f".{path.name}.stellar-lock"), path):
        done, existed = Done(path), path.exists()
        try:
            if existed:
                if path.stat().st_size and not resume:
                    raise StellarError(
                        f"{path} exists and is not empty", "add --resume to go on with it, or choose another name"
                    )
                found = _scan(path, shard, done, retry)
                check(done)
                _mend(path, found, retry)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
        except OSError as error:
            raise explain(error, path, "write") from error
        failed = True
        try:
            yield OutFile(path, descriptor), done
            failed = False
        finally:
            try:
                os.fsync(descriptor)
                empty = os.fstat(descriptor).st_size == 0
            except OSError as error:
                raise explain(error, path, "write") from error
            finally:
                os.close(descriptor)
            if failed and empty and not existed:
                path.unlink(missing_ok=True)


def _scan(path: Path, shard: Shard, done: Done, retry: bool) -> _Found:
    """Read the file once and note its lines in `done`. Raises StellarError for what is no record of this shard."""
    found = _Found()
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            record = _record(line)
            if record is None:
                if not file.read(1) and _is_cut(line):
                    found.cut = len(line)
                    return found
                raise StellarError(
                    f"line {number} of {path} is no answer of stellar batch",
                    "mend or remove that line, or choose another name with --out",
                )
            found.whole += len(line)
            if not shard.holds(record["index"]):
                raise StellarError(
                    f"line {number} of {path} belongs to another share of the input",
                    "give the --shard that it was made with, or another name with --out",
                )
            if retry and "error" in record:
                found.errors += 1
            elif not done.add(record):
                raise StellarError(
                    f"{path} has line {record['index'] + 1} of the input twice (again on its own line {number})",
                    "remove one of them, or choose another name with --out",
                )
    return found


def _json(line: bytes) -> Any:
    """A whole line's JSON; None if it has no end or is none."""
    if not line.endswith(b"\n"):
        return None
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _record(line: bytes) -> dict[str, Any] | None:
    """A line of the file as a record; None if it is none."""
    record = _json(line)
    if not isinstance(record, dict) or not {"id", "index"} < record.keys() or not {"text", "error"} & record.keys():
        return None
    index, id = record["index"], record["id"]
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < _MOST_LINES:
        return None
    return None if isinstance(id, bool) or not isinstance(id, (str, int)) else record


def _is_cut(line: bytes) -> bool:
    """Whether a file's last line is what a killed run or a lost disk block leaves of one of ours."""
    begun = line.rstrip(b"\0\n")  # some file systems leave zeros after a loss of power
    return _json(line) is None and (begun.startswith(_BEGINNING) or _BEGINNING.startswith(begun))


def _mend(path: Path, found: _Found, retry: bool) -> None:
    """Cut off what is no whole record; take out errors that are to be tried again."""
    if found.cut:
        say(f"{path}: the last line was cut and is run again")
    if retry and found.errors:
        with atomic_file(path) as temporary, path.open("rb") as old, temporary.open("wb") as new:
            left = found.whole
            for line in old:
                left -= len(line)
                if left < 0:
                    break
                if "error" not in json.loads(line):
                    new.write(line)
            shutil.copymode(path, temporary)
        say(f"{path}: {found.errors} errors are tried again")
    elif found.cut:
        os.truncate(path, found.whole)
