"""Terminals to run a program in: a pseudo-terminal drawn by an emulator, and a tmux server of its own.

The pseudo-terminal answers no question that a program asks it, as a slow line doesn't; tmux is a real terminal, which
marks pastes, wraps lines anew when it is resized and knows how wide characters are.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import struct
import subprocess
import tempfile
import time
from pathlib import Path

import pytest


class Pty:
    """A child in a pseudo-terminal, drawn by a terminal emulator. `output` is every byte that it has sent."""

    def __init__(
        self, argv: list[str], env: dict[str, str], cwd: Path, columns: int = 80, rows: int = 200, term: str = "xterm"
    ) -> None:
        import pty

        import pyte

        self.output = b""
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        self.pid, self.fd = pty.fork()
        if not self.pid:
            _set_size(0, columns, rows)
            os.chdir(cwd)
            os.execvpe(argv[0], argv, {**env, "TERM": term})

    def screen(self) -> str:
        """What is shown, without empty lines; a wide character is followed by an empty cell, which is left out."""
        return "\n".join(filter(None, (line.rstrip() for line in self._screen.display)))

    def cursor(self) -> tuple[int, int]:
        """The column and the row of the cursor, from 0."""
        return self._screen.cursor.x, self._screen.cursor.y

    def read(self, wait: float = 0.2) -> bool:
        """Draw what comes within so many seconds; false if nothing does."""
        if not select.select([self.fd], [], [], wait)[0]:
            return False
        try:
            data = os.read(self.fd, 65536)
        except OSError:  # the child has gone
            return False
        self.output += data
        self._stream.feed(data)
        return bool(data)

    def settle(self, quiet: float = 0.3) -> str:
        """Read until nothing comes for so many seconds; returns the screen."""
        while self.read(quiet):
            pass
        return self.screen()

    def wait_for(self, pattern: str, timeout: float = 60) -> str:
        """Read until the screen matches `pattern`; returns the screen."""
        deadline = time.monotonic() + timeout
        while not re.search(pattern, self.screen(), re.DOTALL):
            assert time.monotonic() < deadline, f"{pattern!r} is not shown:\n{self.screen()}"
            self.read()
        return self.screen()

    def type(self, text: str | bytes) -> None:
        os.write(self.fd, text.encode("utf-8") if isinstance(text, str) else text)

    def paste(self, text: str) -> None:
        """Paste as terminals do that mark pastes."""
        self.type("\x1b[200~" + text.replace("\n", "\r") + "\x1b[201~")

    def resize(self, columns: int, rows: int = 200) -> None:
        """Make the window another size: the child gets SIGWINCH. The emulator wraps nothing anew, it cuts."""
        self._screen.resize(rows, columns)
        _set_size(self.fd, columns, rows)

    def settings(self) -> list[object]:
        """The terminal's settings: input, output, control and local flags, speeds, control characters."""
        import termios

        return termios.tcgetattr(self.fd)

    def echoes(self) -> bool:
        import termios

        return bool(termios.tcgetattr(self.fd)[3] & termios.ECHO)

    def exit_code(self, timeout: float = 30) -> int:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            self.read(0.05)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                while self.read(0):
                    pass
                self.close()
                return os.waitstatus_to_exitcode(status)
        self.close()
        raise AssertionError(f"it did not end:\n{self.screen()}")

    def close(self) -> None:
        """End it, if it still runs."""
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        with contextlib.suppress(OSError):
            os.close(self.fd)


def _set_size(fd: int, columns: int, rows: int) -> None:
    import fcntl
    import termios

    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


class Tmux:
    """A window of a tmux server that nobody else uses. Skips the test where there is no tmux."""

    def __init__(self, env: dict[str, str], cwd: Path) -> None:
        if shutil.which("tmux") is None:
            pytest.skip("tmux is not installed")
        self._folder = Path(tempfile.mkdtemp(prefix="tmux-"))  # a socket's path must be short
        self._env = {name: value for name, value in env.items() if not name.startswith("TMUX")}
        self._cwd = cwd
        (self._folder / "options").write_text(
            "set -g remain-on-exit on\nset -g status off\nset -g default-terminal tmux-256color\n"
        )

    def _run(self, *arguments: str, input: str = "") -> str:
        command = ["tmux", "-u", "-S", str(self._folder / "socket"), "-f", str(self._folder / "options"), *arguments]
        done = subprocess.run(command, input=input.encode(), capture_output=True, env=self._env, cwd=self._cwd)
        assert not done.returncode, f"{arguments}: {done.stderr.decode()}"
        return done.stdout.decode("utf-8")

    def start(self, argv: list[str], columns: int = 80, rows: int = 50) -> None:
        """Run a program in the window."""
        # A shell stores the exit code: tmux does not always see that a child has ended. Ctrl-C is the child's alone.
        shell = ["sh", "-c", 'trap : INT; code=$1; shift; "$@"; echo $? > "$code"', "sh", str(self._folder / "code")]
        self._run("new-session", "-d", *self._size(columns, rows), *shell, *argv)

    @staticmethod
    def _size(columns: int, rows: int) -> list[str]:
        return ["-x", str(columns), "-y", str(rows)]

    def send(self, *keys: str) -> None:
        """Press keys, by tmux's names for them: Enter, C-c, M-Enter, Up."""
        self._run("send-keys", *keys)

    def type(self, text: str) -> None:
        self._run("send-keys", "-l", text)

    def paste(self, text: str) -> None:
        """Paste, marked if the program wants pastes marked."""
        self._run("load-buffer", "-", input=text)
        self._run("paste-buffer", "-p")

    def screen(self, styled: bool = False) -> str:
        """What is shown, without empty lines; with `styled`, colours too."""
        shown = self._run("capture-pane", "-p", *["-e"] * styled)
        return "\n".join(filter(None, (line.rstrip() for line in shown.split("\n"))))

    def cursor(self) -> tuple[int, int]:
        """The column and the row of the cursor, from 0."""
        column, row = self._run("display-message", "-p", "#{cursor_x} #{cursor_y}").split()
        return int(column), int(row)

    def wait_for(self, pattern: str, timeout: float = 60) -> str:
        """Wait until the screen matches `pattern`; returns the screen."""
        deadline = time.monotonic() + timeout
        while not re.search(pattern, shown := self.screen(), re.DOTALL):
            assert time.monotonic() < deadline, f"{pattern!r} is not shown:\n{shown}"
            time.sleep(0.05)
        return shown

    def settle(self, quiet: float = 0.4) -> str:
        """Wait until the screen stays the same for so many seconds; returns it."""
        shown = self.screen()
        while True:
            time.sleep(quiet)
            before, shown = shown, self.screen()
            if shown == before:
                return shown

    def resize(self, columns: int, rows: int = 50) -> None:
        self._run("resize-window", *self._size(columns, rows))

    def exit_code(self, timeout: float = 30) -> int:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            with contextlib.suppress(FileNotFoundError, ValueError):  # ended, and written to the end
                return int((self._folder / "code").read_text())
            time.sleep(0.05)
        raise AssertionError(f"it did not end:\n{self.screen()}")

    def kill_child(self) -> None:
        """Kill the program as nothing can be that it hears of."""
        shell = self._run("display-message", "-p", "#{pane_pid}").strip()
        children = Path(f"/proc/{shell}/task/{shell}/children").read_text().split()
        for child in children:
            os.kill(int(child), signal.SIGKILL)

    def kill(self) -> None:
        """End the server and what runs in it."""
        with contextlib.suppress(AssertionError):  # it never started
            self._run("kill-server")
        shutil.rmtree(self._folder, ignore_errors=True)
