"""The chat loop: read a message, stream the answer, remember both. Knows the terminal only through its interface."""

from __future__ import annotations

from ..engine import Answer
from ..errors import StellarError
from ..session import Conversation
from .commands import Leave, run_command
from .terminal import Terminal


def chat(conversation: Conversation, terminal: Terminal) -> None:
    """Run until the input ends or /exit. A failed turn is reported and the chat goes on.

    Ctrl-C during an answer stops the answer and keeps what came; without a person at the keyboard it is passed on.
    """
    while (line := terminal.read()) is not None:
        message = line.strip()
        if not message:
            continue
        try:
            if message.startswith("/"):
                run_command(message, conversation, terminal)
            else:
                converse(conversation, terminal, message)
        except Leave:
            return
        except StellarError as error:
            if not terminal.interactive:
                raise
            terminal.note(f"[{error.message}{'; ' + error.hint if error.hint else ''}]")


def converse(conversation: Conversation, terminal: Terminal, message: str) -> Answer:
    """Ask once, show the answer as it comes, remember it. Raises RequestError if the message does not fit."""
    stream = conversation.ask(message)
    if conversation.dropped:
        terminal.note(f"[the context is full: the oldest {conversation.dropped} turns were left out]")
    interrupted = False
    try:
        for piece in stream:
            terminal.write(piece)
    except KeyboardInterrupt:
        stream.cancel()
        if not terminal.interactive:
            raise
        interrupted = True
        for piece in stream:
            terminal.write(piece)
    answer = stream.answer
    terminal.end_answer()
    conversation.keep(answer)
    if interrupted:
        terminal.note("[interrupted]")
    elif answer.finish_reason == "length":
        cut_by_choice = answer.usage.completion_tokens == conversation.sampling.max_tokens
        terminal.note(f"[the answer was cut: {'--max-tokens' if cut_by_choice else 'the context is full'}]")
    return answer
