"""A dialogue with a model: the conversation, how the model is set, and what changes it on the way.

Knows how settings, template, adapters and model change together; knows nothing of saving, and of the terminal only that
notes can be shown.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..config import NOT_IN_CHAT, ChatOptions, RuntimeOptions, SamplingOptions
from ..engine import Answer, Grammar
from ..errors import RequestError, StellarError, UsageError
from ..flags import Setup, fits_beside
from ..prompts import Turn, load_template
from ..runtime import Runtime, parse_adapter
from ..spec import Spec, specs
from ..terminal.terminal import Terminal
from ..texts import Texts, language_of
from .conversation import Conversation


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


class NoModel(StellarError):
    """The model is gone, and so the chat must end: another could not be opened, nor the old one again."""


@dataclass
class Dialogue:
    """A conversation and everything that decides how it goes on. `settings` are the values that /set changed, by option
    name.
    """

    setup: Setup
    runtime: Runtime
    terminal: Terminal
    options: ChatOptions
    system: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    template: str | None = None  # as the user named it; None: the model's own
    structure: tuple[str, str] | None = None  # ("schema" or "grammar", its text)
    last: Answer | None = None
    totals: Totals = field(default_factory=Totals)

    def __post_init__(self) -> None:
        self.texts = Texts(self.options.ui_lang or language_of())
        self.conversation = Conversation(self.runtime, self.sampling(), self.system, self._overflow())
        self.used = 0  # tokens of the context; counted once a turn, shown at each key
        self.count()

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
        if name not in self.settable():
            raise UsageError(self.texts("chat.no_setting", name=name))
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
        overflow = self._overflow()
        if talk.overflow != overflow:
            talk.overflow = overflow
            talk.reconsider()

    def _overflow(self) -> str:
        """The overflow setting, or what takes its place where llama.cpp cannot do that, which is said."""
        if self.options.overflow == "shift" and not self.runtime.engine.context.can_shift:
            self.terminal.note(self.texts("chat.no_shift"))
            return "drop"
        return self.options.overflow

    def set_template(self, name: str | None) -> None:
        """Use another template, None for the model's own. Raises StellarError, and the old one stays."""
        old, self.runtime.template = self.runtime.template, load_template(name) if name else self.runtime.own_template()
        try:
            self._check_template()
        except StellarError:
            self.runtime.template = old
            raise
        file = Path(name) if name else None
        self.template = str(file.resolve()) if file and file.is_file() else name
        self.conversation.reconsider()

    def set_system(self, line: str | None) -> None:
        """Use another system line, None for the template's own, "" for none. Raises StellarError, and the old stays."""
        talk = self.conversation
        old, talk.system = talk.system, line
        try:
            self._check_template()
        except StellarError:
            talk.system = old
            raise
        talk.reconsider()

    def _check_template(self) -> None:
        """Render a conversation of two turns: some templates refuse a system line or name tokens that are missing.

        Raises UsageError or RequestError.
        """
        self.runtime.tokens([Turn("a", "b"), Turn("c")], self.conversation.system)

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
        except (ValueError, RecursionError) as error:
            raise RequestError("invalid_schema", self.texts("chat.no_json", reason=error)) from error
        if not isinstance(schema, (dict, bool)):
            raise RequestError("invalid_schema", self.texts("chat.no_schema"))
        return self.runtime.structure(schema, None)

    # -- the model

    def change_model(self, model: Path) -> None:
        """Go on with another model, with the template and the adapters of the start. Raises ModelError or UsageError,
        and the old one goes on; NoModel if that is gone as well.
        """
        options = replace(self.setup.runtime, level=None, lora=())
        old = self.runtime
        if fits_beside(model, options):
            new = self.setup.open(model, options, texts=self.texts)
            old.close()
        else:
            new = self._swap(model, options)
        talk = self.conversation
        talk.runtime = self.runtime = new
        self.template = self.setup.runtime.template
        talk.grammar = None
        if new.vocabulary != old.vocabulary:
            self._forget_tokens()
        talk.sampling, talk.overflow = self.sampling(), self._overflow()
        talk.reconsider()
        if talk.system is not None:  # which the new template may refuse
            line, talk.system = talk.system, None
            self.attempt("chat.setting_left", "system", partial(self.set_system, line))
        if (structure := self.structure) is not None:  # a grammar is made for a vocabulary
            self.structure = None
            self.attempt("chat.setting_left", structure[0], partial(self.set_structure, *structure))

    def _swap(self, model: Path, options: RuntimeOptions) -> Runtime:
        """Close the old model first, as there is no room for both; open it again if the new one cannot be."""
        old = self.runtime
        template, scales = old.template, dict(old.adapters)
        lora = tuple(f"{old.adapter_path(name)}:{scale}" for name, scale in scales.items())
        old.close()
        try:
            return self.setup.open(model, options, texts=self.texts)
        except BaseException:
            try:
                flash = self.setup.runtime.flash_attn  # as asked for: there may be less memory than before
                again = replace(old.options, lora=lora, level=None, flash_attn=flash)
                self.runtime = self.setup.open(old.model.path, again, texts=self.texts)
            except StellarError as error:
                raise NoModel(error.message, error.hint) from error
            self.runtime.template = template
            self.conversation.runtime = self.runtime
            self.conversation.reconsider()
            raise

    def _forget_tokens(self) -> None:
        """The answers' tokens belong to another vocabulary: from now on their text counts."""
        for turn in self.conversation.turns:
            turn.tokens = []

    def use_adapters(self, texts: Sequence[str]) -> None:
        """Use these FILE:SCALE adapters, and no others."""
        wanted: dict[Path, float] = {}
        for text in texts:
            self.attempt("chat.setting_left", text, partial(lambda text: wanted.update([parse_adapter(text)]), text))
        runtime = self.runtime
        for name in runtime.adapters:
            if runtime.adapter_path(name).resolve() not in wanted:
                runtime.adapters[name] = 0.0
        for path, scale in wanted.items():
            if runtime.adapters.get(path.stem) != scale:
                self.attempt("chat.setting_left", path.name, partial(runtime.load_adapter, path, scale))

    def attempt(self, key: str, name: str, change: Callable[[], object]) -> None:
        """Change something, or say that it stays as it is."""
        try:
            change()
        except StellarError as error:
            self.terminal.note(self.texts(key, name=name, reason=self.said(error)))

    def count(self) -> None:
        """Count anew what the conversation takes of the context."""
        with suppress(StellarError):  # a template may refuse what an older session holds: asking will say so
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
