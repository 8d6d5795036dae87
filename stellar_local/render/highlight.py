"""Colours for code that comes a line at a time: Pygments' lexers, and their state across lines.

Knows code; knows no Markdown and no screen. Only colours of the terminal's own palette are used, so that code is
readable on light and on dark.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pygments.lexers import get_lexer_by_name
from pygments.token import Comment, Error, Token, Whitespace
from pygments.util import ClassNotFound
from rich.style import Style
from rich.syntax import ANSI_DARK, ANSI_LIGHT, ANSISyntaxTheme
from rich.text import Text

if TYPE_CHECKING:
    from pygments.lexer import Lexer

_LONGEST = 1000  # characters of a line; longer ones are data, and lexers may be slow on them
_WINDOW, _PATIENCE = 16, 40  # lines read again with each one: then a new start is sought, then one anywhere
_LARGEST = 8000  # characters read again, at which a new start is made in any case
_COMMENTS = (("/*", "*/"), ("<!--", "-->"))

_Span = tuple[Any, str]  # a token's type and its text


@lru_cache(maxsize=64)
def _lexer(language: str) -> Lexer | None:
    try:
        return get_lexer_by_name(language, startinline=True)  # PHP without its opening tag
    except ClassNotFound:
        return None


def _theme() -> ANSISyntaxTheme:
    """Bright colours if the terminal says that its background is dark, as some do in COLORFGBG; else those that are
    readable on both."""
    background = os.environ.get("COLORFGBG", "").rpartition(";")[2]
    dark = background.isdigit() and int(background) in (0, 1, 2, 3, 4, 5, 6, 8)
    plain = {Error: Style.null(), Whitespace: Style.null()}  # unfinished code is no mistake
    return ANSISyntaxTheme({**(ANSI_DARK if dark else ANSI_LIGHT), **plain})


class Highlighter:
    """Colours the lines of one piece of code as they end. An unknown language has no colours."""

    def __init__(self, language: str) -> None:
        self._lexer = _lexer(language.lower())
        self._theme = _theme()
        self._window: list[str] = []  # the lines that this one may depend on

    def line(self, line: str) -> Text:
        """A line, without its newline, in its colours."""
        if self._lexer is None or len(line) > _LONGEST:
            self._window = []
            return Text(line)
        spans = self._spans([*self._window, line])
        self._window.append(line)
        count = len(self._window)
        if count > _PATIENCE or (count > _WINDOW and not (line[:1].isspace() and self._window[-2].strip())):
            if len(spans) > 3 and spans == self._spans([line]):
                self._window = [line]  # read alone it is the same, so what is before it matters no more
            elif sum(map(len, self._window)) > _LARGEST:
                self._window = []
        text = Text()
        for kind, value in spans:
            text.append(value, self._theme.get_style_for_token(kind))
        return text

    def _spans(self, lines: list[str]) -> list[_Span]:
        """The last line's tokens. A comment that is still open is closed for the lexer: many know whole ones only."""
        source = "\n".join(lines) + "\n"
        start, end = len(source) - len(lines[-1]) - 1, len(source) - 1
        for opening, closing in _COMMENTS:
            at = source.rfind(opening)
            if at >= 0 and source.find(closing, at) < 0:
                tokens = self._lex(source + closing)
                if any(begin <= at < begin + len(value) and kind in Comment for begin, kind, value in tokens):
                    return _clip(tokens, start, end)
        return _clip(self._lex(source), start, end)

    def _lex(self, source: str) -> list[tuple[int, Any, str]]:
        assert self._lexer is not None
        try:
            return list(self._lexer.get_tokens_unprocessed(source))
        except Exception:  # there are hundreds of lexers: a mistake in one must not end an answer
            return [(0, Token, source)]


def _clip(tokens: list[tuple[int, Any, str]], start: int, end: int) -> list[_Span]:
    """What tokens have of source[start:end]."""
    found = []
    for begin, kind, value in tokens:
        part = value[max(0, start - begin) : max(0, end - begin)]
        if part:
            found.append((kind, part))
    return found
