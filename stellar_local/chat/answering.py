"""One answer from question to session: shown as it comes, stopped by Ctrl-C, kept, counted and saved."""

from __future__ import annotations

from ..errors import StellarError
from .conversation import Overflow, Reply
from .state import Chat

_PATIENCE = 0.3  # seconds until the first piece, after which the reading of the prompt is shown


def ask(chat: Chat, text: str) -> None:
    """Send a message, behind the files that were read for it, and show the answer.

    Raises RequestError if it does not fit; the files then stay for the next try.
    """
    message = "\n\n".join([*chat.attached, text])
    answer(chat, chat.conversation.ask(message))
    chat.attached.clear()


def answer(chat: Chat, reply: Reply) -> None:
    """Show a reply as it comes, keep it, save the session.

    Ctrl-C stops the answer and keeps what came; without a person at the keyboard it is passed on, and so is the end
    of the program, once what came is saved.
    """
    terminal = chat.terminal
    ending: BaseException | None = None
    _tell_overflow(chat, reply, 0)
    told = len(reply.overflows)
    interrupted = False
    with terminal.answering():
        try:
            _show_reading(chat, reply)
            for piece in reply:
                terminal.write(piece)
        except (KeyboardInterrupt, SystemExit) as stop:
            ending = stop
        except StellarError:
            terminal.progress("")
            terminal.end_answer()
            raise
        if ending is not None:
            interrupted = True
            reply.cancel()
            for piece in reply:
                terminal.write(piece)
        terminal.end_answer()
    _tell_overflow(chat, reply, told)
    chat.last = reply.answer
    chat.totals.add(chat.last)
    if chat.conversation.keep(reply):
        chat.save()
    elif not interrupted:
        terminal.note(chat.texts("chat.empty_answer"))
    if isinstance(ending, SystemExit) or (ending is not None and not terminal.interactive):
        raise ending
    if interrupted:
        terminal.note(chat.texts("chat.interrupted"))
    elif chat.last.finish_reason == "length":
        chosen = chat.last.usage.completion_tokens == chat.conversation.sampling.max_tokens
        terminal.note(chat.texts("chat.cut_by_choice" if chosen else "chat.cut_by_context"))


def _show_reading(chat: Chat, reply: Reply) -> None:
    """Until the first piece is there, show how much of the prompt is read, where that takes a while."""
    while not reply.stream.wait(_PATIENCE):
        done, total = reply.reading
        if total:
            chat.terminal.progress(chat.texts("chat.reading", done=f"{done:,}", total=f"{total:,}"))
    chat.terminal.progress("")


def _tell_overflow(chat: Chat, reply: Reply, told: int) -> None:
    gone = Overflow()
    for overflow in reply.overflows[told:]:
        gone.turns += overflow.turns
        gone.tokens += overflow.tokens
    if gone.turns:
        chat.terminal.note(chat.texts("chat.dropped", turns=gone.turns))
    if gone.tokens:
        chat.terminal.note(chat.texts("chat.shifted", tokens=f"{gone.tokens:,}"))
