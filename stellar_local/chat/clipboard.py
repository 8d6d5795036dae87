"""The clipboard: by the desktop's own tool, by tmux, or by asking the terminal (OSC 52), which works over ssh too.

Knows which tools there are and when each is the right one. A text reaches them on stdin, never through a shell.
Untested where we have none: macOS and Windows.
"""

from __future__ import annotations

import base64
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TextIO

from ..console import printable
from ..errors import StellarError
from ..texts import Texts

OSC_52 = "OSC 52"  # the way whose success nobody hears of: a terminal may ignore it
_MOST_BYTES = 74_994  # in OSC 52: terminals that have a limit take sequences of 100,000 bytes, and base64 is 4 for 3
# Windows' programs read stdin in the code page of the machine, and clip.exe guesses; base64 is the same in all of them.
_POWERSHELL = (
    "Set-Clipboard -Value ([Text.Encoding]::UTF8.GetString([Convert]::FromBase64String([Console]::In.ReadToEnd())))"
)


@dataclass(frozen=True)
class _Tool:
    """A program that puts its stdin into the clipboard; `seconds` is how long it may take."""

    name: str
    command: tuple[str, ...]
    seconds: float = 5.0
    base64: bool = False


_WAYLAND = _Tool("wl-copy", ("wl-copy", "--type", "text/plain;charset=utf-8"))
_X11 = (
    _Tool("xclip", ("xclip", "-selection", "clipboard", "-in")),
    _Tool("xsel", ("xsel", "--clipboard", "--input")),
)
_MAC = _Tool("pbcopy", ("pbcopy",))
_WINDOWS = _Tool("PowerShell", ("powershell.exe", "-NoProfile", "-NonInteractive", "-Command", _POWERSHELL), 20.0, True)
_TMUX = _Tool("tmux", ("tmux", "load-buffer", "-w", "-"))  # -w: the terminal's clipboard as well, since tmux 3.2


def copy(text: str, out: TextIO, texts: Texts) -> str:
    """Put a text into the clipboard, made safe as what is shown is; gives the way: "wl-copy", "xclip", "xsel",
    "pbcopy", "PowerShell", "tmux" or OSC_52.

    `out` is the terminal that is asked where there is no tool. Raises StellarError where there is no way at all.
    """
    data = printable(text).encode("utf-8", "replace")
    failed = []
    for tool in _tools(os.environ):
        if path := shutil.which(tool.command[0]):
            if _feed((path, *tool.command[1:]), base64.b64encode(data) if tool.base64 else data, tool.seconds):
                return tool.name
            failed.append(tool.name)
    if _asks(out, os.environ):
        if len(data) > _MOST_BYTES:
            raise StellarError(
                texts("clipboard.too_long", size=f"{len(data):,}", most=f"{_MOST_BYTES:,}"),
                texts("clipboard.too_long_hint"),
            )
        out.write(f"\x1b]52;c;{base64.b64encode(data).decode('ascii')}\a")
        out.flush()
        return OSC_52
    if failed:
        raise StellarError(texts("clipboard.failed", tools=", ".join(failed)), texts("clipboard.hint"))
    raise StellarError(texts("clipboard.none"), texts("clipboard.hint"))


def _tools(environ: Mapping[str, str]) -> Iterator[_Tool]:
    """The tools that reach the clipboard of whoever sits here; over ssh, the machine's own screen is not theirs."""
    remote = any(environ.get(name) for name in ("SSH_CONNECTION", "SSH_CLIENT", "SSH_TTY"))
    display = environ.get("DISPLAY", "")
    if environ.get("WAYLAND_DISPLAY") and not remote:
        yield _WAYLAND
    if display and not (remote and display.startswith(":")):  # ssh -X gives a host's name before the colon
        yield from _X11
    if sys.platform == "darwin" and not remote:
        yield _MAC
    if (sys.platform == "win32" or environ.get("WSL_DISTRO_NAME")) and not remote:
        yield _WINDOWS
    if environ.get("TMUX"):
        yield _TMUX


def _asks(out: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether `out` is a terminal that may know OSC 52; the Linux console shows it, and screen swallows it."""
    return out.isatty() and environ.get("TERM", "") not in ("", "dumb", "linux") and not environ.get("STY")


def _feed(command: tuple[str, ...], data: bytes, seconds: float) -> bool:
    """Run a program with `data` on its stdin; whether it ended well in time.

    What it leaves in the background, as xclip must while its text can be pasted, holds no pipe of ours, and Ctrl-C in
    the chat does not reach it.
    """
    environ = {**os.environ, "LC_CTYPE": "UTF-8"} if sys.platform == "darwin" else None  # which pbcopy goes by
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=environ,
        )
    except OSError:
        return False
    try:
        process.communicate(data, seconds)
        return process.returncode == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        if process.poll() is None:
            _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a program and what it started."""
    with suppress(OSError):
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin is not None:
        with suppress(OSError):
            process.stdin.close()
