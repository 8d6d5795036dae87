"""How many columns a text takes in a terminal, where Chinese characters take two. Knows Unicode's widths only."""

from __future__ import annotations

from wcwidth import wcswidth, wcwidth


def width(text: str) -> int:
    """The columns that a text takes; characters that have none count nothing."""
    whole = wcswidth(text)
    return whole if whole >= 0 else sum(max(0, wcwidth(one)) for one in text)


def fitted(text: str, columns: int) -> str:
    """A text cut to so many columns, with … where something is missing."""
    if width(text) <= columns:
        return text
    taken, out = 1, ""
    for one in text:
        taken += max(0, wcwidth(one))
        if taken > columns:
            break
        out += one
    return out + "…" if columns > 0 else ""
