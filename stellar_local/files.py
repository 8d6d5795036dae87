"""Files that appear complete or not at all, and folders checked before long work starts.

Knows the file system's failures and their wording; knows nothing of what the files hold.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import ModelError, StellarError, UsageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PARTIAL_SUFFIX = ".partial"
_SAMPLES, _SAMPLE = 16, 1 << 16


def explain(error: OSError, path: Path | str, doing: str) -> StellarError:
    """Turn an operating-system error into a sentence; `doing` is a verb phrase such as "write"."""
    reason = error.strerror or str(error)
    hint = {
        "No space left on device": "free some space there or choose another folder",
        "Disk quota exceeded": "free some space there or choose another folder",
        "File too large": "raise the limit on the size of files, or choose a folder on another file system",
        "Permission denied": "change its permissions"
        if doing == "read"
        else "choose a folder you may write to, or change its permissions",
        "Read-only file system": "choose a folder on a writable file system",
        "No such file or directory": "check the path",
        "Is a directory": "give the path of a file",
        "Directory not empty": "choose another folder, or remove that one",
        "Not a directory": "a part of this path is a file; choose another path",
    }.get(reason, "")
    return StellarError(f"cannot {doing} {path}: {reason[:1].lower() + reason[1:]}", hint)


def real(path: Path) -> Path:
    """The path without links, as far as they lead anywhere: Path.resolve raises for links that go in a circle."""
    return Path(os.path.realpath(path))


def own_name(folder: Path) -> str:
    """A folder's own name, links resolved, as text that can be stored: bytes that are no UTF-8 become ?."""
    return folder.resolve().name.encode("utf-8", "replace").decode("utf-8")


def partial_path(path: Path) -> Path:
    """Where the unfinished form of `path` lives: beside it, so that the final rename is atomic."""
    return path.with_name(path.name + PARTIAL_SUFFIX)


@contextmanager
def exclusive(lock: Path, what: Path) -> Iterator[None]:
    """Hold the file `lock` while the block runs, so that no two processes write `what` at once.

    Raises StellarError if another one does. The system frees the lock of a killed process. Where there are no such
    locks (Windows), nothing is held.
    """
    if fcntl is None:
        yield
        return
    try:
        handle = lock.open("a")
    except OSError as error:
        raise explain(error, what, "write to") from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The file may have been removed by the process that held it, after we opened it.
            if not lock.exists() or os.fstat(handle.fileno()).st_ino != lock.stat().st_ino:
                raise BlockingIOError
        except OSError as error:
            if isinstance(error, BlockingIOError):
                raise StellarError(f"another process is writing to {what}", "wait for it, or stop it") from error
            yield  # a file system without locks
            return
        try:
            yield
        finally:
            with suppress(OSError):
                if not lock.stat().st_size:  # else it is a file of the user's that had our lock's name
                    lock.unlink()


def files_below(folder: Path) -> list[Path]:
    """All files below a folder, sorted, hidden ones and those that Excel leaves beside an open workbook excepted.

    Raises StellarError for a folder that cannot be listed: what is in it must not go missing unnoticed.
    """

    def refuse(error: OSError) -> None:
        raise explain(error, error.filename or folder, "read") from error

    found = []
    for root, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith((".", "~$"))]
        found += [Path(root, name) for name in names if not name.startswith((".", "~$"))]
    return sorted(path for path in found if path.is_file())


