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
    _told: bool = False  # that it cannot be saved

    @property
    def kv_file(self) -> Path | None:
        """Where the KV memory of the session is kept between runs."""
        if self.store is None or self.session is None or not self.options.kv_cache:
            return None
        return self.store.kv_path(self.session.name)

    def save(self) -> None:
        """Save the session, after a turn; what cannot be saved is told once, and the chat goes on."""
        if self.store is None or not self.saving or (self.session is None and not self.conversation.turns):
            return
        try:
            if self.session is None:
                self.begin(self.store.new_name())
            assert self.session is not None
            self.session = self.as_session()
            self.store.save(self.session)
            self._told = False
        except StellarError as error:
            if not self._told:
                self.terminal.note(self.texts("chat.not_saved", reason=self.said(error)))
            self._told = True

    def begin(self, name: str) -> None:
        """Go on under a session's name, which nobody else may have open. Raises StellarError."""
        assert self.store is not None
        lock = ExitStack()
        lock.enter_context(self.store.lock(name))
        self.lock.close()
        self.lock = lock
        self.session = replace(self.session or Session(name), name=name)

    def leave_session(self) -> None:
        """Go on in no session: the next turn that is kept begins a new one."""
        self.session = None
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
            settings={name: _plain(value) for name, value in self.settings.items()},
            lora=[f"{self.runtime.adapter_path(name).resolve()}:{scale:g}" for name, scale in adapters],
            schema=text if kind == "schema" else None,
            grammar=text if kind == "grammar" else None,
            turns=self.conversation.turns,
        )

    def open_session(self, name: str) -> None:
        """Go on with a saved session, with its turns and its settings. Raises StellarError, and all is as before."""
        assert self.store is not None
        session = self.store.load(name)
        self.begin(name)
        self.saving = True
        self.settings.clear()
        self.adopt(session)
        self.session = session

    def adopt(self, session: Session, keep: Collection[str] = ()) -> None:
        """Take another conversation's turns and settings, but for those named in `keep`, which stay as they are."""
        talk = self.conversation
        talk.turns = session.turns
        if session.vocabulary != self.runtime.vocabulary:
            self._forget_tokens()
        if "system" not in keep:
            talk.system = session.system
        for name, value in session.settings.items():
            if name not in keep:
                self.attempt("chat.setting_left", name, partial(self.set, name, value))
        if "template" not in keep and session.template != self.template:
            self.attempt("chat.setting_left", "template", partial(self.set_template, session.template))
        if "lora" not in keep:
            self.use_adapters(session.lora)
        for kind, text in (("schema", session.schema), ("grammar", session.grammar)):
            if text is not None:
                self.attempt("chat.setting_left", kind, partial(self.set_structure, kind, text))
        talk.reconsider()

    def restore_memory(self) -> int:
        """Read the KV memory of the session back, if it is still good; returns how many tokens that spares."""
        if (file := self.kv_file) is None or not self.conversation.turns:
            return 0
        tokens = list(self.conversation.tokens(self.conversation.turns, None))
        return KVCache(file, self.runtime, self.options.kv_cache << 20).restore(tokens, self.runtime.adapter_set())

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
        tokens = list(talk.tokens(talk.turns[talk.dropped :], None))
        KVCache(file, self.runtime, self.options.kv_cache << 20).save(
            tokens, self.runtime.adapter_set(), self.totals.prompt_speed
        )

    def close(self) -> None:
        """Keep the KV memory, free the model and the session's lock."""
        try:
            self.keep_memory()
        except StellarError as error:
            self.terminal.note(self.texts("chat.memory_not_kept", reason=self.said(error)))
        finally:
            self.lock.close()
            self.runtime.close()


def _plain(value: Any) -> Any:
    """A setting as JSON has it."""
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
