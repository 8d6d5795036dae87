"""Commands on saved sessions, and on what leaves the chat: export, clipboard."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from ..console import fitted
from ..errors import StellarError
from ..files import expanded, is_there
from .clipboard import copy
from .export import export, read_export
from .reading import split_path
from .saved import Session, local_time, name_fault, normal_name
from .sessions import Store
from .state import Chat
from .table import command, files, number

_SHOWN = 20  # sessions in the list


def _store(chat: Chat) -> Store:
    if chat.store is None:
        raise StellarError(chat.texts("chat.private"))
    return chat.store


def _names(chat: Chat, words: list[str]) -> Iterable[str]:
    return chat.store.names() if chat.store and len(words) == 1 else []


@command("/save", "[NAME]")
def _save(chat: Chat, rest: str) -> None:
    """Save now; with a name, go on under it, and what is saved under the old one stays."""
    store = _store(chat)
    if not rest and not chat.conversation.turns:
        raise StellarError(chat.texts("chat.nothing_to_save"))
    chat.saving = True
    name = store.checked(rest) if rest else ""
    if name and (chat.session is None or name != chat.session.name):
        if store.exists(name):
            raise StellarError(chat.texts("sessions.exists", name=name))
        chat.begin(name)
    if not chat.save():
        raise StellarError(chat.texts("chat.unsaved"))
    if chat.session is not None:
        chat.terminal.note(chat.texts("chat.saved", name=chat.session.name, folder=store.folder))


@command("/load", "NAME|FILE", lambda chat, words: [*_names(chat, words), *files(".json")(chat, words)])
def _load(chat: Chat, rest: str) -> None:
    """Go on with another session; or with a conversation from an exported file, in a session of its own."""
    store = _store(chat)
    if not rest:
        raise StellarError(chat.texts("chat.load_what"))
    if chat.unsaved and not chat.save():
        raise StellarError(chat.texts("chat.unsaved"))
    if name_fault(normal_name(rest)) is None and store.exists(rest):
        if chat.session is None or chat.session.name != normal_name(rest):
            chat.keep_memory()
            chat.open_session(normal_name(rest))
    else:
        path, _ = split_path(rest)
        if not is_there(path):
            raise StellarError(chat.texts("chat.no_session", name=rest), chat.texts("chat.see_sessions"))
        session = read_export(path, chat.texts)
        if not session.turns:
            raise StellarError(chat.texts("chat.no_turns_in", path=path))
        chat.leave_session()
        # Its model, adapters and settings are another machine's, perhaps another person's.
        chat.adopt(Session("", system=session.system, turns=session.turns), keep=("template", "lora"))
        chat.save()
    chat.tell_resumed()


@command("/sessions")
def _sessions(chat: Chat, rest: str) -> None:
    store = _store(chat)
    found = store.summaries()
    for one in found[:_SHOWN]:
        mark = "*" if chat.session and chat.session.name == one.name else " "
        turns = chat.texts("chat.turns", count=one.turns)
        chat.terminal.note(
            f"{mark} {one.name}  {local_time(one.updated)}  {turns}  {fitted(' '.join(one.first.split()), 40)}"
        )
    if len(found) > _SHOWN:
        chat.terminal.note(chat.texts("chat.more_sessions", count=len(found) - _SHOWN))
    if not found:
        chat.terminal.note(chat.texts("chat.no_sessions"))
    for problem in store.problems:
        chat.terminal.note(problem)
    chat.terminal.note(chat.texts("chat.sessions_folder", folder=store.folder))


@command("/rename", "NAME")
def _rename(chat: Chat, rest: str) -> None:
    store = _store(chat)
    if not rest:
        raise StellarError(chat.texts("chat.rename_what"))
    chat.save()
    if chat.session is None:
        raise StellarError(chat.texts("chat.nothing_to_save"))
    store.rename(chat.session.name, rest)  # its lock goes along
    chat.session.name = store.checked(rest)
    chat.terminal.note(chat.texts("chat.renamed", name=rest))


@command("/delete", "NAME", _names)
def _delete(chat: Chat, rest: str) -> None:
    store = _store(chat)
    if not rest:
        raise StellarError(chat.texts("chat.delete_what"))
    if chat.session and normal_name(rest) == chat.session.name:
        raise StellarError(chat.texts("chat.session_open"))
    store.delete(rest)
    chat.terminal.note(chat.texts("chat.deleted", name=rest))


@command("/export", "FILE [md|json|sharegpt] [force]", files(".md", ".json"))
def _export(chat: Chat, rest: str) -> None:
    words = rest.split(" ")
    force = words[-1] == "force" and len(words) > 1
    words = words[:-1] if force else words
    kind = words.pop() if len(words) > 1 and words[-1] in ("md", "json", "sharegpt") else None
    name = " ".join(words)
    path = split_path(name)[0] if name[:1] in ("'", '"') else expanded(name)
    if not name:
        raise StellarError(chat.texts("chat.no_file"))
    if not chat.conversation.turns:
        raise StellarError(chat.texts("chat.no_turns"))
    export(chat.as_session(), path, chat.texts, kind, force)
    chat.terminal.note(chat.texts("chat.exported", path=path))


@command("/copy", "[N]")
def _copy(chat: Chat, rest: str) -> None:
    """The last answer, or the N-th from the end, goes to the clipboard."""
    turns = chat.conversation.turns
    back = number(chat, rest, 1)
    if not 0 < back <= len(turns):
        raise StellarError(
            chat.texts("chat.no_turns") if not turns else chat.texts("chat.no_such_turn", number=rest, count=len(turns))
        )
    text = turns[-back].answer
    way = copy(text, sys.stdout if sys.stdout.isatty() else sys.stderr, chat.texts)
    chat.terminal.note(chat.texts("chat.copied", count=f"{len(text):,}", way=way))
