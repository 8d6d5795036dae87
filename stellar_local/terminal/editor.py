"""Text in the user's own editor. Knows processes and the terminal's settings, no models."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO

from ..errors import StellarError
from ..texts import Texts

_USUAL = ("vi", "nano", "notepad")
_AGE = 10  # seconds that the file is older than it is, so that any writing shows in its time


def edit(text: str, texts: Texts, screen: IO[str]) -> str:
    """`text` as it is after the editor has saved it and ended well. Raises StellarError, in the language of `texts`.

    The editor is $VISUAL or $EDITOR, which may have arguments, else vi, nano or notepad. It gets a .md file in a folder
    of its own that nobody else may read and that goes afterwards; `screen` is the terminal it draws on.
    """
    try:
        command = _command()
    except ValueError as error:
        raise StellarError(texts("input.editor_malformed", reason=error)) from error
    if not command:
        raise StellarError(texts("input.editor_none"))
    name = Path(command[0]).name
    folder: Path | None = None
    try:
        folder = Path(tempfile.mkdtemp(prefix="stellar-"))
        file = folder / "message.md"
        file.touch(mode=0o600)
        file.write_bytes((text and text + "\n").encode("utf-8", "replace"))
        os.utime(file, (time.time() - _AGE,) * 2)
        before = _state(file)
        try:
            with _settings_restored():
                code = _run([*command, str(file)], screen)
        except OSError as error:
            raise StellarError(texts("input.editor_missing", name=name, reason=_reason(error))) from error
        if code:
            raise StellarError(texts("input.editor_failed", name=name, code=code))
        if _state(file) == before:
            raise StellarError(texts("input.editor_unsaved"))
        edited = file.read_bytes()
        try:
            return edited.decode("utf-8-sig").replace("\r\n", "\n").removesuffix("\n")
        except UnicodeDecodeError as error:
            folder = None  # it holds the only copy
            raise StellarError(texts("input.editor_no_utf8", path=file)) from error
    except OSError as error:
        raise StellarError(texts("input.editor_no_file", reason=_reason(error))) from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _command() -> list[str]:
    """The editor's command line; empty if there is none. Raises ValueError for a quote that is not closed."""
    for variable in ("VISUAL", "EDITOR"):
        if words := shlex.split(os.environ.get(variable, ""), posix=os.name != "nt"):
            return [word.strip('"') for word in words] if os.name == "nt" else words
    return [found for found in _USUAL if shutil.which(found)][:1]


def _state(file: Path) -> tuple[int, ...]:
    found = file.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _run(command: list[str], screen: IO[str]) -> int:
    """Run the editor and wait for it. Ctrl-C is its affair meanwhile; if we are to end, it ends first."""
    with _interrupts_ignored():
        process = subprocess.Popen(command, stdout=screen, stderr=screen)
        try:
            return process.wait()
        except BaseException:
            process.terminate()  # it puts the screen in order
            try:
                process.wait(2)
            except subprocess.TimeoutExpired:
                process.kill()
            raise


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """While the block runs, SIGINT does nothing here, but ends a child as usual: that inherits SIG_IGN, no function."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def nothing(number: int, frame: FrameType | None) -> None:
        pass

    before = signal.signal(signal.SIGINT, nothing)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _settings_restored() -> Iterator[None]:
    """Put the terminal's settings back as they were, whatever the editor leaves."""
    if sys.platform == "win32":
        yield
        return
    import termios

    try:
        before = termios.tcgetattr(sys.stdin)
    except (termios.error, ValueError):  # no terminal; no file descriptor
        yield
        return
    try:
        yield
    finally:
        with suppress(termios.error):  # it has hung up
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
