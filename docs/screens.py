"""Draws the pictures of `stellar chat` in the READMEs: `make demo`, then `python docs/screens.py`. Needs tmux.

A real chat runs in tmux at 80 columns, with the demo's model; what its screen shows is written as SVG. Nothing is
retouched, so the answers are the model's own.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
COLUMNS, ROWS = 80, 24
TOOLBAR = "/help"
# What is typed in each picture: "…" waits until the answer is there.
SCENES = {
    "en": ["Who are you?", "What is a light-year?", "/context", "/set temp"],
    "zh": ["你是谁？", "什么是光年？", "/context", "/set temp"],
}
# rich's own frame would fetch fonts from a server.
_FRAME = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">
<style>
.{unique_id}-matrix {{ font-family: Menlo, Consolas, "DejaVu Sans Mono", "Noto Sans Mono CJK SC", monospace;
  font-size: {char_height}px; line-height: {line_height}px; white-space: pre; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal"><rect width="{terminal_width}" height="{terminal_height}"/></clipPath>
{lines}</defs>
<rect width="{width}" height="{height}" rx="8" fill="#0c0c0c"/>
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


class Screen:
    """A tmux server of its own with one window."""

    _servers = itertools.count()  # a server that is going away would take a new window with it

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        self._socket = f"stellar-screens-{os.getpid()}-{next(self._servers)}"
        size = ["-x", str(COLUMNS), "-y", str(ROWS)]
        variables = [part for name, value in env.items() for part in ("-e", f"{name}={value}")]
        self._tmux("-f", os.devnull, "new-session", "-d", *size, *variables, *command)

    def _tmux(self, *arguments: str) -> str:
        command = ["tmux", "-L", self._socket, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8").stdout

    def type(self, text: str, enter: bool = True) -> None:
        self._tmux("send-keys", "-l", text)
        if enter:
            self._tmux("send-keys", "Enter")

    def shown(self, colours: bool = False) -> str:
        return self._tmux("capture-pane", "-p", *(["-e"] if colours else []))

    def settle(self, seconds: float = 1.0, most: float = 90.0) -> None:
        """Wait until it asks for input (then its toolbar is there), and nothing has changed for a while."""
        ends, before, since = time.monotonic() + most, "", time.monotonic()
        while time.monotonic() - since < seconds:
            if time.monotonic() > ends:
                raise SystemExit("the screen does not settle")
            now = self.shown()
            if now != before or TOOLBAR not in now:
                before, since = now, time.monotonic()
            time.sleep(0.1)

    def close(self, most: float = 10.0) -> None:
        """End the server, and wait until what ran in it has ended as well: until then it writes to its folder."""
        running, ends = int(self._tmux("list-panes", "-F", "#{pane_pid}")), time.monotonic() + most
        self._tmux("kill-server")
        with contextlib.suppress(ProcessLookupError):
            while time.monotonic() < ends:
                os.kill(running, 0)
                time.sleep(0.05)


def draw(screen: str, path: Path) -> None:
    """Write a screen, with its colours as escape sequences, as SVG."""
    console = Console(record=True, width=COLUMNS, file=Path(os.devnull).open("w"), force_terminal=True)  # noqa: SIM115
    for line in screen.rstrip("\n").split("\n"):
        console.print(Text.from_ansi(line), no_wrap=True, overflow="ignore", crop=False)
    svg = console.export_svg(title="", theme=MONOKAI, code_format=_FRAME, unique_id="chat")
    path.write_text(re.sub(r"[ \t]+$", "", svg, flags=re.MULTILINE), encoding="utf-8", newline="\n")


def main(model: Path, folder: Path) -> None:
    """Draw each scene's picture into a folder."""
    with tempfile.TemporaryDirectory() as data:
        for language, lines in SCENES.items():
            options = ["--temperature", "0", "--max-tokens", "120", "--ui-lang", language]
            command = [sys.executable, "-m", "stellar_local.cli", "chat", str(model), *options]
            env = {"STELLAR_DATA": str(Path(data) / language), "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"}
            screen = Screen(command, env)
            try:
                screen.settle()
                for line in lines[:-1]:
                    screen.type(line)
                    screen.settle()
                screen.type(lines[-1], enter=False)
                screen.settle()
                draw(screen.shown(colours=True), folder / f"chat-{language}.svg")
            finally:
                screen.close()


if __name__ == "__main__":
    main(
        Path(sys.argv[1] if len(sys.argv) > 1 else "demo/model"),
        Path(sys.argv[2] if len(sys.argv) > 2 else ROOT / "docs"),
    )
