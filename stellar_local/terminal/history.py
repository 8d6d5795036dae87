"""What was typed in earlier chats: a file of one JSON string a line, which several processes may share.

Knows the file and prompt_toolkit's interface; knows nothing of terminals. A file that is no history stays as it is.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from prompt_toolkit.history import History

from ..errors import StellarError
from ..files import atomic_file, is_writable

KEPT = 10_000  # entries; a file with a tenth more is cut to them at the start
KEPT_BYTES = 16 << 20
DAMAGED = "damaged"


class MessageHistory(History):
    """Entries in memory, and in the file `path` while that can be used.

    `problem` says why the file is not used: "" if it is; DAMAGED if nothing in it is an entry; else the system's
    reason. A few lines that are no entries are passed over.
    """

    def __init__(self, path: Path | None) -> None:
        super().__init__()
        self._entries: list[str] = []  # oldest first
        self._path = path
        self.problem = ""
        if path is not None:
            self._with_file(self._read)

    async def load(self) -> AsyncGenerator[str, None]:
        for entry in self.load_history_strings():
            yield entry

    def load_history_strings(self) -> Iterable[str]:
        return reversed(self._entries)

    def get_strings(self) -> list[str]:
        return self._entries

    def append_string(self, string: str) -> None:
        """Remember an entry, unless it is empty or the same as the one before it."""
        if string and self._entries[-1:] != [string]:
            self._entries.append(string)
            self.store_string(string)

    def store_string(self, string: str) -> None:
        """Add an entry to the file, behind a line that a full disk may have cut."""

        def append(path: Path) -> None:
            with _alone(path) as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - 1))
                cut = file.read(1) not in (b"", b"\n")
                file.write(b"\n" * cut + _line(string))

        self._with_file(append)

    def _with_file(self, work: Callable[[Path], None]) -> None:
        """Use the file; from the first failure on, memory alone has to do."""
        if self._path is None:
            return
        try:
            work(self._path)
        except OSError as error:
            self._path, self.problem = None, (error.strerror or str(error)).lower()

    def _read(self, path: Path) -> None:
        if not path.exists():
            return
        if not path.is_file():  # opening a pipe would wait for ever
            raise OSError(0, "not a file")
        with suppress(OSError):  # a file system without permissions, or a file of somebody else
            path.chmod(0o600)
        lines = path.read_bytes().split(b"\n")
        self._entries = [entry for entry in map(_entry, lines) if entry]
        if not self._entries and any(lines):
            self._path, self.problem = None, DAMAGED
        elif len(self._entries) > 1.1 * KEPT or sum(map(len, lines)) > 1.1 * KEPT_BYTES:
            with suppress(StellarError):  # then it stays long
                _shorten(path)
        self._entries = self._entries[-KEPT:]


def _line(entry: str) -> bytes:
    """An entry as a line. Half a character, which UTF-8 cannot hold, becomes an escape as line breaks do."""
    return (json.dumps(entry, ensure_ascii=not is_writable(entry)) + "\n").encode("utf-8")


def _entry(line: bytes) -> str | None:
    """The entry on a line; None if there is none."""
    if not line.startswith(b'"'):
        return None
    with suppress(ValueError):
        return str(json.loads(line.decode("utf-8")))
    return None


def _shorten(path: Path) -> None:
    """Keep only the newest entries. Other processes that add some meanwhile wait, and then find the new file."""
    with _alone(path) as file:
        file.seek(0)
        kept: list[bytes] = []
        room = KEPT_BYTES
        for line in reversed(file.read().split(b"\n")):
            entry = _entry(line)
            room -= len(line)
            if entry and room >= 0 and len(kept) < KEPT:
                kept.append(_line(entry))
        with atomic_file(path) as temporary, temporary.open("wb") as out:
            temporary.chmod(0o600)
            out.write(b"".join(reversed(kept)))


@contextmanager
def _alone(path: Path) -> Iterator[IO[bytes]]:
    """The file, created for the user alone if it is missing, to read and append; locked where the system has locks.

    Raises OSError, also if another process holds the lock for half a second.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(20, "Not a directory") from error
    for _ in range(50):
        with open(path, "a+b", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            # Whoever shortened the file before we had the lock has put another one in its place.
            if _lock(file) and path.exists() and os.fstat(file.fileno()).st_ino == path.stat().st_ino:
                yield file
                return
        time.sleep(0.01)
    raise OSError(0, "another process holds it")


def _lock(file: IO[bytes]) -> bool:
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True
