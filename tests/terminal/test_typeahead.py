"""Keys typed while an answer streams, in pseudo-terminals."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from terminals import Pty

if sys.platform == "win32":
    pytest.skip("there are no such settings here", allow_module_level=True)

import pty
import termios

from stellar_local.terminal.typeahead import kept


@pytest.fixture
def ends() -> Iterator[tuple[int, int]]:
    """The two ends of a pseudo-terminal: ours, and the program's."""
    ours, theirs = pty.openpty()
    yield ours, theirs
    os.close(ours)
    os.close(theirs)


def test_only_what_must_change_changes_and_comes_back(ends: tuple[int, int]) -> None:
    ours, theirs = ends
    before = termios.tcgetattr(theirs)
    before[0] |= termios.IXON | termios.ICRNL
    termios.tcsetattr(theirs, termios.TCSANOW, before)
    with kept(theirs, theirs):
        during = termios.tcgetattr(theirs)
    assert termios.tcgetattr(theirs) == before
    assert before[0] ^ during[0] == termios.ICRNL
    assert before[3] ^ during[3] == termios.ECHO | termios.ICANON | termios.NOFLSH
    assert during[3] & termios.ISIG
    assert [*before[1:3], *before[4:6]] == [*during[1:3], *during[4:6]]
    keys = [bytes([key]) if isinstance(key, int) else key for key in during[6]]
    assert keys[termios.VQUIT] == b"\0"  # Ctrl-\ is no way out of an answer
    keys[termios.VQUIT] = before[6][termios.VQUIT]
    assert [*map(bytes, before[6])] == keys


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_it_comes_back_however_the_block_ends(error: type[BaseException], ends: tuple[int, int]) -> None:
    before = termios.tcgetattr(ends[1])
    with pytest.raises(error), kept(ends[1], ends[1]):
        raise error
    assert termios.tcgetattr(ends[1]) == before


def test_keys_wait_unseen(ends: tuple[int, int]) -> None:
    ours, theirs = ends
    with kept(theirs, theirs):
        os.write(ours, "问题\r".encode())
        assert select.select([theirs], [], [], 5)[0]  # they have come
    shown = b""
    while select.select([ours], [], [], 0.2)[0]:
        shown += os.read(ours, 100)
    assert shown == b"\x1b[?2004h\x1b[?2004l"  # pastes are marked meanwhile; nothing of the keys
    settings = termios.tcgetattr(theirs)
    settings[3] &= ~termios.ICANON
    termios.tcsetattr(theirs, termios.TCSANOW, settings)
    assert os.read(theirs, 100).decode() == "问题\r"


def test_without_a_terminal_nothing_happens() -> None:
    read, write = os.pipe()
    with kept(read, write):
        pass
    os.close(write)
    assert os.read(read, 100) == b""
    os.close(read)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Pty]:
    """An interactive shell, which has jobs, and a program that keeps keys for a while: python keep.py SECONDS."""
    (tmp_path / "keep.py").write_text(
        "import sys, time\nfrom stellar_local.terminal.typeahead import kept\n"
        "with kept(0, 1):\n    print('be' + 'gun')\n    time.sleep(float(sys.argv[1]))\nprint('do' + 'ne')\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PS1": "$ ", "PYTHONUNBUFFERED": "1"}
    made = Pty(["bash", "--norc", "--noediting", "-i"], env, tmp_path)
    made.wait_for(r"\$$")
    yield made
    made.close()


def test_ctrl_z_gives_the_shell_its_terminal_and_fg_takes_it_again(shell: Pty) -> None:
    shell.type(f"{sys.executable} keep.py 2\r")
    shell.wait_for("begun")
    assert not shell.echoes()
    shell.type("\x1a")
    shell.wait_for(r"Stopped.*\n\$$")
    assert shell.echoes()
    shell.type("fg\r")
    shell.wait_for(r"\$ fg\n.*keep.py")
    shell.settle(0.1)
    assert not shell.echoes()
    shell.wait_for(r"done\n\$$")
    assert shell.echoes()


def test_in_the_background_it_touches_nothing(shell: Pty) -> None:
    shell.type(f"{sys.executable} keep.py 0.3 &\r")
    shell.wait_for("begun")
    assert shell.echoes()
    shell.wait_for("done")
    assert shell.echoes()
    assert b"Stopped" not in shell.output
    shell.type("\r")
    shell.wait_for(r"Done .*keep.py")


def test_moved_to_the_background_it_leaves_the_terminal_to_the_shell(shell: Pty) -> None:
    shell.type(f"{sys.executable} keep.py 1\r")
    shell.wait_for("begun")
    shell.type("\x1a")
    shell.wait_for(r"Stopped.*\n\$$")
    shell.type("bg\r")
    shell.wait_for("done")
    assert shell.echoes()
    shell.type("echo seen\r")
    shell.wait_for(r"echo seen\nseen")
