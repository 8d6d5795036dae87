"""What became of one row of a source: triples, or the reason why there are none. Knows no format."""

from __future__ import annotations

from dataclasses import dataclass

from stellar_local.files import is_writable
from stellar_local.tables.unusable import Unusable

from ..corpus import Triple


@dataclass(frozen=True)
class Outcome:
    """What became of a row, or of the rows of a sheet that make one question together.

    `line` counts from 1: a line of a text file, a row of a sheet, of which this one spans `rows`. Without `triples`
    it was left out because of `reason`. `kind` is the sort of row; `notes` say what of it was left out or changed.
    """

    line: int
    triples: tuple[Triple, ...] = ()
    reason: str = ""
    kind: str = ""
    notes: tuple[str, ...] = ()
    rows: int = 1


def checked(instruction: object, input: object, output: object) -> Triple:
    """A triple that training takes: texts, of which only the input may be empty. Raises Unusable."""
    input = "" if input is None else input
    texts: list[str] = []
    for name, text in (("instruction", instruction), ("input", input), ("output", output)):
        if text is None or (isinstance(text, str) and name != "input" and not text.strip()):
            raise Unusable(f"no {name}")
        if not isinstance(text, str):
            raise Unusable(f"the {name} is no text")
        if not is_writable(text):
            raise Unusable(f"half a character (a lone surrogate) in the {name}")
        texts.append(text)
    return Triple(*texts)
