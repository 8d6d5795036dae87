"""One answer from question to session: shown as it comes, stopped by Ctrl-C, kept, counted and saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ..errors import StellarError
from .conversation import Overflow, Reply
from .state import Chat

# Seconds: on few cores each write takes time from the threads that compute, and no eye sees more than 50 a second.
_FRAME = 0.02
_PATIENCE = 0.3  # seconds until the first piece, after which the reading of the prompt is shown


def ask(chat: Chat, text: str) -> None:
    """Send a message, behind the files that were read for it, and show the answer.

    Raises RequestError if it does not fit. If nothing is kept of it, files and message stay for the next try.
    """
    message = "\n\n".join([*chat.attached, text])
    if answer(chat, chat.conversation.ask(message)):
        chat.attached.clear()
    else:
        chat.draft = text


def answer(chat: Chat, reply: Reply) -> bool:
    """Show a reply as it comes, keep it, save the session; false if it was empty, and nothing was kept.

    Ctrl-C stops the answer and keeps what came; without a person at the keyboard it is passed on, and so is the end
    of the program, once what came is saved.
    """
    terminal = chat.terminal
    ending: BaseException | None = None
    _tell_overflow(chat, reply, 0)
    told = len(reply.overflows)
    with terminal.answering():
        try:
            _show_reading(chat, reply)
            for piece in reply:
                terminal.write(piece)
                reply.stream.wait_end(_FRAME)
        except (KeyboardInterrupt, SystemExit, OSError) as stop:  # the last: nobody can read it any more
            ending = stop
        except StellarError:
            terminal.progress("")
            terminal.end_answer()
            raise
        with _held_back():
            if ending is not None:
                reply.cancel()
                for piece in reply:
                    if isinstance(ending, KeyboardInterrupt):
                        terminal.write(piece)
            with suppress(OSError):
                terminal.end_answer()
            chat.last = reply.answer
            chat.totals.add(chat.last)
            kept = chat.conversation.keep(reply)
            if kept:
                chat.unsaved = True
                with suppress(OSError):
                    chat.save()
    if ending is not None and not (isinstance(ending, KeyboardInterrupt) and terminal.interactive):
        raise ending
    _tell_overflow(chat, reply, told)
    if ending is not None:
        terminal.note(chat.texts("chat.interrupted"))
    elif not kept:
        terminal.note(chat.texts("chat.empty_answer"))
    elif chat.last.finish_reason == "length":
        chosen = chat.last.usage.completion_tokens == chat.conversation.sampling.max_tokens
        terminal.note(chat.texts("chat.cut_by_choice" if chosen else "chat.cut_by_context"))
    return kept


@contextmanager
def _held_back() -> Iterator[None]:
    """Until what came of an answer is saved, a further Ctrl-C says nothing new, and the end of the program waits."""
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, lambda number, _frame: came.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for number in came:
        if number != signal.SIGINT:
            signal.raise_signal(number)


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
