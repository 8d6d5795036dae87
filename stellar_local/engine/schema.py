"""Which JSON schemas can be followed to the letter: the keywords, and the depth.

llguidance ignores some keywords that it does not know; here they are an error. Knows nothing of tokens.
"""

from __future__ import annotations

from typing import Any

from ..errors import RequestError

_DEEPEST = 100  # llguidance reads at most 128 levels
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
    else:
        return
    raise RequestError("invalid_schema", f"the schema's {where} is not supported", hint)
