"""Chat templates that a GGUF brings with it: rendered by sandboxed Jinja into the segments of `prompts`.

A chat template mixes its own special tokens with what users typed. Rendering it around placeholders keeps the two
apart: only the template's part is searched for special tokens, so `<|im_end|>` in a question stays text.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from .errors import RequestError, UsageError
from .prompts import Segment, Special, Text, Turn, merged

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

        Raises UsageError if the template is broken, RequestError if it refuses this conversation.
        """
        held: dict[str, str] = {}

        def hold(text: str) -> str:
            # Letters only, so that a template's trimming or case tests leave it alone.
            key = "held" + secrets.token_hex(12).translate(_LETTERS)
            held[key] = text
            return key

        messages = [{"role": "system", "content": hold(system)}] if system else []
        for turn in turns:
            text = f"{turn.instruction}\n{turn.input}" if turn.input else turn.instruction
            messages.append({"role": "user", "content": hold(text)})
            if turn.response is not None:
                messages.append({"role": "assistant", "content": hold(turn.response)})
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

    def _segments(self, rendered: str, held: Mapping[str, str]) -> Iterable[Segment]:
        for piece in self._marks.split(rendered):
            if piece in held:
                yield Text(held[piece])
            elif piece in self.specials:
                yield Special(piece)
            else:
                yield Text(piece)