def regular_target(path: Path) -> Path:
    """Where writing to `path` ends up: a symbolic link is followed. Raises StellarError for what is no regular file."""
    try:
        there = path.exists()
    except (OSError, ValueError) as error:
        found = error if isinstance(error, OSError) else OSError(22, "No file can have this name")
        raise explain(found, path, "write") from error
    if path.is_dir():
        raise explain(IsADirectoryError(21, "Is a directory"), path, "write")
    if there and not path.is_file():  # asked before a link is followed: /dev/stdout leads to no path
        raise StellarError(f"cannot write {path}: it is a device or a pipe", "give the path of a file")
    return Path(os.path.realpath(path)) if path.is_symlink() else path


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write; on success it is flushed to disk and renamed to `path`.

    On any exception the temporary file is removed and `path` is untouched. A symbolic link is written through.
    Raises StellarError for operating-system errors, for a `path` that is no regular file, and where another process is
    writing to it: two that write one temporary file would mix what they write.
    """
    path = regular_target(path)
    temporary = partial_path(path)
    try:
        with _held(temporary, path):
            try:
                yield temporary
                with temporary.open("rb+") as handle:
                    os.fsync(handle.fileno())
                temporary.replace(path)
            except BaseException:
                with suppress(OSError):
                    temporary.unlink()
                raise
    except OSError as error:
        raise explain(error, path, "write") from error


@contextmanager
def _held(temporary: Path, path: Path) -> Iterator[None]:
    """Create `temporary` and hold a lock on it, which the system frees when a process is killed."""
    with temporary.open("ab") as handle:
        if fcntl is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Between our opening it and the lock, another process may have renamed it to `path`.
                if not temporary.exists() or os.fstat(handle.fileno()).st_ino != temporary.stat().st_ino:
                    raise BlockingIOError
            except BlockingIOError as error:
                raise StellarError(f"another process is writing to {path}", "wait for it, or stop it") from error
            except OSError:
                pass  # a file system without locks
        yield


def atomic_text(path: Path, text: str) -> None:
    """Write UTF-8 text to `path`, whole or not at all; newlines stay as they are on every platform."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(text.encode("utf-8"))


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a fresh temporary folder; on success it becomes `path`, which must be absent or an empty folder.

    A temporary folder left by a killed run is removed first. Raises StellarError.
    """
    temporary = partial_path(path)
    try:
        try:
            if temporary.exists():
                shutil.rmtree(temporary)
            temporary.mkdir(parents=True)
            yield temporary
            if path.is_dir():
                path.rmdir()
            temporary.replace(path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    except OSError as error:
        raise explain(error, path, "write") from error


def ensure_folder(path: Path) -> Path:
    """Create the folder `path` if needed and prove that it can be written to, before long work starts."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".write-test-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        if isinstance(error, FileExistsError):
            error = NotADirectoryError(20, "Not a directory")
        raise explain(error, path, "write to") from error
    return path


def expanded(text: str) -> Path:
    """A path as a person types it, with ~ for a home folder; as it is where nobody has that name."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def is_there(path: Path) -> bool:
    """Whether a path leads to something: not where it could be none, as it is too long or holds a NUL."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def require_file(path: Path, what: str, hint: str = "") -> Path:
    """Return `path` if it is a readable file, else raise ModelError naming `what` it should have been."""
    if not is_there(path):
        raise ModelError(f"{what} not found: {path}", hint or "check the path")
    if not path.is_file():
        raise ModelError(f"{what} is not a file: {path}", hint)
    if not os.access(path, os.R_OK):
        raise ModelError(f"{what} cannot be read: {path}", "check its permissions")
    return path


def require_folder(path: Path, what: str, hint: str = "") -> Path:
    """Return `path` if it is a folder, else raise UsageError or ModelError naming `what`."""
    if not path.exists():
        raise ModelError(f"{what} not found: {path}", hint or "check the path")
    if not path.is_dir():
        raise UsageError(f"{what} is not a folder: {path}", hint)
    return path


def read_text(path: Path, what: str, errors: str = "strict") -> str:
    """Read a UTF-8 text file (a byte-order mark is dropped). Raises StellarError, also for what is no file.

    `errors` is as in bytes.decode: what to do with bytes that are no UTF-8.
    """
    try:
        if is_there(path) and not path.is_file() and not path.is_dir():  # a device or a pipe may never end
            raise StellarError(f"{what} is not a file: {path}", "give the path of a file")
        return path.read_bytes().decode("utf-8-sig", errors)
    except UnicodeDecodeError as error:
        raise StellarError(f"{what} is not UTF-8 text: {path} (byte {error.start})", "save it as UTF-8") from error
    except (FileNotFoundError, ValueError) as error:
        raise StellarError(f"{what} not found: {path}", "check the path") from error
    except OSError as error:
        raise explain(error, path, "read") from error


def is_writable(text: str) -> bool:
    """Whether UTF-8 can hold a text: escapes in JSON and YAML, and names of files, can give half a character."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def sampled(path: Path) -> tuple[int, int, str]:
    """What a large file is known by without reading all of it: size, time of change in nanoseconds, and the SHA-256 of
    16 blocks of 64 KiB from the beginning to the end. Raises StellarError.
    """
    digest = hashlib.sha256()
    try:
        status = path.stat()
        with path.open("rb") as file:
            for number in range(_SAMPLES):
                file.seek(max(0, status.st_size - _SAMPLE) * number // (_SAMPLES - 1))
                digest.update(file.read(_SAMPLE))
    except OSError as error:
        raise explain(error, path, "read") from error
    return status.st_size, status.st_mtime_ns, digest.hexdigest()


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, as 64 hexadecimal digits, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
