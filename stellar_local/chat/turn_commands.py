"""Commands on the turns of the conversation: take back, answer again, go on, edit, look at them."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import StellarError
from .answering import answer, ask
from .reading import read_message_file, split_path
from .saved import SavedTurn
from .state import Chat
from .table import command, files, number

_SHOWN_LINES = 4  # of each question and answer in the list of all


def _turn_numbers(chat: Chat, words: list[str]) -> Iterable[str]:
    return [str(number) for number in range(1, len(chat.conversation.turns) + 1)] if len(words) == 1 else []


@command("/clear")
def _clear(chat: Chat, rest: str) -> None:
    name = chat.session.name if chat.session else ""
    chat.conversation.clear()
    chat.leave_session()
    chat.terminal.note(chat.texts("chat.cleared_saved", name=name) if name else chat.texts("chat.cleared"))


@command("/undo", "[N]")
def _undo(chat: Chat, rest: str) -> None:
    gone = chat.conversation.undo(number(chat, rest, 1))
    chat.save()
    chat.terminal.note(chat.texts("chat.undone", count=len(gone), question=_first_line(gone[0].question)))


@command("/regen")
def _regenerate(chat: Chat, rest: str) -> None:
    answer(chat, chat.conversation.regenerate())


@command("/continue")
def _continue(chat: Chat, rest: str) -> None:
    answer(chat, chat.conversation.go_on())


@command("/edit", "[N [TEXT]]", _turn_numbers, types=True)
def _edit(chat: Chat, rest: str) -> None:
    """Without a number, the editor writes the next message; with one, that turn's question, which is asked again."""
    which, _, text = rest.partition(" ")
    if not which:
        chat.draft = chat.terminal.edit("") or ""
        return
    at = _index(chat, which)
    question = chat.conversation.turns[at].question
    edited = text.strip() or chat.terminal.edit(question)
    if edited is None or not edited.strip() or (edited == question and not text):
        chat.terminal.note(chat.texts("chat.unchanged"))
        return
    answer(chat, chat.conversation.ask(edited.strip(), at))


@command("/history", "[N]", _turn_numbers)
def _history(chat: Chat, rest: str) -> None:
    turns = chat.conversation.turns
    if not turns:
        chat.terminal.note(chat.texts("chat.no_turns"))
    elif rest:
        at = _index(chat, rest)
        chat.terminal.note(_told(chat, at + 1, turns[at], 0))
    else:
        for place, turn in enumerate(turns, 1):
            if place == chat.conversation.dropped + 1 and place > 1:
                chat.terminal.note(chat.texts("chat.left_out_above"))
            chat.terminal.note(_told(chat, place, turn, _SHOWN_LINES))


@command("/read", "FILE [QUESTION]", files())
def _read(chat: Chat, rest: str) -> None:
    """A file's text comes before the question; without one, before the next message."""
    path, question = split_path(rest)
    text = read_message_file(chat, path)
    chat.attached.append(text)
    if question:
        try:
            ask(chat, question)
        except StellarError:
            chat.attached.pop()  # else the next message would fail on it again
            raise
    else:
        count = len(chat.runtime.model.tokenize(text))
        chat.terminal.note(chat.texts("chat.read", path=path, tokens=f"{count:,}"))


def _index(chat: Chat, text: str) -> int:
    """A turn's number, from 1, or from -1 backwards, as an index. Raises StellarError."""
    count, place = len(chat.conversation.turns), number(chat, text, 0)
    at = place - 1 if place > 0 else count + place
    if not place or not 0 <= at < count:
        raise StellarError(chat.texts("chat.no_such_turn", number=text, count=count))
    return at


def _told(chat: Chat, place: int, turn: SavedTurn, most: int) -> str:
    ending = {"cancelled": chat.texts("chat.interrupted"), "length": chat.texts("chat.cut")}.get(turn.finish, "")
    answer = turn.answer.strip() + (f" {ending}" if ending else "")
    return "\n".join([f"{place}. > {_head(turn.question, most)}", _indented(_head(answer, most))])


def _head(text: str, most: int) -> str:
    lines = text.strip().splitlines() or [""]
    return "\n".join([*lines[:most], "…"] if most and len(lines) > most else lines)


def _indented(text: str) -> str:
    return "\n".join(f"   {line}" for line in text.splitlines())


def _first_line(text: str) -> str:
    line = (text.strip().splitlines() or [""])[0]
    return line[:60] + ("…" if len(line) > 60 else "")
