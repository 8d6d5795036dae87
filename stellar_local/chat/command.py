"""`stellar chat`: its options, and how they become a chat. Knows click; the chat itself is the loop's."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from ..config import NOT_IN_CHAT, ChatOptions, RuntimeOptions, SamplingOptions
from ..errors import UsageError
from ..flags import Setup, options_of, system_option, verbose_option


@click.command()
@click.argument("model", type=click.Path(path_type=Path), required=False)
@click.option("--prompt", metavar="TEXT", help="Answer this one message on stdout and leave.")
@click.option("--continue", "last", is_flag=True, help="Go on with the last session; MODEL may then be left out.")
@click.option("--session", metavar="NAME", help="Go on with the session NAME, or begin it.")
@click.option("--private", is_flag=True, help="Save nothing: no session, no history of what was typed.")
@system_option
@options_of(ChatOptions)
@options_of(RuntimeOptions)
@options_of(SamplingOptions, without=NOT_IN_CHAT)
@verbose_option
def chat(
    model: Path | None,
    prompt: str | None,
    last: bool,
    session: str | None,
    private: bool,
    system: str | None,
    verbose: bool,
    **flags: Any,
) -> None:
    """Talk with MODEL, a .gguf file or a folder made by `stellar convert`.

    Answers stream to stdout. In a terminal the conversation is saved after every answer; Ctrl-C stops an answer, /help
    lists the commands. Lines from a pipe are messages, or commands, one a line.

    \b
    Example: stellar chat demo/model
             stellar chat --continue
             stellar chat model.gguf --prompt '什么是黑洞？' --temperature 0
    """
    if prompt is not None and not prompt.strip():
        raise UsageError("--prompt is empty", "give a message, or leave --prompt out to chat")
    if private and (last or session is not None):
        raise UsageError("--private saves nothing, so it has no session", "leave out --private, or the session")
    if last and session is not None:
        raise UsageError("--continue and --session both name a session", "give one of them")
    if model is None and not last and session is None:
        raise UsageError("Missing argument 'MODEL'", "give a .gguf file or a folder made by stellar convert")
    from .answering import ask
    from .loop import run
    from .opening import Wish, open_chat

    given = {name for name, value in {**flags, "system": system}.items() if value not in (None, ())}
    wish = Wish(model, session, last, private, prompt is not None, system, frozenset(given))
    with _ending_well(), open_chat(Setup(flags, verbose), wish) as opened:
        if prompt is not None:
            ask(opened, prompt.strip())
        else:
            run(opened)


@contextmanager
def _ending_well() -> Iterator[None]:
    """Let the end of the terminal, or of the system, end the chat like /exit: what is in hand is saved."""

    def end(number: int, _frame: Any) -> None:
        raise SystemExit(128 + number)

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, end) for number in numbers if signal.getsignal(number) is signal.SIG_DFL}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
