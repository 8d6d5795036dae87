"""Answers in a real terminal, which moves rows when it is resized."""

from __future__ import annotations

import os
import random
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from screens import Screen

from stellar_local.render.markdown import MarkdownView

ANSWER = (Path(__file__).parent / "answer.md").read_text(encoding="utf-8")
FEEDER = """
import sys, time
from pathlib import Path
from stellar_local.render.markdown import answer_view
print("question\\nabove")
view, folder = answer_view("rich", sys.stdout), Path(sys.argv[1])
for number, piece in enumerate(sys.argv[2:]):
    while not (folder / str(number)).exists():
        time.sleep(0.005)
    view.feed(piece)
view.end()
print("END", flush=True)
time.sleep(60)
"""

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="no tmux here")


class Tmux:
    """A session in which an answer is fed piece by piece."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._next = folder, 0
        self._command = ["tmux", "-S", str(folder / "socket"), "-f", "/dev/null"]

    def run(self, *arguments: str) -> str:
        command, environ = [*self._command, *arguments], {**os.environ, "LC_ALL": "C.UTF-8"}
        return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=environ).stdout

    def start(self, pieces: list[str], columns: int, lines: int) -> None:
        parts = [sys.executable, "-c", FEEDER, str(self.folder), *pieces]
        shell = f"cd {shlex.quote(str(ROOT))}; exec {shlex.join(parts)}"
        self.run("-u", "new-session", "-d", "-x", str(columns), "-y", str(lines), shell)

    def feed(self, count: int) -> None:
        """Let so many more pieces come."""
        for _ in range(count):
            (self.folder / str(self._next)).touch()
            self._next += 1

    def rows(self, until: str) -> list[str]:
        """All rows, when a text has come."""
        for _ in range(200):
            shown = self.run("capture-pane", "-p", "-S", "-")
            if until in shown:
                return [row.rstrip() for row in shown.rstrip("\n").split("\n")]
            time.sleep(0.05)
        raise AssertionError(f"{until!r} did not come: {shown!r}")


@pytest.fixture
def tmux(tmp_path: Path) -> Iterator[Tmux]:
    session = Tmux(tmp_path)
    yield session
    session.run("kill-server")


@pytest.mark.parametrize("columns", [80, 40])
def test_an_answer_looks_as_it_does_to_pyte(tmux: Tmux, columns: int) -> None:
    cuts = sorted(random.Random(columns).sample(range(1, len(ANSWER)), 60))
    pieces = [ANSWER[a:b] for a, b in zip([0, *cuts], [*cuts, len(ANSWER)], strict=True)]
    tmux.start(pieces, columns, 24)
    tmux.feed(len(pieces))
    rows = tmux.rows("END")
    assert rows[:2] == ["question", "above"]
    screen = Screen(columns, 24)
    view = MarkdownView(screen, screen.size)
    view.feed(ANSWER)
    view.end()
    assert rows[2 : rows.index("END")] == screen.rows()[:-1]


@pytest.mark.parametrize("columns", [30, 100])
def test_a_resize_in_the_middle_of_a_block_loses_nothing(tmux: Tmux, columns: int) -> None:
    first = "A first paragraph which is **long** enough for two rows of sixty columns"
    tmux.start(["# Title\n\n", first, " and goes on.\n\n", "**bold** 恒星\n"], 60, 12)
    tmux.feed(2)
    tmux.rows("columns")
    tmux.run("resize-window", "-x", str(columns), "-y", "12")
    while f"{columns} " not in tmux.run("display-message", "-p", "#{pane_width} "):
        time.sleep(0.02)
    tmux.feed(2)
    shown = "".join(tmux.rows("END")).replace(" ", "")
    assert shown == f"question above Title {first} and goes on. bold 恒星 END".replace(" ", "")
