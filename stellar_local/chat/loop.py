"""The chat loop: read a message or a command and run it, until the input ends. Knows the terminal's interface only."""

from __future__ import annotations

from ..errors import StellarError
from . import about_commands, model_commands, session_commands, turn_commands  # noqa: F401 - they fill the table
from .answering import ask
from .dialogue import NoModel
from .state import Chat
from .table import COMMANDS, GROUPS, Leave, is_command, message, run_command

__all__ = ["COMMANDS", "GROUPS", "run"]  # the table, which is full once this module is imported


def run(chat: Chat) -> None:
    """Run until the input ends or /exit. A failed turn or command is reported and the chat goes on.

    Without a person at the keyboard, what fails ends it: a script must know.
    """
    terminal = chat.terminal
    while True:
        try:
            chat.count()
            draft, chat.draft = chat.draft, ""
            line = terminal.read(draft)
            if line is None:
                return
            if not line.strip():  # as Ctrl-C leaves it; in BayLing's own chat an empty line ended all
                continue
            if is_command(line):
                run_command(chat, line)
            else:
                ask(chat, message(line))
        except Leave:
            return
        except KeyboardInterrupt:  # in a command, such as the loading of a model, or just after an answer
            if not terminal.interactive:
                raise
            terminal.note(chat.texts("chat.interrupted"))
        except StellarError as error:
            if not terminal.interactive or isinstance(error, NoModel):
                raise
            terminal.note(f"[{chat.said(error)}]")
