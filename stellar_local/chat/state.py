"""A chat: the model, the conversation, how it is set, and the session in which it is saved. What the commands act on.

Knows how these change together; knows nothing of commands, and of the terminal only that notes can be shown.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..config import ChatOptions, RuntimeOptions, SamplingOptions
from ..engine import Answer, Grammar
from ..errors import RequestError, StellarError
from ..flags import Setup
from ..plan.choose import fits_beside
from ..prompts import Turn, load_template
from ..runtime import Runtime
from ..spec import Spec, specs
from ..texts import Texts, language_of
from .conversation import Conversation
from .kv_cache import KVCache
from .saved import Session
from .sessions import Store
from .terminal import Terminal

NOT_IN_CHAT = ("logprobs",)  # which only a record can show


@dataclass
class Totals:
    """What a chat has cost so far: tokens and seconds."""

    answers: int = 0
    prompt: int = 0
    cached: int = 0
    generated: int = 0
    prompt_seconds: float = 0.0
    generation_seconds: float = 0.0

    def add(self, answer: Answer) -> None:
        """Count one answer."""
        self.answers += 1
        self.prompt += answer.usage.prompt_tokens
        self.cached += answer.usage.cached_tokens
        self.generated += answer.usage.completion_tokens
        self.prompt_seconds += answer.timing.prompt
        self.generation_seconds += answer.timing.generation

    @property
    def prompt_speed(self) -> float | None:
        """Tokens of prompts computed a second, if enough were to tell."""
        computed = self.prompt - self.cached
        return computed / self.prompt_seconds if computed >= 32 and self.prompt_seconds > 0 else None


@dataclass
class Chat:
    """Everything that a chat consists of. `settings` are the values that /set changed, by option name.

    With a store the conversation is saved after each turn; without one, or while `saving` is false, nothing is.
    """

    setup: Setup
    runtime: Runtime
    terminal: Terminal
    options: ChatOptions
    store: Store | None = None
    saving: bool = True
    system: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    template: str | None = None  # as the user named it; None: the model's own
    structure: tuple[str, str] | None = None  # ("schema" or "grammar", its text)
    session: Session | None = None
    attached: list[str] = field(default_factory=list)  # files that /read put before the next message
    draft: str = ""  # what the next prompt begins with
    last: Answer | None = None
    totals: Totals = field(default_factory=Totals)
    lock: ExitStack = field(default_factory=ExitStack)  # holds the session's lock

    def __post_init__(self) -> None:
        self.texts = Texts(self.options.ui_lang or language_of())
        self.conversation = Conversation(self.runtime, self.sampling(), self.system, self.options.overflow)
        self.used = self.conversation.used()  # tokens of the context; counted once a turn, shown at each key
        self._told = False  # that it cannot be saved

    # -- settings

    def sampling(self) -> SamplingOptions:
        """How to sample: as asked for at the start, by the model's own defaults, and as /set has it."""
        known = specs(SamplingOptions)
        changed = {name: value for name, value in self.settings.items() if name in known}
        return replace(self.setup.sampling(self.runtime.sampling), **changed)

    def settable(self) -> dict[str, tuple[Spec, Any]]:
        """What /set can change, by name: its specification and the value in use."""
        sources = ((SamplingOptions, self.conversation.sampling), (ChatOptions, self.options))
        found = {
            name: (spec, getattr(source, name)) for kind, source in sources for name, (_, spec) in specs(kind).items()
        }
        return {name: row for name, row in found.items() if name not in NOT_IN_CHAT}

    def set(self, name: str, value: Any) -> None:
        """Change a setting, from the next turn on. Raises UsageError for a wrong value."""
        spec, _ = self.settable()[name]
        unset = value is None and None in spec.words.values()  # as a session's file has it
        self.settings[name] = None if unset else spec.check(value, name)
        self.apply()

    def unset(self, name: str) -> None:
        """Take back what `set` changed."""
        self.settings.pop(name, None)
        self.apply()

    def apply(self) -> None:
        """Let the settings take effect, from the next turn on."""
        known = specs(ChatOptions)
        changed = {name: value for name, value in self.settings.items() if name in known}
        self.options = replace(self.setup.options(ChatOptions), **changed)
        self.texts = Texts(self.options.ui_lang or language_of())
        talk = self.conversation
        talk.sampling = self.sampling()
        if talk.overflow != self.options.overflow:
            talk.overflow = self.options.overflow
            talk.reconsider()

    def set_template(self, name: str | None) -> None:
        """Use another template, None for the model's own. Raises UsageError, and the old one stays."""
        old, self.runtime.template = self.runtime.template, load_template(name) if name else self.runtime.own_template()
        try:
            self.runtime.tokens([Turn("a")])  # its special tokens may be none of this model's
        except StellarError:
            self.runtime.template = old
            raise
        self.template = name
        self.conversation.reconsider()

    def set_structure(self, kind: str, text: str | None) -> None:
        """Let answers follow a JSON schema ("schema") or a GBNF text ("grammar"), or None: neither of them.

        Raises RequestError, and the old one stays.
        """
        self.conversation.grammar = None if text is None else self._grammar(kind, text)
        self.structure = None if text is None else (kind, text)

    def _grammar(self, kind: str, text: str) -> Grammar | None:
        if kind == "grammar":
            return self.runtime.structure(None, text)
        try:
            schema = json.loads(text)
        except ValueError as error:
            raise RequestError("invalid_schema", self.texts("chat.no_json", reason=error)) from error
        if not isinstance(schema, (dict, bool)):
            raise RequestError("invalid_schema", self.texts("chat.no_schema"))
        return self.runtime.structure(schema, None)

    # -- the model

    def change_model(self, model: Path) -> None:
        """Go on with another model. Raises ModelError or UsageError, and the old one goes on."""
        options = replace(self.setup.runtime, level=None, lora=())
        old = self.runtime
        if fits_beside(model, options):
            new = self.setup.open(model, options)
            old.close()
        else:
            new = self._swap(model, options)
        talk = self.conversation
        talk.runtime = self.runtime = new
        self.template = self.setup.runtime.template
        if new.vocabulary != old.vocabulary:
            self._forget_tokens()
        talk.sampling = self.sampling()
        talk.reconsider()
        if self.structure:
            self.set_structure(*self.structure)  # made for a vocabulary

    def _swap(self, model: Path, options: RuntimeOptions) -> Runtime:
        """Close the old model first, as there is no room for both; open it again if the new one cannot be."""
        old = self.runtime
        template, scales = old.template, dict(old.adapters)
        lora = tuple(f"{old.adapter_path(name)}:{scale}" for name, scale in scales.items())
        old.close()
        try:
            return self.setup.open(model, options)
        except BaseException:
            self.runtime = self.setup.open(old.model.path, replace(old.options, lora=lora))
            self.runtime.template = template
            self.conversation.runtime = self.runtime
            self.conversation.reconsider()
            raise

    def _forget_tokens(self) -> None:
        """The answers' tokens belong to another vocabulary: from now on their text counts."""
        for turn in self.conversation.turns:
            turn.tokens = []

    # -- sessions

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
        self.adopt(session)
        self.session = session

    def adopt(self, session: Session, keep: Collection[str] = ()) -> None:
        """Take another conversation's turns and settings, but for those named in `keep`, which were asked for."""
        talk = self.conversation
        talk.turns = session.turns
        if session.vocabulary != self.runtime.vocabulary:
            self._forget_tokens()
        if "system" not in keep:
            talk.system = session.system
        for name, value in session.settings.items():
            if name not in keep:
                self._try("chat.setting_left", name, partial(self.set, name, value))
        if "template" not in keep and session.template != self.template:
            self._try("chat.setting_left", "template", partial(self.set_template, session.template))
        for kind, text in (("schema", session.schema), ("grammar", session.grammar)):
            if text is not None:
                self._try("chat.setting_left", kind, partial(self.set_structure, kind, text))
        talk.reconsider()

    def _try(self, key: str, name: str, change: Callable[[], None]) -> None:
        """Change something, or say that it stays as it is."""
        try:
            change()
        except (StellarError, KeyError) as error:
            reason = self.said(error) if isinstance(error, StellarError) else ""
            self.terminal.note(self.texts(key, name=name, reason=reason))

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

    def count(self) -> None:
        """Count anew what the conversation takes of the context."""
        self.used = self.conversation.used()

    def described(self) -> str:
        """The model in one line: file, context, template."""
        size = f"{self.runtime.engine.context.n_ctx:,}"
        return self.texts(
            "chat.model", file=self.runtime.model.path.name, size=size, template=self.runtime.template.name
        )

    def said(self, error: StellarError) -> str:
        """An error in one line, in the chat's language where it is one of those that a chat often meets."""
        kind = getattr(error, "kind", "")
        if self.texts.has(f"error.{kind}"):
            return self.texts(f"error.{kind}")
        return f"{error.message}{'; ' + error.hint if error.hint else ''}"


def _plain(value: Any) -> Any:
    """A setting as JSON has it."""
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
