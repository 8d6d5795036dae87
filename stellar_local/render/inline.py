"""Inline Markdown as text with styles: emphasis, code, links and math. Knows one block's text, no blocks, no screen.

markdown-it-py parses. Two things are added: math stays as it was written, and emphasis that touches Chinese
punctuation is seen (CommonMark's rules for it need spaces between words).
"""

from __future__ import annotations

import re
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.parser_inline import ParserInline
from markdown_it.rules_inline.state_inline import Scanned, StateInline
from markdown_it.token import Token
from rich.console import Console, ConsoleOptions
from rich.containers import Lines
from rich.measure import Measurement
from rich.style import Style
from rich.text import Text

from ..console import printable
from .layout import cells, divisions, is_cjk, longest_unit

# $…$ as Pandoc reads it: no space inside, no digit after; so "$5 and $6" is none.
_MATH = re.compile(
    r"\$\$(?:[^$\\]|\\.)+\$\$|\$(?![\s$])(?:[^$\\]|\\.)*(?<!\s)\$(?![0-9])|\\\((?:.+?)\\\)|\\\[(?:.+?)\\\]", re.DOTALL
)
_STYLES = {"em_open": "italic", "strong_open": "bold", "s_open": "strike"}
_CODE, _ADDRESS = "cyan", "underline"


class Prose(Text):
    """Text that breaks into rows as `layout` says; rich's own rules know no Chinese."""

    def wrap(self, console: Console, width: int, *, justify: Any = None, **_: Any) -> Lines:
        """The rows, `width` cells each; `justify` as rich has it."""
        lines = Lines()
        for line in self.split(allow_blank=True):
            rows = line.divide(divisions(line.plain, width))
            for row in rows:
                hanging = len(row.plain) - len(row.plain.rstrip(" "))
                if hanging:
                    row.right_crop(hanging)
            if justify:
                rows.justify(console, width, justify=justify, overflow="fold")
            lines.extend(rows)
        return lines

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        lines = self.plain.split("\n")
        return Measurement(max(map(longest_unit, lines)), max(map(cells, lines)))


def _math(state: StateInline, silent: bool) -> bool:
    """The inline rule for math: its text is left alone."""
    if state.src[state.pos] not in "$\\":
        return False
    found = _MATH.match(state.src, state.pos, state.posMax)
    if not found:
        return False
    if not silent:
        state.pending += found[0]
    state.pos = found.end()
    return True


class _State(StateInline):
    def scanDelims(self, start: int, canSplitWord: bool) -> Scanned:
        """Beside Chinese characters, markers that may split words open and close whatever punctuation there is."""
        found = super().scanDelims(start, canSplitWord)
        if not canSplitWord:
            return found
        before = self.src[start - 1] if start else " "
        after = self.src[start + found.length] if start + found.length < self.posMax else " "
        opens = not after.isspace() and (found.can_open or is_cjk(before))
        closes = not before.isspace() and (found.can_close or is_cjk(after))
        return Scanned(opens, closes, found.length)


class _Inline(ParserInline):
    def parse(self, src: str, md: MarkdownIt, env: Any, tokens: list[Token]) -> list[Token]:
        state = _State(src, md, env, tokens)
        self.tokenize(state)
        for rule in self.ruler2.getRules(""):
            rule(state)
        return state.tokens


class _Parser(MarkdownIt):
    def __init__(self) -> None:
        super().__init__("commonmark", {"html": False})
        self.inline = _Inline()
        self.inline.ruler.before("escape", "math", _math)

    def normalizeLink(self, url: str) -> str:
        """Addresses stay as they are written."""
        return url


class InlineMarkdown:
    """Makes styled text of inline Markdown. Without `colour`, code keeps its backticks: nothing else would show it."""

    def __init__(self, colour: bool) -> None:
        self._parser, self._colour = _Parser(), colour

    def __call__(self, source: str, style: str = "") -> Prose:
        """The text, safe to print: what character references stand for may be a control."""
        text = Prose(style=style)
        self._add(text, self._parser.inline.parse(source, self._parser, {}, []))
        return text

    def _add(self, text: Prose, tokens: list[Token]) -> None:
        styles = [Style.null()]
        links: list[tuple[str, int]] = []
        for token in tokens:
            if token.type in ("softbreak", "hardbreak"):
                text.append("\n")
            elif token.type == "code_inline":
                code = printable(token.content)
                text.append(code if self._colour else f"`{code}`", styles[-1] + Style.parse(_CODE))
            elif token.type == "link_open":
                links.append((str(token.attrs["href"]), len(text.plain)))
            elif token.type == "link_close":
                self._address(text, *links.pop())
            elif token.type == "image":
                start = len(text.plain)
                self._add(text, token.children or [])
                self._address(text, str(token.attrs["src"]), start)
            elif token.nesting == 1:
                styles.append(styles[-1] + Style.parse(_STYLES[token.type]))
            elif token.nesting == -1:
                styles.pop()
            else:
                text.append(printable(token.content), styles[-1])

    @staticmethod
    def _address(text: Prose, address: str, start: int) -> None:
        """Show where a link leads, unless its text says so."""
        address = printable(address)
        said = text.plain[start:]
        if said in (address, address.removeprefix("mailto:")):
            text.stylize(_ADDRESS, start)
        elif address:
            text.append(" (" if said else "(").append(address, _ADDRESS).append(")")
