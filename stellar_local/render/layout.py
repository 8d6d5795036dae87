"""Where text breaks into rows of a terminal: Latin between words, Chinese between characters, clusters never.

Knows Unicode; knows no Markdown and no terminal. Widths are upper bounds: terminals differ about emoji and symbols,
and a row that is a little short does no harm, while one that is too long takes a second row that nobody counted.
"""

from __future__ import annotations

import os
import unicodedata
from functools import lru_cache

KEEP, DROP = -1, -2
_JOINER, _EMOJI = "\u200d", "\ufe0f"  # ZWJ; variation selector 16, which makes a symbol two cells wide
_NEVER_FIRST = frozenset("-/,.!?;:%)]}'\"»”’…‥—–～·、。，．！？；：％）〕］｝》」』】〗〙〛〞〟°′″℃々ー〜゛゜ゝゞヽヾ")
_NEVER_LAST = frozenset("([{«“‘（〔［｛《「『【〖〘〚〝$￥¥£#＃")


class Widths(dict[str, int]):
    """How many cells a character takes at most. `ambiguous`: of those that East Asian terminals may show wide."""

    def __init__(self, ambiguous: int = 1) -> None:
        super().__init__()
        self._ambiguous = ambiguous

    def __missing__(self, char: str) -> int:
        from wcwidth import wcwidth

        shape = unicodedata.east_asian_width(char)
        if char == _EMOJI:
            size = 1
        elif char == _JOINER or unicodedata.category(char) in ("Mn", "Me"):
            size = 0
        elif shape in ("W", "F") or "\U0001f1e6" <= char <= "\U0001f1ff":  # letters of flags, alone or in pairs
            size = 2
        else:
            size = max(wcwidth(char), self._ambiguous if shape == "A" else 1)
        self[char] = size
        return size


def east_asian() -> bool:
    """Whether the locale is one whose terminals may show ambiguous characters (“ ” … × α) two cells wide."""
    locale = os.environ.get("LC_ALL") or os.environ.get("LC_CTYPE") or os.environ.get("LANG") or ""
    return locale[:2] in ("zh", "ja", "ko")


WIDTHS = Widths(2 if east_asian() else 1)


def cells(text: str) -> int:
    """How many cells a text takes at most."""
    return sum(map(WIDTHS.__getitem__, text))


def is_cjk(char: str) -> bool:
    """Whether lines may break on either side of a character: Chinese and Japanese, their punctuation, emoji."""
    return unicodedata.east_asian_width(char) in ("W", "F") and not unicodedata.combining(char)


@lru_cache(maxsize=1 << 13)
def _may_break(before: str, after: str) -> bool:
    """Whether a new row may begin between two neighbours."""
    if after == " " or before == " ":
        return after != " "
    if after in _NEVER_FIRST or before in _NEVER_LAST or _JOINER in (before, after):
        return False
    if unicodedata.category(after)[0] == "M" or "\U0001f3fb" <= after <= "\U0001f3ff":  # marks, skin tones
        return False
    return is_cjk(before) or is_cjk(after)


class Rows:
    """Lays out a text a character at a time: `place` says where each one goes, at a cost that does not grow."""

    def __init__(self, width: int) -> None:
        self.width = max(2, width)
        self.start()

    def start(self) -> None:
        """A new line of the text begins."""
        self.column = self._word = self._word_cells = 0
        self._last = ""

    def place(self, char: str) -> int:
        """KEEP: it goes on in this row; DROP: a space that no row needs; n >= 0: it begins a row, and takes along
        the last n characters, which belong to its word."""
        size = WIDTHS[char]
        if self._last and _may_break(self._last, char):
            self._word = self._word_cells = 0
        self._last = char
        where = KEEP
        if size and self.column and self.column + size > self.width:
            if char == " ":
                return DROP
            if self._word_cells == self.column or self._word_cells + size > self.width:  # a word longer than a row
                self._word = self._word_cells = 0
            where, self.column = self._word, self._word_cells
        self.column += size
        self._word += 1
        self._word_cells += size
        return where


def divisions(line: str, width: int) -> list[int]:
    """The offsets at which a line of text is divided into rows of `width` cells; spaces may hang over the end."""
    rows, found = Rows(width), []
    for offset, char in enumerate(line):
        moved = rows.place(char)
        if moved >= 0:
            found.append(offset - moved)
    return found


def longest_unit(line: str) -> int:
    """How many cells the longest part takes that does not break: what a column must at least have to keep words."""
    longest = size = 0
    for before, char in zip(" " + line, line, strict=False):
        size = (0 if char == " " or _may_break(before, char) else size) + (WIDTHS[char] if char != " " else 0)
        longest = max(longest, size)
    return longest
