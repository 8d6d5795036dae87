"""Where a chat reads and writes: a terminal with line editing, or plain streams. Knows nothing of models.

Answers go to stdout with control sequences made harmless; everything else goes to stderr.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Protocol

from ..console import printable, say


class Terminal(Protocol):
    """What the chat loop needs of its surroundings."""

    interactive: bool

    def read(self) -> str | None:
        """The next message; None at the end of input. Ctrl-C gives an empty message."""

    def write(self, text: str) -> None:
        """Show a piece of an answer at once."""

    def end_answer(self) -> None:
        """An answer is complete."""

    def note(self, text: str) -> None:
        """Tell the user something that is no answer."""


class _Output:
    """The output side that all terminals share."""

    def write(self, text: str) -> None:
        sys.stdout.write(printable(text))
        sys.stdout.flush()

    def end_answer(self) -> None:
        self.write("\n")

    def note(self, text: str) -> None:
        say(text)


class PlainTerminal(_Output):
    """Lines from stdin, for pipes and scripts: no prompt, no editing."""

    interactive = False

    def read(self) -> str | None:
        line = sys.stdin.readline()
        return line.rstrip("\r\n") if line else None


class PromptTerminal(_Output):
    """Line editing by prompt_toolkit: history within the session, completion of commands, whole pastes."""

    interactive = True

    def __init__(self, commands: Sequence[str]) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import WordCompleter

        completer = WordCompleter(list(commands), sentence=True)  # whole input: only a leading slash completes
        self._session: PromptSession[str] = PromptSession("> ", completer=completer, complete_while_typing=False)

    def read(self) -> str | None:
        try:
            return self._session.prompt()
        except KeyboardInterrupt:
            return ""
        except EOFError:
            return None


def open_terminal(commands: Sequence[str]) -> Terminal:
    """The terminal for this process: with editing if both ends are one, else plain lines."""
    if sys.stdin.isatty() and sys.stdout.isatty():
        return PromptTerminal(commands)
    return PlainTerminal()
