"""Files that a message is made of: their paths as people type them, and their text. Knows no commands."""

from __future__ import annotations

from pathlib import Path

from ..errors import StellarError
from ..files import expanded, is_there, read_text
from .state import Chat


def split_path(rest: str) -> tuple[Path, str]:
    """A path and what follows it. The path may be quoted, begin with ~, or, where that file exists, hold spaces."""
    whole = expanded(rest)
    if rest[:1] in ("'", '"') and (end := rest.find(rest[0], 1)) > 0:
        name, question = rest[1:end], rest[end + 1 :]
    elif rest and is_there(whole):
        return whole, ""
    else:
        name, _, question = rest.partition(" ")
    return expanded(name), question.strip()


def read_message_file(chat: Chat, path: Path) -> str:
    """The text of a file that is to be part of a message. Raises StellarError if it is none, or empty, or too long."""
    if not str(path) or str(path) == ".":
        raise StellarError(chat.texts("chat.no_file"))
    if is_there(path) and path.is_dir():
        raise StellarError(chat.texts("chat.is_folder", path=path))
    room = chat.runtime.engine.longest
    if is_there(path) and path.stat().st_size > 64 * room:  # bytes: no tokenizer makes that few tokens of text
        raise StellarError(chat.texts("chat.file_too_long", path=path, room=f"{room:,}"))
    text = read_text(path, chat.texts("chat.the_file")).strip("\n")
    if not text.strip():
        raise StellarError(chat.texts("chat.file_empty", path=path))
    if len(chat.runtime.model.tokenize(text)) >= room:
        raise StellarError(chat.texts("chat.file_too_long", path=path, room=f"{room:,}"))
    return text
