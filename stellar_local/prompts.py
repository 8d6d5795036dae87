"""The one renderer of prompts: template files → text, token ids, and the Jinja form that a GGUF carries.

Training, chat, batch, evaluation and the converter all use this module, so that what a model was trained on is
what it is asked with. Knows template files and conversations; knows no tokenizer: a caller passes one in.

A rendered prompt is a list of segments: Text is tokenized without parsing special tokens, so `</s>` typed by a
user stays text; Special is one token that only a template can name; Spoken is what the model itself said, by its
tokens. Neighbouring text is one segment.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from .errors import UsageError
from .files import is_writable, read_text

EOS, BOS = "eos_token", "bos_token"  # Jinja's names: the model's own end and begin tokens

_ALPACA_KEYS = ("description", "prompt_input", "prompt_no_input", "response_split")
_CONVERSATION_KEYS = ("system", "user", "assistant", "stop", "add_bos", "identity")


@dataclass(frozen=True)
class Text:
    """Plain text: no part of it is ever read as a special token."""

    text: str


@dataclass(frozen=True)
class Special:
    """One special token: its own text (`<|eot_id|>`), or EOS or BOS for whatever the model's is."""

    token: str


@dataclass(frozen=True)
class Spoken:
    """A response as the model generated it: `tokens` are used as they are, since its text may be split otherwise."""

    text: str
    tokens: tuple[int, ...]


Segment = Text | Special | Spoken


