"""The machine and its Python as they say of themselves, and other programs run with a time limit.

Knows the operating system's words; judges nothing. macOS and Windows were never tried.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

_TIMEOUT = 20.0  # seconds for a program of the system; nvidia-smi takes some on a machine with many cards
_GRACE = 2.0  # seconds for a killed process to go; one that a driver holds never does
_X86, _ARM = "x86_64", "aarch64"
_NAMES = {"amd64": _X86, "x86_64": _X86, "x64": _X86, "arm64": _ARM, "aarch64": _ARM}


@dataclass(frozen=True)
class Ran:
    """What a program left: its exit code (None: it had to be killed at the time limit), stdout and stderr as text."""

    code: int | None
    out: str
    err: str = ""


def run(
    argv: Sequence[str], timeout: float = _TIMEOUT, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Ran | None:
    """Run a program to its end, or to the limit in seconds; None if it cannot be started.

    It writes to files and not to pipes: one that cannot even be killed, or whose children live on, must not hold us up.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            child = subprocess.Popen(
                list(argv), stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=env, cwd=cwd, start_new_session=True
            )
        except (OSError, ValueError):
            return None
        try:
            code: int | None = child.wait(timeout)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(child)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode("utf-8", "replace"))
        return Ran(code, *texts)


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill a process that still runs, with its children, and wait a moment for it."""
    if child.poll() is not None:
        return
    with suppress(OSError):
        if os.name == "nt":
            child.kill()
        else:
            os.killpg(child.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        child.wait(_GRACE)


def tool(name: str, *arguments: str, elsewhere: Sequence[str] = ()) -> Ran | None:
    """Run a program of the system, found on the PATH or at one of the other places, in English; None: it is absent."""
    path = shutil.which(name) or next((place for place in elsewhere if os.access(place, os.X_OK)), None)
    return run([path, *arguments], env={**os.environ, "LC_ALL": "C"}) if path else None


@dataclass(frozen=True)
class Machine:
    """`system` is Linux, Darwin or Windows; `arch` x86_64, aarch64 or what the system calls it. `libc` is "glibc 2.36",
    "musl", or "" where neither is. `translated`: x86 Python on Apple Silicon.
    """

    system: str
    arch: str
    python: tuple[int, int, int]
    bits: int = 64
    libc: str = ""
    translated: bool = False
    container: bool = False
    wsl: bool = False
    release: str = ""

    @property
    def apple_silicon(self) -> bool:
        return self.system == "Darwin" and (self.arch == _ARM or self.translated)

    @property
    def wheels(self) -> bool:
        """Whether llama-cpp-python's GPU wheels exist for this kind of machine: x86_64, not musl; macOS: arm64."""
        if self.system == "Darwin":
            return self.arch == _ARM
        return self.arch == _X86 and self.libc != "musl"

    @cached_property
    def interpreter(self) -> str:
        """This Python as a shell takes it."""
        return subprocess.list2cmdline([sys.executable]) if self.system == "Windows" else shlex.quote(sys.executable)


def this_machine() -> Machine:
    """The machine that this runs on."""
    system = platform.system()
    return Machine(
        system,
        _NAMES.get(platform.machine().lower(), platform.machine()),
        sys.version_info[:3],
        64 if sys.maxsize > 1 << 32 else 32,
        c_library(platform.libc_ver(), Path("/lib")) if system == "Linux" else "",
        system == "Darwin" and _translated(tool("sysctl", "-n", "sysctl.proc_translated")),
        in_container(),
        "microsoft" in platform.release().lower(),
        platform.release() if system != "Darwin" else platform.mac_ver()[0],
    )


def _translated(ran: Ran | None) -> bool:
    """Whether macOS says that it translates this process from x86 (sysctl.proc_translated; absent on Intel Macs)."""
    return ran is not None and ran.out.strip() == "1"


def c_library(version: tuple[str, str], folder: Path) -> str:
    """The C library, by what Python knows of itself, and by whether musl's loader lies in `folder`."""
    name, number = version
    if name == "glibc":
        return f"glibc {number}".strip()
    return "musl" if name == "musl" or any(folder.glob("ld-musl-*")) else ""


def in_container(root: Path = Path("/")) -> bool:
    """Whether this is a container, by what Docker, Podman and Kubernetes leave there."""
    if (root / ".dockerenv").exists() or (root / "run" / ".containerenv").exists():
        return True
    try:
        groups = (root / "proc" / "1" / "cgroup").read_text()
    except OSError:
        return False
    return bool(re.search(r"docker|kubepods|containerd|lxc", groups))


def old_gcc(version: Ran | None, banner: Ran | None) -> bool:
    """Whether the compiler is a GCC before 14, by `cc -dumpversion` and `cc --version`; the Makefile asks the same."""
    if version is None or version.code != 0 or (banner is not None and "clang" in banner.out):
        return False
    major = version.out.strip().partition(".")[0]
    return major.isdigit() and int(major) < 14
