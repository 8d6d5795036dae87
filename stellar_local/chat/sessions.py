"""Conversations that outlive the program: a file each, in a folder of the user's own.

Knows files: saving whole or not at all, who has a session open, what to do with a damaged one. The format is `saved`'s.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NoReturn

from ..errors import StellarError, UsageError
from ..files import atomic_file, exclusive, explain, partial_path
from ..records import escaped
from ..texts import Texts
from .saved import MOST_NAME_BYTES, InvalidSession, NewerSession, Session, name_fault, normal_name, now, seconds, whole


def sessions_folder() -> Path:
    """Where sessions are kept: $STELLAR_DATA/sessions, or sessions in the platform's folder for users' data."""
    if chosen := os.environ.get("STELLAR_DATA"):
        return Path(chosen) / "sessions"
    from platformdirs import user_data_path

    return user_data_path("stellar-local") / "sessions"


@dataclass(frozen=True)
class Summary:
    """A line of the list of sessions: `turns` counts them, `first` is the first question ("" without turns)."""

    name: str
    updated: str
    turns: int
    first: str
    model: str


class _Hold:
    """A session that this process has open, under the name that it has now."""

    def __init__(self, name: str, stack: ExitStack) -> None:
        self.name, self.stack = name, stack


class Store:
    """The sessions of one folder, which is made when it is needed and, like its files, is the user's alone.

    Names are taken without blanks at the ends and in Unicode's composed form. Methods that take one raise UsageError
    for a name that no session may have or that none has, and StellarError where the file system fails. `problems`
    tells, for the user, what was wrong with sessions that the last `summaries` or `last` left out.
    """

    def __init__(self, folder: Path, texts: Texts) -> None:
        self.folder, self._texts = folder, texts
        self.problems: list[str] = []
        self._holds: list[_Hold] = []

    def checked(self, name: str) -> str:
        """The name in the form that sessions use. Raises UsageError where a file of that name could leave the folder,
        hide in it, or not exist on another system.
        """
        good = normal_name(name)
        if fault := name_fault(good):
            reason = self._texts(fault, most=MOST_NAME_BYTES)
            raise UsageError(
                self._texts("sessions.name_wrong", name=f"{good[:40]!r}", reason=reason),
                self._texts("sessions.name_hint", most=MOST_NAME_BYTES),
            )
        return good

    def exists(self, name: str) -> bool:
        """Whether there is a session of this name, however it is written."""
        return os.path.lexists(self._path(self.checked(name)))

    def names(self) -> list[str]:
        """All names, those of the files changed last first. Opens no file."""
        return [name for _, name in self._found()]

    def summaries(self) -> list[Summary]:
        """What /sessions shows, newest first. Damaged sessions are set aside, and told of in `problems`."""
        self.problems = []
        found = filter(None, (self._readable(name) for _, name in self._found()))
        return [
            Summary(one.name, one.updated, len(one.turns), one.turns[0].question if one.turns else "", one.model)
            for one in sorted(found, key=lambda one: seconds(one.updated), reverse=True)
        ]

    def last(self) -> str | None:
        """The readable session that was saved last; None where there is none."""
        self.problems = []
        best: tuple[float, str] | None = None
        for changed, name in self._found():
            # A file is never older than the time that it states, so that those that follow cannot be newer.
            if best and changed < best[0] - 1:
                break
            session = self._readable(name)
            if session and (best is None or seconds(session.updated) > best[0]):
                best = seconds(session.updated), name
        return best[1] if best else None

    def load(self, name: str) -> Session:
        """Read a session. A damaged one is set aside as NAME.json.damaged, or .damaged.1 and so on, and StellarError
        says so; one that a later version saved is refused and left where it is.
        """
        name = self.checked(name)
        try:
            return self._read(name)
        except NewerSession as error:
            raise StellarError(self._texts("sessions.newer", name=name), self._texts("sessions.newer_hint")) from error
        except InvalidSession as damage:
            reason = self._texts(damage.key, **damage.values)
            raise StellarError(self._set_aside(name, reason), self._texts("sessions.damaged_hint")) from damage

    def save(self, session: Session) -> None:
        """Write a session, whole or not at all, and stamp it as updated now. A killed process leaves the old file."""
        session.name = self.checked(session.name)
        session.updated = now()
        data = escaped(whole(json.dumps(session.record(), ensure_ascii=False, allow_nan=False))).encode("utf-8") + b"\n"
        self._make_folder()
        with atomic_file(self._path(session.name)) as temporary:
            temporary.unlink(missing_ok=True)  # what a killed process left
            with open(temporary, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as handle:
                handle.write(data)

    def rename(self, old: str, new: str) -> None:
        """Give a session another name, its KV cache too. If this process has it open, it stays open under the new one.

        Raises StellarError for a name that is taken, and for a session that is open elsewhere.
        """
        old, new = self.checked(old), self.checked(new)
        source, target = self._path(old), self._path(new)
        self._require(old)
        if old == new:
            return
        same = target.exists() and target.samefile(source)  # where case makes no difference
        with ExitStack() as stack:
            hold = next((hold for hold in self._holds if hold.name == old), None)
            if hold is None:
                self._acquire(old, stack)
            if not same:
                self._require_free(new)
                self._acquire(new, stack)
                self._require_free(new)  # another process may have taken it before it was ours
            self._move(source, target)
            if self.kv_path(old).exists():
                self._move(self.kv_path(old), self.kv_path(new))
            elif not same:
                self._remove(self.kv_path(new))  # left by a killed process
            if hold is not None:
                if not same:
                    hold.stack.close()
                    hold.stack = stack.pop_all()
                hold.name = new

    def delete(self, name: str) -> None:
        """Remove a session and its KV cache. Raises StellarError if another process has it open."""
        name = self.checked(name)
        self._require(name)
        with ExitStack() as stack:
            if all(hold.name != name for hold in self._holds):
                self._acquire(name, stack)
            cache, path = self.kv_path(name), self._path(name)
            for file in (cache, partial_path(cache), partial_path(path), path):
                self._remove(file)

    def new_name(self) -> str:
        """A name for a new session, from the local time: 2026-11-24-1632, with -2 and so on where that is taken."""
        stem = datetime.now().strftime("%Y-%m-%d-%H%M")
        name, number = stem, 1
        while any(file.exists() for file in (self._path(name), self.kv_path(name), self._lock_path(name))):
            number += 1
            name = f"{stem}-{number}"
        return name

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Have a session open while the block runs. Raises StellarError if another process has.

        A session that was never saved can be locked as well. The system frees the lock of a killed process.
        """
        name = self.checked(name)
        with ExitStack() as stack:
            self._acquire(name, stack)
            hold = _Hold(name, stack.pop_all())
        self._holds.append(hold)
        try:
            yield
        finally:
            self._holds.remove(hold)
            hold.stack.close()

    def kv_path(self, name: str) -> Path:
        """Where the KV cache of a session lies."""
        return self.folder / f"{self.checked(name)}.kv"

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def _lock_path(self, name: str) -> Path:
        return self.folder / f".{name}.lock"

    def _acquire(self, name: str, stack: ExitStack) -> None:
        self._make_folder()
        try:
            stack.enter_context(exclusive(self._lock_path(name), self._path(name)))
        except StellarError as error:
            if not isinstance(error.__cause__, BlockingIOError):
                raise
            raise StellarError(
                self._texts("sessions.open_elsewhere", name=name), self._texts("sessions.open_elsewhere_hint")
            ) from error

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            if isinstance(error, FileExistsError):
                error = NotADirectoryError(20, "Not a directory")
            raise explain(error, self.folder, "write to") from error

    def _found(self) -> list[tuple[float, str]]:
        """When each session's file was changed, and its name, the newest first."""
        found = []
        try:
            with os.scandir(self.folder) as entries:
                for entry in entries:
                    name, _, suffix = entry.name.rpartition(".")
                    if suffix == "json" and name == normal_name(name) and not name_fault(name):
                        with suppress(FileNotFoundError):  # removed meanwhile
                            found.append((entry.stat(follow_symlinks=False).st_mtime, name))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise explain(error, self.folder, "read") from error
        return sorted(found, reverse=True)

    def _readable(self, name: str) -> Session | None:
        try:
            return self.load(name)
        except StellarError as error:
            self.problems.append(error.message)
            return None

    def _read(self, name: str) -> Session:
        path = self._path(name)
        self._require(name)
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise InvalidSession("sessions.no_file")
            record = json.loads(path.read_bytes().decode("utf-8-sig"), parse_constant=_refuse)
        except PermissionError as error:
            raise InvalidSession("sessions.unreadable") from error
        except OSError as error:
            raise explain(error, path, "read") from error
        except (ValueError, RecursionError) as error:
            raise InvalidSession("sessions.not_json") from error
        return Session.of(record, name)

    def _require(self, name: str) -> None:
        if not self.exists(name):
            raise UsageError(self._texts("sessions.missing", name=name), self._texts("sessions.missing_hint"))

    def _require_free(self, name: str) -> None:
        if self.exists(name):
            raise UsageError(self._texts("sessions.exists", name=name), self._texts("sessions.exists_hint", name=name))

    def _set_aside(self, name: str, reason: str) -> str:
        """Move a damaged session out of the way, and say so. One that another process has open is left to it."""
        path, number = self._path(name), 0
        target = path.with_name(f"{name}.json.damaged")
        while os.path.lexists(target):
            number += 1
            target = path.with_name(f"{name}.json.damaged.{number}")
        try:
            with ExitStack() as stack:
                if all(hold.name != name for hold in self._holds):
                    self._acquire(name, stack)
                self._move(path, target)
        except StellarError as error:
            return self._texts("sessions.damaged_stays", name=name, reason=reason, why=error.message)
        with suppress(StellarError):
            self._remove(self.kv_path(name))
        return self._texts("sessions.damaged", name=name, reason=reason, file=target)

    @staticmethod
    def _move(source: Path, target: Path) -> None:
        try:
            source.replace(target)
        except OSError as error:
            raise explain(error, source, "rename") from error

    @staticmethod
    def _remove(path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise explain(error, path, "remove") from error


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")
