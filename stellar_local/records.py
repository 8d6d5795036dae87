"""The JSON lines that batch inference writes, and evaluation reads: one object per answer or error.

Field names follow OpenAI's where it has them. Knows the format; knows nothing of models or streams.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from .errors import StellarError

Identifier = str | int

_ENCODER = json.JSONEncoder(ensure_ascii=False)
_LONGEST_MESSAGE = 1000  # characters: a message may quote the wrong value, which may be the whole line

# JSON leaves DEL, the C1 controls and the line separators as they are; a terminal or a line reader would obey them.
_RISKY = re.compile("[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]|[\ud800-\udfff]")


def escaped(text: str) -> str:
    """JSON text with everything in it escaped that drives terminals, and half characters, which no file can hold."""
    return _RISKY.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def to_line(record: Mapping[str, Any]) -> str:
    """One record as one line of JSON: UTF-8 text kept readable, everything that drives terminals escaped."""
    return escaped(_ENCODER.encode(record))


def error_record(id: Identifier, index: int, error: StellarError) -> dict[str, Any]:
    """The object that stands in an answer's place when its request failed."""
    message = f"{error.message} ({error.hint})" if error.hint else error.message
    if len(message) > _LONGEST_MESSAGE:
        message = message[:_LONGEST_MESSAGE] + " …"
    return {"id": id, "index": index, "error": {"type": getattr(error, "kind", "error"), "message": message}}
