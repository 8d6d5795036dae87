"""What one input line may say, checked: a JSON object's fields, or a table row's cells → an Item.

Knows the fields' names and types; knows neither how lines are read nor any model. JSON fields: `prompt`, or `messages`
(role and content), or `instruction` with `input`; optional `id`, `system`, `schema`, `grammar`, `lora`, and any
sampling option by its snake_case name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..config import SamplingOptions
from ..errors import RequestError, StellarError
from ..prompts import Turn
from ..records import Identifier
from ..spec import specs

CONTENT = ("prompt", "messages", "instruction")
_OTHERS = ("id", "input", "system", "schema", "grammar", "lora")
_SAMPLING = {name: spec for name, (_, spec) in specs(SamplingOptions).items()}
KNOWN = frozenset({*CONTENT, *_OTHERS, *_SAMPLING})


@dataclass(frozen=True)
class Defaults:
    """What holds for every line that does not say otherwise."""

    sampling: SamplingOptions = SamplingOptions()
    system: str | None = None
    schema: dict[str, Any] | bool | None = None
    grammar: str | None = None


@dataclass(frozen=True)
class Item:
    """One input line: a conversation to answer, or the error that it is. `index` is the line's number from 0.

    `extra` holds what more the request needs, by the names of Runtime.request's arguments: schema, grammar, lora.
    `end` counts the input's bytes up to the line's end.
    """

    index: int
    id: Identifier
    turns: tuple[Turn, ...] = ()
    system: str | None = None
    sampling: SamplingOptions = SamplingOptions()
    error: StellarError | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    end: int = field(default=0, compare=False)


def item_of_error(index: int, error: StellarError, end: int = 0) -> Item:
    """The item of a line that could not be read."""
    return Item(index, index, error=error, end=end)


def item_of_text(index: int, text: str, defaults: Defaults, end: int = 0) -> Item:
    """The item of a plain line."""
    extra = _structure({}, defaults)
    return Item(index, index, (Turn(text),), defaults.system, defaults.sampling, None, extra, end)


def item_of_json(index: int, text: str, defaults: Defaults, end: int = 0) -> Item:
    """The item of a line of JSON; whatever is wrong with it becomes its error."""
    try:
        data = _object(text)
    except RequestError as error:
        return item_of_error(index, error, end)
    return item_of_fields(index, data, defaults, end)


def item_of_fields(index: int, data: Mapping[str, Any], defaults: Defaults, end: int = 0) -> Item:
    """The item of named values; whatever is wrong with them becomes its error."""
    # Many programs write null for what was not said; for these three it says: none.
    data = {name: value for name, value in data.items() if value is not None or name in ("schema", "grammar", "lora")}
    identifier = data.get("id", index)
    try:
        if isinstance(identifier, bool) or not isinstance(identifier, (str, int)):
            identifier = index
            raise RequestError("invalid_field", "id must be a text or a whole number")
        turns, system = _content(data, defaults)
        sampling = _sampling(data, defaults)
        extra = _structure(data, defaults)
    except StellarError as error:
        if not isinstance(error, RequestError):
            error = RequestError("invalid_field", error.message, error.hint)
        return Item(index, identifier, error=error, end=end)
    return Item(index, identifier, turns, system, sampling, None, extra, end)


def _object(text: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise RequestError("invalid_json", f"the line is not JSON: {error}") from error
    except ValueError as error:  # a whole number of too many digits
        raise RequestError("invalid_json", f"the line holds a number that is too long: {error}") from error
    if not isinstance(data, dict):
        raise RequestError("invalid_json", "the line is not a JSON object")
    return data


def _content(data: Mapping[str, Any], defaults: Defaults) -> tuple[tuple[Turn, ...], str | None]:
    """The turns and the system line."""
    if not data.keys() <= KNOWN:
        unknown = ", ".join(sorted(data.keys() - KNOWN))
        raise RequestError("unknown_field", f"unknown field: {unknown}", f"known are {', '.join(sorted(KNOWN))}")
    if len([key for key in CONTENT if key in data]) != 1:
        raise RequestError("invalid_field", f"a line needs exactly one of {', '.join(CONTENT)}")
    if "input" in data and "instruction" not in data:
        raise RequestError("invalid_field", "input goes with instruction")
    system = _text(data, "system") if "system" in data else None
    if "messages" in data:
        said, turns = _conversation(data["messages"])
        if said is not None and system is not None:
            raise RequestError("invalid_field", "system is given twice, as a field and as a message")
        system = said if system is None else system
    else:
        question = _text(data, "prompt" if "prompt" in data else "instruction")
        if not question:
            raise RequestError("empty_prompt", "the prompt is empty")
        turns = (Turn(question, input=_text(data, "input") if "input" in data else ""),)
    return turns, defaults.system if system is None else system


def _sampling(data: Mapping[str, Any], defaults: Defaults) -> SamplingOptions:
    changed = {name: _SAMPLING[name].check(value, name) for name, value in data.items() if name in _SAMPLING}
    return replace(defaults.sampling, **changed) if changed else defaults.sampling


def _structure(data: Mapping[str, Any], defaults: Defaults) -> dict[str, Any]:
    """What bounds the answer and adapts the model. A line's schema or grammar, or null for none, replaces defaults."""
    schema, grammar = defaults.schema, defaults.grammar
    if "schema" in data or "grammar" in data:
        schema, grammar = data.get("schema"), data.get("grammar")
        if schema is not None and grammar is not None:
            raise RequestError("invalid_field", "a line may have a schema or a grammar, not both")
        if not isinstance(schema, (dict, bool, type(None))):
            raise RequestError("invalid_field", "schema must be a JSON schema: an object, true or false")
        if not isinstance(grammar, (str, type(None))):
            raise RequestError("invalid_field", "grammar must be a text (GBNF)")
    extra: dict[str, Any] = {}
    if schema is not None:
        extra["schema"] = schema
    if grammar is not None:
        extra["grammar"] = grammar
    if "lora" in data:
        extra["lora"] = _adapters(data["lora"])
    return extra


