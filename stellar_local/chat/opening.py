"""From a command line to a chat: its session, its model, its terminal, and what is said at the start."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..config import ChatOptions
from ..errors import UsageError
from ..flags import Setup
from ..plan.explain import describe
from ..plan.opening import Choice
from ..render.markdown import answer_view, warm
from ..terminal.terminal import PlainTerminal, Terminal, open_terminal
from ..texts import Texts, language_of
from .saved import Session
from .sessions import Store, sessions_folder
from .state import Chat
from .table import suggestions
from .toolbar import toolbar


@dataclass(frozen=True)
class Wish:
    """What the command line asks of a chat, beside the options.

    `session` is to be gone on with, or begun; `last` asks for the one used last; `private` saves nothing; `once` is for
    a single question. `given` names the options asked for.
    """

    model: Path | None = None
    session: str | None = None
    last: bool = False
    private: bool = False
    once: bool = False
    system: str | None = None
    given: frozenset[str] = frozenset()


@contextmanager
def open_chat(setup: Setup, wish: Wish) -> Iterator[Chat]:
    """A chat that is ready to be run, and closed afterwards. Raises StellarError for what cannot be opened."""
    options = setup.options(ChatOptions)
    texts = Texts(options.ui_lang or language_of())
    with ExitStack() as held:
        store = None if wish.private else Store(sessions_folder(), texts)
        made: list[Chat] = []  # the terminal asks the chat, which is made with the terminal
        terminal = _terminal(made, options, texts, wish)
        name, saved = _session(store, wish, texts, held, terminal)
        if terminal.interactive:
            warm()  # while the model loads
        if wish.model is None and (saved is None or not saved.model):
            raise UsageError(texts("chat.no_model"), texts("chat.give_model"))
        model = wish.model or Path(saved.model if saved else "")

        def tell(choice: Choice) -> None:
            if terminal.interactive and (line := describe(choice, texts)):
                terminal.note(line)

        with terminal.answering():  # what is typed meanwhile is for the prompt
            runtime = setup.open(model, tell=tell, texts=texts)
        try:
            chat = Chat(
                setup,
                runtime,
                terminal,
                options,
                store=store,
                saving=terminal.interactive or name is not None,
                system=wish.system,
                lock=held.pop_all(),
            )
            if setup.runtime.template:
                chat.set_template(setup.runtime.template)
        except BaseException:
            runtime.close()
            raise
    made.append(chat)
    try:
        for note in runtime.notes:
            terminal.note(f"[{note}]")
        if name is not None:
            chat.session = saved or Session(name)
        if saved is not None:
            chat.adopt(saved, wish.given)
        if terminal.interactive:
            terminal.note(chat.described())
        if saved is not None:
            chat.tell_resumed()
        yield chat
    finally:
        chat.close()


def _session(
    store: Store | None, wish: Wish, texts: Texts, held: ExitStack, terminal: Terminal
) -> tuple[str | None, Session | None]:
    """The session to go on with, locked: its name, None where there is none, and what is saved of it."""
    if store is None or not (wish.last or wish.session is not None):
        return None, None
    name = store.last() if wish.last else wish.session
    for problem in store.problems:
        terminal.note(f"[{problem}]")
    if name is None:
        raise UsageError(texts("chat.no_last"), texts("chat.give_model"))
    name = store.checked(name)
    held.enter_context(store.lock(name))
    return name, store.load(name) if store.exists(name) else None


def _terminal(made: list[Chat], options: ChatOptions, texts: Texts, wish: Wish) -> Terminal:
    if wish.once:
        return PlainTerminal(texts)
    return open_terminal(
        texts,
        suggest=lambda line: suggestions(made[0], line) if made else [],
        toolbar=lambda columns: toolbar(made[0], columns) if made else "",
        view=lambda: answer_view((made[0].options if made else options).style, sys.stdout),
        history=None if wish.private else sessions_folder().parent / "history",
        keys=lambda: (made[0].options if made else options).keys,
    )
