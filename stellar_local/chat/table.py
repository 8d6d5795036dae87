"""The table of commands: it makes /help, completion and the docs, and runs them. The commands are in modules of theirs.

Knows how a line names a command; knows nothing of what any of them does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass

from ..errors import StellarError
from ..files import expanded
from ..terminal.terminal import Suggestion
from ..texts import Texts
from .state import Chat

Run = Callable[[Chat, str], None]
Complete = Callable[[Chat, list[str]], Iterable[str]]  # the words so far, the last one unfinished → words for its place

GROUPS = ("turn", "model", "session", "about")  # in which /help and the docs show the commands

_ALIASES = {  # what other tools and BayLing's own chat call them
    "q": "/clear",
    "!reset": "/clear",
    "/reset": "/clear",
    "!exit": "/exit",
    "/quit": "/exit",
    "/bye": "/exit",
    "/q": "/exit",
    "/?": "/help",
    "/retry": "/regen",
    "/regenerate": "/regen",
}


class Leave(Exception):
    """Raised by the command that ends the chat."""


@dataclass(frozen=True)
class Command:
    """One command: its name, its arguments as /help shows them, what it does, and what completes its arguments."""

    name: str
    arguments: str
    run: Run
    complete: Complete
    group: str  # one of GROUPS
    types: bool = False  # whether it needs the keyboard while it runs

    @property
    def usage(self) -> str:
        return f"{self.name} {self.arguments}".rstrip()

    def help(self, texts: Texts) -> str:
        """What it does, in one line."""
        return texts(f"command.{self.name[1:]}")


COMMANDS: dict[str, Command] = {}


def nothing(chat: Chat, words: list[str]) -> Iterable[str]:
    """Completes nothing."""
    return ()


def command(name: str, arguments: str = "", complete: Complete = nothing, types: bool = False) -> Callable[[Run], Run]:
    """A decorator that puts a function into the table. It gets the chat and the rest of the line, stripped."""

    def add(run: Run) -> Run:
        COMMANDS[name] = Command(
            name, arguments, run, complete, run.__module__.rpartition(".")[2].partition("_")[0], types
        )
        return run

    return add


def is_command(line: str) -> bool:
    """Whether a line is a command and no message. Of several lines, such as a paste, only one that begins with the name
    of a command is: code and paths may begin with a slash too.
    """
    if line.strip() in _ALIASES:
        return True
    name = line.split(maxsplit=1)[0].lower() if line.strip() else ""
    return line.startswith("/") and (name in COMMANDS or ("\n" not in line.strip() and not line.startswith("//")))


def message(line: str) -> str:
    """What a line says that is no command: `//` at its beginning is how a message begins with a slash."""
    return (line[1:] if re.match(r"//[^\s/]", line) and "\n" not in line.strip() else line).strip()


def run_command(chat: Chat, line: str) -> None:
    """Run a line that is a command. Raises Leave, and StellarError for what the command refuses."""
    name, _, rest = line.strip().partition(" ")
    name = name.partition("\n")[0].lower()
    found = COMMANDS.get(_ALIASES.get(name, name))
    if found is None:
        close = [one for one in COMMANDS if one.startswith(name[:3])]
        raise StellarError(
            chat.texts("chat.unknown", name=name), chat.texts("chat.similar", names=", ".join(close or ["/help"]))
        )
    rest = line.strip()[len(name) :].strip()
    if rest and not found.arguments:
        raise StellarError(chat.texts("chat.no_argument", name=found.name))
    with nullcontext() if found.types else chat.terminal.answering():
        found.run(chat, rest)


def suggestions(chat: Chat, line: str) -> list[Suggestion]:
    """What may stand at the end of a line that begins with a slash."""
    if not is_command(line) or "\n" in line:
        return []
    words = line.split(" ")
    if len(words) == 1:
        return [
            Suggestion(name, len(line), f"{one.arguments}  {one.help(chat.texts)}".strip())
            for name, one in COMMANDS.items()
            if name.startswith(line.lower())
        ]
    found = COMMANDS.get(words[0].lower())
    if found is None:
        return []
    begun = words[-1]
    return [Suggestion(word, len(begun)) for word in found.complete(chat, words[1:]) if word.startswith(begun)]


def files(*suffixes: str) -> Complete:
    """Completes paths of folders and of files that end so; all files where no suffix is given."""

    def complete(chat: Chat, words: list[str]) -> Iterable[str]:
        if len(words) > 1:
            return []
        head, _, _ = words[0].rpartition("/")
        folder = expanded(head + "/" if head or words[0].startswith("/") else ".")
        try:
            entries = sorted(folder.iterdir())
        except (OSError, ValueError):
            return []
        prefix = words[0][: len(words[0]) - len(words[0].rpartition("/")[2])]
        return [
            prefix + entry.name + ("/" if entry.is_dir() else "")
            for entry in entries
            if not entry.name.startswith(".") and (entry.is_dir() or not suffixes or entry.name.endswith(suffixes))
        ]

    return complete


def number(chat: Chat, text: str, default: int) -> int:
    """A command's whole number, which may be left out. Raises StellarError."""
    if not text:
        return default
    try:
        return int(text)
    except ValueError:
        raise StellarError(chat.texts("chat.no_number", text=text)) from None