@dataclass(frozen=True)
class Turn:
    """One exchange; `response` is None in the last turn of a prompt, which the model is to answer.

    `tokens` are the response's as the model generated it, () where they are not known.
    """

    instruction: str
    response: str | None = None
    input: str = ""
    tokens: tuple[int, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Affix:
    """What stands before and after the text of one role."""

    prefix: tuple[Segment, ...] = ()
    suffix: tuple[Segment, ...] = ()


class Renderer(Protocol):
    """What chat and batch need of a template, whether it is one of ours or the one a GGUF brings."""

    @property
    def name(self) -> str: ...
    @property
    def stop(self) -> tuple[Segment, ...]: ...
    @property
    def add_bos(self) -> bool | None: ...
    @property
    def identity(self) -> Mapping[str, str]: ...

    def render(self, turns: Sequence[Turn], system: str | None = None) -> list[Segment]:
        """A conversation as segments; see Template.render."""


@dataclass(frozen=True)
class Template:
    """A prompt template. `system_default` is the system line used where a conversation brings none."""

    name: str
    prompt_input: str
    prompt_no_input: str
    response_split: str
    description: str = ""
    system_default: str = ""
    system: Affix = Affix()
    user: Affix = Affix()
    assistant: Affix = Affix()
    stop: tuple[Segment, ...] = ()
    add_bos: bool | None = None  # None: as the model's tokenizer does
    identity: Mapping[str, str] = field(default_factory=dict)
    source: str = ""  # the template file's JSON text

    def prompt(self, instruction: str, input: str = "") -> str:
        """The prompt of one instruction as plain text, as alpaca-lora's Prompter builds it; special tokens left out."""
        return plain(self.render([Turn(instruction, input=input)]))

    def render(self, turns: Sequence[Turn], system: str | None = None) -> list[Segment]:
        """Render a conversation. `system` None means the template's own line, "" means none.

        The last turn may lack a response: the prompt then ends where the model is to speak. A response with tokens is
        Spoken where a special token ends it; elsewhere it is one text with what follows. Raises UsageError if an
        earlier turn has no response, or if there is no turn.
        """
        if not turns or any(turn.response is None for turn in turns[:-1]):
            raise UsageError("a conversation needs at least one turn, and a response in all but the last")
        line = self.system_default if system is None else system
        parts: list[Segment] = [*self.system.prefix, Text(line), *self.system.suffix] if line else []
        apart = isinstance(next(iter(self.assistant.suffix), None), Special)
        for number, turn in enumerate(turns):
            if turn.input and self._input_is_a_section:
                if number or system is not None:
                    raise UsageError(
                        f"template {self.name} takes an input only in a first turn under its own system line"
                    )
                parts = [Text(fill(self.prompt_input, turn.instruction, turn.input))]
            else:
                text = f"{turn.instruction} {turn.input}" if turn.input else turn.instruction
                parts += [*self.user.prefix, Text(text), *self.user.suffix, *self.assistant.prefix]
            if turn.response is not None:
                said = Spoken(turn.response, turn.tokens) if apart and turn.tokens else Text(turn.response)
                parts += [said, *self.assistant.suffix]
        return merged(parts)

    @property
    def _input_is_a_section(self) -> bool:
        """Whether input has its own header (alpaca) and is not simply joined to the instruction (BayLing)."""
        return self.prompt_input != self.prompt_no_input.replace("{instruction}", "{instruction} {input}")

    def training(self, instruction: str, input: str, output: str) -> tuple[list[Segment], list[Segment]]:
        """One sample as (prompt, prompt + answer + end token); the loss belongs to what the second adds."""
        prompt = self.render([Turn(instruction, input=input)])
        ending: list[Segment] = []
        for segment in self.assistant.suffix:  # up to the end token: what follows it is never generated
            ending.append(segment)
            if isinstance(segment, Special):
                break
        return prompt, merged([*prompt, Text(output), *ending])

    def jinja(self, with_bos: bool = False) -> str:
        """The same template as a Jinja chat template (`messages`, `add_generation_prompt`).

        It gives the same text as `render`; BOS is left to the tokenizer's flag unless `with_bos`, which
        Transformers needs, because it tokenizes a rendered chat template without adding special tokens.
        """
        out = "{{ bos_token }}" if with_bos else ""
        out += "{% if messages[0]['role'] == 'system' %}{% set line = messages[0]['content'] %}"
        out += "{% set turns = messages[1:] %}{% else %}"
        out += f"{{% set line = {_quote(self.system_default)} %}}{{% set turns = messages %}}{{% endif %}}"
        out += f"{{% if line %}}{_jinja(self.system.prefix)}{{{{ line }}}}{_jinja(self.system.suffix)}{{% endif %}}"
        out += "{% for message in turns %}{% if message['role'] == 'user' %}"
        out += f"{_jinja(self.user.prefix)}{{{{ message['content'] }}}}{_jinja(self.user.suffix)}"
        out += "{% elif message['role'] == 'assistant' %}"
        out += f"{_jinja(self.assistant.prefix)}{{{{ message['content'] }}}}{_jinja(self.assistant.suffix)}"
        out += "{% else %}{{ raise_exception('unknown role: ' + message['role']) }}{% endif %}{% endfor %}"
        return out + f"{{% if add_generation_prompt %}}{_jinja(self.assistant.prefix)}{{% endif %}}"


def _quote(text: str) -> str:
    """A Jinja string literal. Line breaks are escaped, as Jinja would fold them with the template's own."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\r", "\\r") + "'"


def _jinja(segments: Iterable[Segment]) -> str:
    """Segments as Jinja output expressions, never as raw template text: braces in them stay braces."""
    names = (EOS, BOS)
    return "".join(
        f"{{{{ {part.token} }}}}"
        if isinstance(part, Special) and part.token in names
        else f"{{{{ {_quote(part.token if isinstance(part, Special) else part.text)} }}}}"
        for part in segments
    )


def merged(segments: Iterable[Segment]) -> list[Segment]:
    """Join neighbouring texts and drop empty ones, so that each run of text is tokenized whole."""
    out: list[Segment] = []
    for segment in segments:
        if not isinstance(segment, Text):
            out.append(segment)
        elif segment.text:
            last = out[-1] if out else None
            if isinstance(last, Text):
                out[-1] = Text(last.text + segment.text)
            else:
                out.append(segment)
    return out


def plain(segments: Iterable[Segment]) -> str:
    """The text of the segments, special tokens left out."""
    return "".join(part.text for part in segments if not isinstance(part, Special))


def fill(text: str, instruction: str, input: str) -> str:
    """Put instruction and input into a prompt text: inserted once, never formatted, so braces are braces."""
    values = {"{instruction}": instruction, "{input}": input}
    return re.sub(r"\{instruction\}|\{input\}", lambda found: values[found[0]], text)


def token_ids(
    segments: Iterable[Segment], encode: Callable[[str], list[int]], special: Callable[[str], int | None]
) -> list[int]:
    """Segments → token ids. `encode` tokenizes plain text without special tokens or BOS; `special` maps a
    special token's text, EOS or BOS to its id, or None where the model has none. Raises UsageError for those.
    """
    ids: list[int] = []
    for segment in segments:
        if isinstance(segment, Text):
            ids += encode(segment.text)
            continue
        if isinstance(segment, Spoken):
            ids += segment.tokens
            continue
        found = special(segment.token)
        if found is None:
            raise UsageError(
                f"the template uses the special token {segment.token}, which this model's vocabulary lacks",
                "choose the template that belongs to the model with --template",
            )
        ids.append(found)
    return ids


def template_folder() -> Path:
    """Where the shipped templates are: inside the package in a wheel, beside it in a checkout."""
    packaged = Path(__file__).parent / "templates"
    return packaged if packaged.is_dir() else Path(__file__).parent.parent / "templates"


def template_names() -> list[str]:
    """The names of the shipped templates."""
    return sorted(path.stem for path in template_folder().glob("*.json"))


def is_template_path(name: str) -> bool:
    """Whether a template is named by its file: with its ending, or, as in alpaca-lora's own, by a path without it."""
    return name.endswith(".json") or ("/" in name and bool(name.rpartition("/")[2]))


def load_template(name: str) -> Template:
    """Load a shipped template by name, or any template file by its path, of which alpaca-lora leaves `.json` out.

    Raises UsageError.
    """
    path = template_folder() / f"{name}.json"
    if name not in template_names():
        path = Path(name if name.endswith(".json") else f"{name}.json")
        if not is_template_path(name) or not path.is_file():
            raise UsageError(f"unknown template: {name}", f"use one of {', '.join(template_names())}, or a .json file")
    return parse_template(read_text(path, "template"), path.stem, where=str(path))


def parse_template(source: str, name: str, where: str = "") -> Template:
    """Parse a template's JSON text. Raises UsageError naming the file and the key that is wrong."""
    where = where or name
    try:
        data = json.loads(source)
    except (ValueError, RecursionError) as error:  # also numbers too long, brackets too deep
        raise UsageError(f"template {where} is not JSON: {error}", "see templates/README.md for the format") from error
    if not isinstance(data, dict):
        raise UsageError(f"template {where} is not a JSON object", "see templates/README.md for the format")
    if not is_writable(json.dumps(data, ensure_ascii=False)):
        raise UsageError(f"template {where} holds half a character (a lone surrogate)", "write that character whole")
    if unknown := set(data) - set(_ALPACA_KEYS) - set(_CONVERSATION_KEYS):
        raise UsageError(f"template {where} has unknown keys: {', '.join(sorted(unknown))}")
    reader = _Reader(where)
    texts = {key: reader.text(data, key, required=key != "description") for key in _ALPACA_KEYS}
    for key in ("prompt_input", "prompt_no_input"):
        if "{instruction}" not in texts[key]:
            raise UsageError(f"template {where}: {key} lacks {{instruction}}")
    if "system" in data or "user" in data or "assistant" in data:
        system = reader.mapping(data, "system", ("default", "prefix", "suffix"))
        default, affixes = reader.text(system, "default"), [reader.affix(system)]
        affixes += [reader.affix(reader.mapping(data, key, ("prefix", "suffix"))) for key in ("user", "assistant")]
    else:
        default, affixes = _derive(texts["prompt_no_input"])
    add_bos = data.get("add_bos")
    if add_bos is not None and not isinstance(add_bos, bool):
        raise UsageError(f"template {where}: add_bos must be true or false")
    identity = reader.mapping(data, "identity", None)
    template = Template(
        name=name,
        **texts,
        system_default=default,
        system=affixes[0],
        user=affixes[1],
        assistant=affixes[2],
        stop=reader.segments(data.get("stop", []), "stop"),
        add_bos=add_bos,
        identity={key: reader.text(identity, key) for key in identity},
        source=source,
    )
    text = plain([*template.render([Turn("{instruction}")])])
    if not any(isinstance(part, Special) for part in template.user.prefix) and text != texts["prompt_no_input"]:
        raise UsageError(
            f"template {where}: its conversation's first turn differs from prompt_no_input",
            f"prompt_no_input is {texts['prompt_no_input']!r}, the first turn is {text!r}",
        )
    return template


def _derive(prompt: str) -> tuple[str, list[Affix]]:
    """Conversation parts of an alpaca-lora template: what precedes the last blank line is the system line."""
    head, _, tail = prompt.partition("{instruction}")
    system, blank, header = head.rpartition("\n\n")
    answered: tuple[Segment, ...] = (Special(EOS), Text("\n\n"))
    # The text after the instruction opens the answer, in every turn alike.
    parts = [Affix(suffix=(Text(blank),)), Affix(prefix=(Text(header),)), Affix(prefix=(Text(tail),), suffix=answered)]
    return system, parts


class _Reader:
    """Typed access to a template's JSON, with errors that name the file and the key."""

    def __init__(self, where: str) -> None:
        self._where = where

    def text(self, data: Mapping[str, object], key: str, required: bool = False) -> str:
        value = data.get(key)
        if value is None and not required:
            return ""
        if not isinstance(value, str):
            raise UsageError(
                f"template {self._where}: {key} must be a text" + (" and is missing" if value is None else "")
            )
        return value

    def mapping(self, data: Mapping[str, object], key: str, allowed: Sequence[str] | None) -> Mapping[str, object]:
        value = data.get(key, {})
        if not isinstance(value, dict):
            raise UsageError(f"template {self._where}: {key} must be an object")
        if allowed is not None and (unknown := set(value) - set(allowed)):
            raise UsageError(f"template {self._where}: {key} has unknown keys: {', '.join(sorted(unknown))}")
        return value

    def affix(self, data: Mapping[str, object]) -> Affix:
        return Affix(self.segments(data.get("prefix", ""), "prefix"), self.segments(data.get("suffix", ""), "suffix"))

    def segments(self, value: object, key: str) -> tuple[Segment, ...]:
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list):
            raise UsageError(f"template {self._where}: {key} must be a text or a list")
        out: list[Segment] = []
        for item in items:
            if isinstance(item, str):
                out += [Text(item)] if item else []
            elif isinstance(item, dict) and set(item) == {"special"} and isinstance(item["special"], str):
                out.append(Special(item["special"]))
            else:
                raise UsageError(f'template {self._where}: {key} may hold texts and {{"special": TOKEN}} only')
        return tuple(out)
