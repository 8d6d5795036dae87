"""Which JSON schemas can be followed to the letter: the keywords, and the depth; and whether a document does.

llguidance ignores some keywords that it does not know; here they are an error. jsonschema is the judge of what comes
out. Knows nothing of tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from ..errors import RequestError

_DEEPEST = 100  # llguidance reads at most 128 levels
_LARGEST_BOUND = 1 << 53  # beyond, a JSON number loses digits
_CONTROL = re.compile("[\0-\x07\x0b\x0e-\x1f\x7f]")  # what JSON has no short escape for
_ONE = {"additionalProperties", "items"}  # their value is a schema
_LISTS = {"anyOf", "oneOf", "allOf", "prefixItems"}  # … a list of schemas
_NAMED = {"properties", "patternProperties", "$defs", "definitions"}  # … schemas by name
_RULES = {
    *("type", "enum", "const", "required", "minProperties", "maxProperties", "minItems", "maxItems"),
    *("minLength", "maxLength", "pattern", "format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    *("multipleOf", "$ref", "$id", "$schema", "$anchor"),
}
_NOTES = {
    *("title", "description", "default", "examples", "$comment", "deprecated", "readOnly", "writeOnly"),
    *("contentEncoding", "contentMediaType"),
}
_BOUNDS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
_KNOWN = _ONE | _LISTS | _NAMED | _RULES | _NOTES


def check_schema(schema: Any) -> None:
    """Raise RequestError("invalid_schema") unless every keyword, at every depth, is one that will be followed."""
    if schema is False or not isinstance(schema, (dict, bool)):
        reason = "allows nothing" if schema is False else "is not a JSON object"
        raise RequestError("invalid_schema", f"the schema {reason}", "a schema is a JSON object, or true")
    pending: list[tuple[Any, str, int]] = [(schema, "", 0)]
    while pending:
        part, place, depth = pending.pop()
        if depth > _DEEPEST:
            raise RequestError("invalid_schema", f"the schema is nested more than {_DEEPEST} deep", "make it flatter")
        if not isinstance(part, dict):
            continue  # a boolean, or what llguidance will complain of
        for key, value in part.items():
            where = f"{place}/{key}"
            if key not in _KNOWN and not str(key).startswith("x-"):
                raise RequestError(
                    "invalid_schema",
                    f"the schema's keyword {where} is not supported",
                    "leave it out, or check it after",
                )
            _check_value(part, key, value, where)
            if key in _ONE:
                pending.append((value, where, depth + 1))
            elif key in _LISTS and isinstance(value, list):
                pending += [(item, f"{where}/{number}", depth + 1) for number, item in enumerate(value)]
            elif key in _NAMED and isinstance(value, dict):
                pending += [(item, f"{where}/{name}", depth + 1) for name, item in value.items()]


def _check_value(part: dict[str, Any], key: str, value: Any, where: str) -> None:
    """What older drafts mean by a keyword, and what a document could evade by naming a property twice."""
    if key == "items" and isinstance(value, list):
        hint = "write a list of items as prefixItems"
    elif key in ("exclusiveMinimum", "exclusiveMaximum") and isinstance(value, bool):
        hint = f"give the bound itself as {key}"
    elif key == "minProperties" and not (
        isinstance(part.get("required", []), list) and value in range(len(part.get("required", [])) + 1)
    ):
        hint = "list the properties that must be there as required"
    elif key in _BOUNDS and isinstance(value, (int, float)) and abs(value) > _LARGEST_BOUND:
        hint = f"bounds may be up to {_LARGEST_BOUND}"
    elif (key in ("const", "enum", "required") and _is_inexact(value)) or (
        key == "properties" and isinstance(value, dict) and any(map(_is_inexact, value))
    ):
        hint = f"control characters, and whole numbers beyond {_LARGEST_BOUND}, cannot be written exactly"
    else:
        return
    raise RequestError("invalid_schema", f"the schema's {where} is not supported", hint)


def _is_inexact(value: Any) -> bool:
    """Whether there is anything in a value that would come out as something else."""
    if isinstance(value, str):
        return _CONTROL.search(value) is not None
    if isinstance(value, int):
        return abs(value) > _LARGEST_BOUND
    if isinstance(value, dict):
        return any(map(_is_inexact, value)) or any(map(_is_inexact, value.values()))
    return isinstance(value, list) and any(map(_is_inexact, value))


def judge_of(schema: Any) -> Callable[[str], str]:
    """A function that says what is wrong with a document's text under a schema, "" if nothing is."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match
    from jsonschema.validators import validator_for
    from referencing import Registry

    # An empty registry, since without one jsonschema fetches what a reference names.
    validator = validator_for(schema, default=Draft202012Validator)(schema, registry=Registry())

    def judge(text: str) -> str:
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as wrong:
            return f"it is no JSON: {wrong}"
        try:
            error = best_match(validator.iter_errors(document))
        except Exception:  # a pattern, say, that Python's expressions lack: no opinion
            return ""
        return "" if error is None else " ".join(error.message.split())[:200]

    return judge
