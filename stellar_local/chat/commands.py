"""The slash commands, in one table that also makes /help and completion. Knows conversations, no terminal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..session import Conversation
from .terminal import Terminal


@dataclass(frozen=True)
class Command:
    """One command: what it does to the conversation, and its line in /help."""

    run: Callable[[Conversation, Terminal], None]
    help: str


class Leave(Exception):
    """Raised by the command that ends the chat."""


COMMANDS: dict[str, Command] = {}


def _command(name: str, help: str) -> Callable[[Callable[[Conversation, Terminal], None]], None]:
    def add(run: Callable[[Conversation, Terminal], None]) -> None:
        COMMANDS[name] = Command(run, help)

    return add


@_command("/help", "show this list")
def _help(conversation: Conversation, terminal: Terminal) -> None:
    for name, command in COMMANDS.items():
        terminal.note(f"  {name:<8} {command.help}")
    terminal.note("  Ctrl-C   stop an answer, or clear the line; Ctrl-D leaves")


@_command("/clear", "forget the conversation, begin anew")
def _clear(conversation: Conversation, terminal: Terminal) -> None:
    conversation.clear()
    terminal.note("[the conversation is cleared]")


@_command("/exit", "leave")
def _exit(conversation: Conversation, terminal: Terminal) -> None:
    raise Leave


def run_command(line: str, conversation: Conversation, terminal: Terminal) -> None:
    """Run a line that begins with a slash; an unknown command is answered with a hint. Raises Leave."""
    name = line.split()[0]
    command = COMMANDS.get(name.lower())
    if command:
        command.run(conversation, terminal)
    else:
        terminal.note(f"unknown command {name}; /help lists them")
