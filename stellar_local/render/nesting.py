"""The quotes and list items that a line of Markdown stands in, and the glyphs that show them.

Knows indentation and the marks of containers; knows nothing of the blocks inside. Two things are read as models
write them, not as CommonMark does: code in a list item need not be indented, and a list under a numbered item may be
indented by two spaces only.
"""

from __future__ import annotations

from dataclasses import dataclass

from .marks import BULLETS, indent_of, item, quoted

_BAR, _GLYPHS = "▌ ", "•◦"


@dataclass(eq=False)
class _Container:
    """A quote (no marker) or a list item, whose content begins `offset` columns further in."""

    marker: str = ""
    offset: int = 0
    shown: bool = False  # its marker was given out

    @property
    def bullet(self) -> bool:
        return self.marker in tuple(_GLYPHS)

    @property
    def waits(self) -> bool:
        """Whether it is an item in which no block has come yet."""
        return bool(self.marker) and not self.shown

    def glyphs(self) -> str:
        """What goes before a row of it; the marker only once."""
        if not self.marker:
            return _BAR
        shown, self.shown = self.shown, True
        return " " * (len(self.marker) + 1) if shown else self.marker + " "


class Nesting:
    """The containers that are open, from the outermost in."""

    def __init__(self) -> None:
        self._open: list[_Container] = []
        self._before: list[_Container] = []  # those of the block before

    def __len__(self) -> int:
        return len(self._open)

    def quote(self) -> None:
        """A quote begins in the innermost container."""
        self._open.append(_Container())

    def item(self, marker: str, offset: int) -> None:
        """A list item begins in the innermost container; its content, `offset` columns further in."""
        if marker in BULLETS:
            marker = _GLYPHS[sum(box.bullet for box in self._open) % len(_GLYPHS)]
        self._open.append(_Container(marker, offset))

    def close(self, count: int) -> None:
        """All but the first `count` containers end."""
        del self._open[count:]

    def waits(self, count: int = 0) -> bool:
        """Whether any container but the first `count` is an item in which no block has come yet."""
        return any(box.waits for box in self._open[count:])

    def enter(self, line: str) -> tuple[str, int]:
        """What a line is within the containers that go on in it, and how many do."""
        for number, box in enumerate(self._open):
            indent = indent_of(line)
            if not box.marker:
                inner = quoted(line)
                if inner is None:
                    return line, number
                line = inner
            elif indent == len(line):
                line = ""
            elif indent >= box.offset:
                line = line[box.offset :]
            elif not box.bullet and indent >= 2 and item(line[indent:]):
                box.offset = indent  # this is how far its lists are indented
                line = line[indent:]
            else:
                return line, number
        return line, len(self._open)

    def inside(self, line: str) -> str | None:
        """What a line of code is within all containers: items need no indentation. None if a quote has ended."""
        for box in self._open:
            inner = line[min(indent_of(line), box.offset) :] if box.marker else quoted(line)
            if inner is None:
                return None
            line = inner
        return line

    def prefixes(self, spaced: bool) -> tuple[str | None, str, str]:
        """For the next block: what an empty row before it has (None: there is none), its first row, and its others."""
        common = 0
        while common < min(len(self._open), len(self._before)) and self._open[common] is self._before[common]:
            common += 1
        space = "".join(box.glyphs() for box in self._open[:common]).rstrip(" ")
        self._before = self._open[:]
        first, rest = ("".join([box.glyphs() for box in self._open]) for _ in range(2))
        return space if spaced else None, first, rest