def _adapters(value: Any) -> dict[str, float | None]:
    """`lora`: a name, a list of names, an object name → scale, or null for none. Where no scale is said, it is None."""
    names = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(names, (list, dict)) or not all(isinstance(name, str) for name in names):
        raise RequestError("invalid_field", "lora must be a name, a list of names, or an object of names and scales")
    if isinstance(names, list):
        return dict.fromkeys(names)
    for name, scale in names.items():
        if isinstance(scale, bool) or not isinstance(scale, (int, float)):
            raise RequestError("invalid_field", f"lora: the scale of {name} must be a number")
    return dict(names)


def _text(data: Mapping[str, Any], key: str) -> str:
    value = data[key]
    if not isinstance(value, str):
        raise RequestError("invalid_field", f"{key} must be a text")
    return value


def _conversation(messages: Any) -> tuple[str | None, tuple[Turn, ...]]:
    """OpenAI-style messages → the system line and turns: user and assistant in turn, a user's message last."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise RequestError("invalid_field", "messages must be a list of objects with role and content")
    rest = [(str(message.get("role")), _text({"content": message.get("content")}, "content")) for message in messages]
    system = rest.pop(0)[1] if rest and rest[0][0] == "system" else None
    roles = [role for role, _ in rest]
    if (
        not rest
        or roles != ["user" if number % 2 == 0 else "assistant" for number in range(len(rest))]
        or not len(rest) % 2
    ):
        raise RequestError("invalid_field", "messages must alternate user and assistant, and end with the user's")
    contents = [content for _, content in rest]
    if not contents[-1]:
        raise RequestError("empty_prompt", "the prompt is empty")
    answered = [Turn(question, answer) for question, answer in zip(contents[::2], contents[1::2], strict=False)]
    return system, (*answered, Turn(contents[-1]))
