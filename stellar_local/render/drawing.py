"""Finished blocks as rows for a terminal, with colours as it has them. Knows rich; knows nothing of what is on screen.

Only the terminal's own colours and no hyperlinks are used: what a model writes must not hide where a link leads.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TextIO

from rich.box import SQUARE
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from .blocks import Block
from .highlight import Highlighter
from .inline import InlineMarkdown, Prose
from .layout import cells
from .marks import split_cells

_HEADINGS = ("bold underline magenta", "bold magenta", "bold cyan")  # the first levels; the others are just bold
_PREFIX, _FRAME = "cyan", "dim"
_NARROWEST = 5  # cells: a wide character, a space on either side, a border; room for a word where nesting is deep


class Drawing:
    """Draws one answer's blocks, in their order: code is highlighted across its lines."""

    def __init__(self, out: TextIO) -> None:
        self._console = Console(file=out, highlight=False, markup=False, emoji=False, legacy_windows=False)
        coloured = self._console.color_system is not None and not self._console.no_color
        self._inline = InlineMarkdown(coloured)
        self._code = Highlighter("")

    def draw(self, blocks: Sequence[Block], width: int) -> str:
        """The blocks as whole lines, with rows of `width` cells; lines of code and math are never broken."""
        lines = [line for block in blocks for line in self._lines(block, width)]
        if not lines:
            return ""
        with self._console.capture() as captured:
            self._console.print(Text("\n").join(lines), soft_wrap=True)
        return captured.get()

    def _lines(self, block: Block, width: int) -> Iterator[Text]:
        """A block's rows behind their prefixes. Nesting too deep for the screen is indented as far as there is room,
        its marks on rows of their own."""
        room = max(0, width - _NARROWEST)
        first, rest = block.first, block.rest
        if block.space is not None:
            yield Text(_ending(block.space, room), _PREFIX)
        if cells(first) > room:
            rest = _ending(rest, room)
            if first.strip(" "):
                yield from Prose(first, _PREFIX).wrap(self._console, width)
            first = rest
        for number, row in enumerate(self._rows(block, width - max(cells(first), cells(rest)))):
            yield Text.assemble((rest if number else first, _PREFIX), row)

    def _rows(self, block: Block, width: int) -> Iterable[Text]:
        if block.kind == "paragraph":
            return self._inline(block.text).wrap(self._console, width)
        if block.kind == "heading":
            style = _HEADINGS[block.level - 1] if block.level <= len(_HEADINGS) else "bold"
            return self._inline(block.text, style).wrap(self._console, width)
        if block.kind == "table":
            return self._table(block.text.split("\n"), width)
        if block.kind == "rule":
            return [Text("─" * width, _FRAME)]
        if block.kind == "fence":
            language = re.match(r"[\w+#.-]*", block.text)
            self._code = Highlighter(language[0] if language else "")
            return Prose(f"╭─ {block.text}".rstrip(" "), _FRAME).wrap(self._console, width)
        if block.kind == "code":
            return [self._code.line(block.text)]
        return [Text("╰─", _FRAME)] if block.kind == "end" else [Text(block.text)]

    def _table(self, lines: Sequence[str], width: int) -> Iterable[Text]:
        """A table in a frame, its cells broken so that it fits; as it was written where it cannot."""
        header, delimiters, *rows = map(split_cells, lines)
        if len(header) * _NARROWEST >= width:
            return Prose("\n".join(lines)).wrap(self._console, width)
        grid = Table(box=SQUARE, border_style=_FRAME, header_style="bold")
        for title, delimiter in zip(header, delimiters, strict=True):
            justify: JustifyMethod = "left"
            if delimiter.endswith(":"):
                justify = "center" if delimiter.startswith(":") else "right"
            grid.add_column(self._inline(title), justify=justify, overflow="fold")
        last = len(header) - 1
        for row in rows:
            texts = [*row[:last], " | ".join(row[last:])]  # a row may have more cells than the header
            grid.add_row(*map(self._inline, texts))
        found = self._console.render_lines(grid, self._console.options.update(width=width), pad=False)
        return [Text.assemble(*((part.text, part.style or "") for part in line)) for line in found]


def _ending(text: str, width: int) -> str:
    """What fits of a text's end."""
    while cells(text) > width:
        text = text[1:]
    return text
