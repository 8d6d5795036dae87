"""Input lines → requests: plain prompts or JSON objects. A bad line becomes an error of its own, never the end.

JSON fields: `prompt`, or `messages` (role and content), or `instruction` with `input`; optional `id`, `system`, and any
sampling option by its snake_case name. Knows the input format; knows no model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from ..config import SamplingOptions, specs
from ..errors import RequestError, StellarError
from ..prompts import Turn
from ..records import Identifier

_CONTENT = ("prompt", "messages", "instruction")
_OTHERS = ("id", "input", "system")


@dataclass(frozen=True)
class Item:
    """One input line: a conversation to answer, or the error that it is. `index` is the line's number from 0."""

    index: int
    id: Identifier
    turns: tuple[Turn, ...] = ()
    system: str | None = None
    sampling: SamplingOptions = SamplingOptions()
    error: StellarError | None = None


def read_items(lines: Iterable[bytes], sampling: SamplingOptions, system: str | None = None) -> Iterator[Item]:
    """Read items as lines come. The first line that is not blank decides: one that opens with "{" means JSON lines.

    Blank lines are skipped, and counted. `sampling` and `system` hold where a line does not say otherwise.
    """
    as_json: bool | None = None
    for index, raw in enumerate(lines):
        line = raw.removeprefix(b"\xef\xbb\xbf") if index == 0 else raw
        if not line.strip():
            continue
        if as_json is None:
            as_json = line.lstrip().startswith(b"{")
        yield _item(index, line, as_json, Item(index, index, (), system, sampling))


def _item(index: int, line: bytes, as_json: bool, default: Item) -> Item:
    try:
        text = line.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        return replace(default, error=RequestError("invalid_utf8", f"the line is not UTF-8 (byte {error.start})"))
    if not as_json:
        return replace(default, turns=(Turn(text),))
    item = default
    try:
        data = _object(text)
        identifier = data.get("id", index)
        if isinstance(identifier, bool) or not isinstance(identifier, (str, int)):
            raise RequestError("invalid_field", "id must be a text or a whole number")
        item = replace(item, id=identifier)
        return _filled(item, data)
    except StellarError as error:
        return replace(item, error=error if isinstance(error, RequestError) else _invalid(error))


def _invalid(error: StellarError) -> RequestError:
    return RequestError("invalid_field", error.message, error.hint)


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


def _filled(item: Item, data: dict[str, Any]) -> Item:
    known = {*_CONTENT, *_OTHERS, *specs(SamplingOptions)}
    if unknown := sorted(set(data) - known):
        raise RequestError(
            "unknown_field", f"unknown field: {', '.join(unknown)}", f"known are {', '.join(sorted(known))}"
        )
    if len([key for key in _CONTENT if key in data]) != 1:
        raise RequestError("invalid_field", f"a line needs exactly one of {', '.join(_CONTENT)}")
    if "input" in data and "instruction" not in data:
        raise RequestError("invalid_field", "input goes with instruction")
    changed = {name: spec.check(data[name], name) for name, (_, spec) in specs(SamplingOptions).items() if name in data}
    item = replace(item, sampling=replace(item.sampling, **changed))
    if "system" in data:
        item = replace(item, system=_text(data, "system"))
    if "messages" in data:
        system, turns = _conversation(data["messages"])
        if system is not None and "system" in data:
            raise RequestError("invalid_field", "system is given twice, as a field and as a message")
        return replace(item, turns=turns, system=item.system if system is None else system)
    question = _text(data, "prompt" if "prompt" in data else "instruction")
    if not question:
        raise RequestError("empty_prompt", "the prompt is empty")
    return replace(item, turns=(Turn(question, input=_text(data, "input") if "input" in data else ""),))


def _text(data: dict[str, Any], key: str) -> str:
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
