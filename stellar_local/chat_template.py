"""Chat templates that a GGUF brings with it: rendered by sandboxed Jinja into the segments of `prompts`.

A chat template mixes its own special tokens with what users typed. Rendering it around placeholders keeps the two
apart: only the template's part is searched for special tokens, so `<|im_end|>` in a question stays text.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from .errors import RequestError, StellarError, UsageError
from .prompts import Segment, Special, Spoken, Text, Turn, merged

if TYPE_CHECKING:
    from jinja2 import Template

_LETTERS = str.maketrans("0123456789", "ghijklmnop")
_PLACEHOLDER = "held[a-p]{24}"


@dataclass(frozen=True)
class ChatTemplate:
    """A Jinja chat template. `specials` are the vocabulary's special tokens, `bos`/`eos` the texts of two of them."""

    source: str
    specials: Sequence[str]
    bos: str = ""
    eos: str = ""
    name: str = "the model's own"
    stop: tuple[Segment, ...] = ()
    add_bos: bool | None = None
    identity: Mapping[str, str] = field(default_factory=dict)

    def render(self, turns: Sequence[Turn], system: str | None = None) -> list[Segment]:
        """Render a conversation; the model's default system line is used where `system` is None or "".

        A response with tokens is Spoken where the template puts it as the model generated it: after the same text, and
        before a special token. Raises UsageError if the template is broken, RequestError if it refuses this
        conversation.
        """
        held: dict[str, Text | Spoken] = {}

        def hold(part: Text | Spoken) -> str:
            key = _placeholder()
            held[key] = part
            return key

        messages = [{"role": "system", "content": hold(Text(system))}] if system else []
        for turn in turns:
            text = f"{turn.instruction}\n{turn.input}" if turn.input else turn.instruction
            messages.append({"role": "user", "content": hold(Text(text))})
            if turn.response is not None:
                said = Spoken(turn.response, turn.tokens) if turn.tokens else Text(turn.response)
                messages.append({"role": "assistant", "content": hold(said)})
        rendered = self._run(messages, turns[-1].response is None)
        for key in held:
            if rendered.count(key) != 1:
                raise RequestError(
                    "template_error",
                    "the model's chat template drops or repeats a message",
                    "choose one with --template",
                )
        return merged(self._segments(rendered, held))

    @cached_property
    def _template(self) -> Template:
        """The template compiled, which takes some milliseconds: once, not at each prompt."""
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        def refuse(message: str) -> None:
            raise RequestError("template_error", f"the model's chat template refuses this conversation: {message}")

        # trim_blocks and lstrip_blocks are what Transformers and llama.cpp render chat templates with.
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = refuse
        return environment.from_string(self.source)

    @cached_property
    def _opening(self) -> str | None:
        """The text between a question and the answer to be generated; None if the template cannot tell."""
        key = _placeholder()
        try:
            rendered = self._run([{"role": "user", "content": key}], generate=True)
        except StellarError:
            return None
        return rendered.rpartition(key)[2] if key in rendered else None

    @cached_property
    def _marks(self) -> re.Pattern[str]:
        """Finds placeholders and special tokens, of several at one place the longest."""
        specials = sorted({*self.specials} - {""}, key=len, reverse=True)
        return re.compile("(" + "|".join([_PLACEHOLDER, *map(re.escape, specials)]) + ")")

    def _run(self, messages: list[dict[str, str]], generate: bool) -> str:
        from jinja2.exceptions import TemplateError

        values: dict[str, Any] = {"bos_token": self.bos, "eos_token": self.eos, "add_generation_prompt": generate}
        try:
            return self._template.render(messages=messages, **values)
        except (TemplateError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
            raise UsageError(
                f"the model's own chat template cannot be rendered: {error}", "choose one with --template"
            ) from error

    def _segments(self, rendered: str, held: Mapping[str, Text | Spoken]) -> list[Segment]:
        segments: list[Segment] = []
        before = ""  # since the last message
        pieces = [piece for piece in self._marks.split(rendered) if piece]
        for piece, following in zip(pieces, [*pieces[1:], ""], strict=True):
            part = held.get(piece)
            if isinstance(part, Spoken) and (before != self._opening or following not in self.specials):
                part = Text(part.text)
            before = before + piece if part is None else ""
            segments.append(part or (Special(piece) if piece in self.specials else Text(piece)))
        return segments


def _placeholder() -> str:
    """What stands for a text. Letters only, so that a template's trimming or case tests leave it alone."""
    return "held" + secrets.token_hex(12).translate(_LETTERS)
