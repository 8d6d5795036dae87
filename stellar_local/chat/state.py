"""A chat: a dialogue that is saved as a session after each turn, and gone on with later.

Knows which session is open and what of it is kept; knows nothing of commands.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import StellarError
from .dialogue import Dialogue
from .kv_cache import KVCache
from .saved import Session
from .sessions import Store


@dataclass
class Chat(Dialogue):
    """Everything that a chat consists of.

    With a store the conversation is saved after each turn; without one, or while `saving` is false, nothing is.
    """

    store: Store | None = None
    saving: bool = True
    session: Session | None = None
    lock: ExitStack = field(default_factory=ExitStack)  # holds the session's lock
    attached: list[str] = field(default_factory=list)  # files that /read put before the next message
    draft: str = ""  # what the next prompt begins with
    unsaved: bool = False  # whether a turn was kept since it was last saved
    _told: bool = False  # that it cannot be saved

    @property
    def kv_file(self) -> Path | None:
        """Where the KV memory of the session is kept between runs."""
        if self.store is None or self.session is None or not self.options.kv_cache:
            return None
        return self.store.kv_path(self.session.name)

    def save(self) -> bool:
        """Save the session, after a turn; false if it cannot be. That is told once, and the chat goes on; a script,
        which asked for a session by its name, ends: raises StellarError.
        """
        if self.store is None or not self.saving or (self.session is None and not self.conversation.turns):
            return True
        try:
            if self.session is None:
                self.begin(self.store.new_name())
            assert self.session is not None
            self.session = self.as_session()
            self.store.save(self.session)
        except StellarError as error:
            if not self.terminal.interactive:
                raise
            if not self._told:
                self.terminal.note(self.texts("chat.not_saved", reason=self.said(error)))
            self._told = True
            return False
        self._told = self.unsaved = False
        return True

    def begin(self, name: str) -> None:
        """Go on under a session's name, which nobody else may have open. Raises StellarError."""
        assert self.store is not None
        lock = ExitStack()
        lock.enter_context(self.store.lock(name))
        self.lock.close()
        self.lock = lock
        self.session = replace(self.session or Session(name), name=name)

    def leave_session(self) -> None:
        """Go on in no session: the next turn that is kept begins a new one, where a person is at the keyboard."""
        self.session = None
        self.saving = self.terminal.interactive
        self.attached.clear()
        self.lock.close()

    def as_session(self) -> Session:
        """All that there is, as it is saved."""
        kind, text = self.structure or ("", None)
        adapters = self.runtime.adapters.items()
        begun = self.session or Session("")
        return Session(
            begun.name,
            begun.created,
            model=str(self.runtime.model.path.resolve()),
            vocabulary=self.runtime.vocabulary,
            template=self.template,
            system=self.conversation.system,
            settings={name: _stored(value) for name, value in self.settings.items()},
            lora=[f"{self.runtime.adapter_path(name).resolve()}:{scale!r}" for name, scale in adapters],
            schema=text if kind == "schema" else None,
            grammar=text if kind == "grammar" else None,
            dropped=self.conversation.dropped,
            turns=self.conversation.turns,
        )

    def open_session(self, name: str) -> None:
        """Go on with a saved session, with its turns and its settings. Raises StellarError, and all is as before."""
        assert self.store is not None
        lock = ExitStack()
        lock.enter_context(self.store.lock(name))  # before it is read: another process may be writing it
        try:
            session = self.store.load(name)
        except BaseException:
            lock.close()
            raise
        self.lock.close()
        self.lock, self.session, self.saving = lock, session, True
        self.attached.clear()
        self.settings.clear()
        self.apply()
        self.set_structure("", None)
        self.adopt(session)

    def adopt(self, session: Session, keep: Collection[str] = ()) -> None:
        """Take another conversation's turns and settings, but for those named in `keep`, which stay as they are.

        What of them cannot be used here is said, and left out.
        """
        talk = self.conversation
        talk.turns = session.turns
        same = session.vocabulary == self.runtime.vocabulary
        if not same or any(token >= self.runtime.model.n_vocab for turn in talk.turns for token in turn.tokens):
            self._forget_tokens()
        for name, value in session.settings.items():
            if name not in keep:
                self.attempt("chat.setting_left", name, partial(self.set, name, value))
        if "template" not in keep and same and session.template != self.template:
            self.attempt("chat.setting_left", "template", partial(self.set_template, session.template))
        if "system" not in keep:
            talk.system = None
            self.attempt("chat.setting_left", "system", partial(self.set_system, session.system))
        if "lora" not in keep:
            self.use_adapters(session.lora)
        for kind, text in (("schema", session.schema), ("grammar", session.grammar)):
            if text is not None:
                self.attempt("chat.setting_left", kind, partial(self.set_structure, kind, text))
        talk.reconsider()
        self.attempt("chat.setting_left", "dropped", partial(self._leave_out, session.dropped))
        self.count()

    def _leave_out(self, turns: int) -> None:
        """Leave the oldest turns out again, if not all of them fit: what is in the KV file begins after them."""
        talk = self.conversation
        if len(talk.tokens(talk.turns, None)) > self.runtime.engine.longest:
            talk.dropped = min(turns, len(talk.turns))

    def restore_memory(self) -> int:
        """Read the KV memory of the session back, if it is still good; returns how many tokens that spares."""
        if (file := self.kv_file) is None or not self.conversation.turns:
            return 0
        talk = self.conversation
        try:
            tokens = talk.tokens(talk.turns[talk.dropped :], None)
            return KVCache(file, self.runtime, self.options.kv_cache << 20).restore(tokens, self.runtime.adapter_set())
        except StellarError:  # it is there to save time only
            return 0

    def tell_resumed(self) -> None:
        """Restore the KV memory, and say what there is to go on with."""
        began = time.monotonic()
        restored, note = self.restore_memory(), self.terminal.note
        if not self.terminal.interactive or self.session is None:
            return
        count = len(self.conversation.turns)
        note(self.texts("chat.resumed", name=self.session.name, turns=count, tokens=f"{self.used:,}"))
        if restored:
            seconds = f"{time.monotonic() - began:.2f}"
            note(self.texts("chat.memory_restored", tokens=f"{restored:,}", seconds=seconds))

    def keep_memory(self) -> None:
        """Keep the KV memory of the session for the next time, where computing it again would take longer."""
        if (file := self.kv_file) is None or not self.conversation.turns:
            return
        talk = self.conversation
        cache = KVCache(file, self.runtime, self.options.kv_cache << 20)
        try:
            tokens = talk.tokens(talk.turns[talk.dropped :], None)
            cache.save(tokens, self.runtime.adapter_set(), self.totals.prompt_speed)
        except StellarError as error:
            self.terminal.note(self.texts("chat.memory_not_kept", reason=self.said(error)))

    def close(self) -> None:
        """Keep the KV memory, free the model and the session's lock."""
        try:
            if self.unsaved:
                self.save()
            self.keep_memory()
        finally:
            self.lock.close()
            self.runtime.close()


def _stored(value: Any) -> Any:
    """A setting as JSON has it: a list for a tuple, and for biases an object."""
    if isinstance(value, tuple) and value and isinstance(value[0], tuple):
        return {str(token): bias for token, bias in value}
    return list(value) if isinstance(value, tuple) else value
