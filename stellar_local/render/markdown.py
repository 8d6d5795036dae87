"""How an answer is shown while it comes: rendered block by block in a terminal, or as plain text.

The block in hand is shown as it is written; when it is complete, one write puts the rendered block in its place, and
it is never touched again. Knows streams of text; knows nothing of models and keys. What is drawn with rich is
imported when the first block is complete, or earlier by `warm`.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol, TextIO

from ..console import is_dumb, printable
from .blocks import Block, Blocks
from .live import Live, Size, size_of
from .marks import DECIDED_WITHIN

if TYPE_CHECKING:
    from .drawing import Drawing


class AnswerView(Protocol):
    """Shows one answer. The cursor is at the start of a line when it begins, and again after `end`; until then
    nobody else writes to the terminal."""

    def feed(self, text: str) -> None:
        """Show a piece at once; controls in it are made harmless."""

    def end(self) -> None:
        """The answer is complete, or was interrupted: show what is still in hand in its final form."""


def answer_view(style: str, out: TextIO) -> AnswerView:
    """The view for one answer. `style` is "rich" or "simple"; what is no terminal, or a dumb one, gets "simple"."""
    if style == "rich" and out.isatty() and not is_dumb():
        return MarkdownView(out)
    return PlainView(out)


def warm() -> None:
    """Import what rendering needs in another thread (a tenth of a second), while the user types."""
    threading.Thread(target=__import__, args=(f"{__package__}.drawing",), daemon=True).start()


class PlainView:
    """The text as it is; the terminal breaks its lines."""

    def __init__(self, out: TextIO) -> None:
        self._out, self._last = out, ""

    def feed(self, text: str) -> None:
        """Write a piece."""
        text = printable(text)
        if text:
            self._last = text[-1]
            self._out.write(text)
            self._out.flush()

    def end(self) -> None:
        """End the last line, if it was not; an answer without text is an empty line."""
        if self._last != "\n":
            self.feed("\n")


class MarkdownView:
    """Markdown, block by block. What the screen shows at the end does not depend on how the text was cut in pieces.

    A block that cannot be replaced (taller than the screen, or the terminal was resized) stays as it was written.
    """

    def __init__(self, out: TextIO, size: Size | None = None) -> None:
        self._out = out
        self._live = Live(out, size or (lambda: size_of(out)))
        self._blocks = Blocks()
        self._line: list[str] = []  # the pieces of the source line in hand
        self._begin: str | None = None  # its first characters, while it may turn out to begin a list item
        self._drawing: Drawing | None = None
        self._busy = False

    def feed(self, text: str) -> None:
        """Show a piece; costs what the piece costs, however long the block is."""
        self._run(printable(text), last=False)

    def end(self) -> None:
        """Render what is in hand."""
        self._run("", last=True)

    def _run(self, text: str, last: bool) -> None:
        if self._busy:  # an exception, as of Ctrl-C, has left the last call half done
            self._live.abandon()
        self._busy = True
        *lines, rest = text.split("\n")
        for line in lines:
            self._piece(line)
            self._line_ends()
        self._piece(rest)
        if last:
            if self._line:
                self._line_ends()
            self._replace(self._blocks.end(), [])
        self._busy = False
        self._live.flush()

    def _piece(self, text: str) -> None:
        """A part of a source line."""
        if not text:
            return
        if not self._line:
            self._begin = ""
            if self._blocks.spaced and self._live.empty:
                self._live.space()
        if self._begin is not None and len(self._begin) < DECIDED_WITHIN:
            before = len(self._begin)
            self._begin += text[: DECIDED_WITHIN - before]
            cut = self._blocks.decided(self._begin)
            if cut:
                self._begin = None
                self._add(text[: cut - before])
                text = text[cut - before :]
                if self._live.line_whole:
                    self._replace(self._blocks.cut(), [])
                    self._live.add("".join(self._line))
        self._add(text)

    def _add(self, text: str) -> None:
        self._line.append(text)
        self._live.add(text)

    def _line_ends(self) -> None:
        line = "".join(self._line)
        self._line = []
        held, own = self._blocks.line(line)
        if self._blocks.waiting and not (self._live.line_whole and (held or own)):
            self._live.add("\n")  # it goes on
            return
        self._replace(held, own)
        if self._blocks.waiting:
            self._live.add(line + "\n")

    def _replace(self, held: list[Block], own: list[Block]) -> None:
        if not held and not own:
            self._live.replace("", "")
            return
        if self._drawing is None:
            from .drawing import Drawing

            self._drawing = Drawing(self._out)
        width = self._live.width
        before = self._drawing.draw(held, width) if self._live.whole else ""
        line = self._drawing.draw(own, width)
        self._live.replace(before + line, line)
