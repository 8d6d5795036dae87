"""The keyboard and the screen as prompt_toolkit is to see them: pastes whole, no questions to the terminal.

Knows prompt_toolkit's interfaces and what terminals send; knows nothing of chats.
"""

from __future__ import annotations

import errno
import os
import select
import sys
from typing import Any, TextIO

from prompt_toolkit.application import Application
from prompt_toolkit.data_structures import Point
from prompt_toolkit.input import Input, create_input
from prompt_toolkit.input.posix_utils import PosixStdinReader
from prompt_toolkit.input.typeahead import store_typeahead
from prompt_toolkit.layout.screen import Char
from prompt_toolkit.output import ColorDepth, Output, create_output
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.renderer import Renderer
from prompt_toolkit.utils import get_bell_environment_variable, get_term_environment_variable

_PASTE, _PASTED = "\x1b[200~", "\x1b[201~"
# Variables of terminals that mark pastes; others do as well, and show it with the first.
_MARKERS = ("TMUX", "TERM_PROGRAM", "VTE_VERSION", "KITTY_WINDOW_ID", "WT_SESSION", "ALACRITTY_WINDOW_ID")
_PAUSE = 0.01  # seconds between two keys that no typist stays under


class KeyReader(PosixStdinReader):
    """The terminal's bytes as text. Bytes that are no UTF-8 become U+FFFD.

    Lines that come faster than anyone types are a paste in a terminal that does not mark pastes: it is marked here. Not
    where the terminal marks them, as far as that is known: there they are keys that a slow line delivered together.
    """

    def __init__(self, keyboard: int) -> None:
        super().__init__(keyboard, errors="replace", encoding="utf-8")
        self.typed_ahead = False  # what is read now was typed before the prompt was there
        self.idle = False  # the last read gave nothing
        self._in_paste = False
        self._recent = ""
        self._marks = any(os.environ.get(name) for name in _MARKERS)

    def read(self, count: int = 1024) -> str:
        text = super().read(count)
        self.idle = not text
        if self._marked(text):
            return text
        if self.typed_ahead:  # each line a message of its own; Enter was a line feed while the terminal was as usual
            return text.replace("\n", "\r")
        if self._marks:
            return text.replace("\x1b\r", "\n")
        text = text.replace("\x1b\r", "\n")  # Alt-Enter: both in one read. In vi, Escape and a later Enter are two keys
        while len(text) > 1 and _breaks(text) and select.select([self.stdin_fd], [], [], _PAUSE)[0]:
            more = super().read(count)
            if self._marked(more) or not more:
                return text + more
            text += more
        pasted = _breaks(text.rstrip("\r\n")) and not any(map(_is_key, text))
        return f"{_PASTE}{text}{_PASTED}" if pasted else text

    def _marked(self, text: str) -> bool:
        """Whether the text is, in part, a paste that the terminal has marked."""
        before = self._in_paste
        recent = self._recent + text  # a mark may come in two parts
        begun, ended = recent.rfind(_PASTE), recent.rfind(_PASTED)
        if begun != ended:
            self._in_paste = begun > ended
        self._recent = recent[1 - len(_PASTE) :]
        self._marks = self._marks or begun >= 0
        return before or begun != ended


def _breaks(text: str) -> bool:
    return "\r" in text or "\n" in text


def _is_key(char: str) -> bool:
    """Whether a character comes of a key alone, such as an arrow or Backspace, and of no text."""
    return char == "\x7f" or (char < " " and char not in "\r\n\t")


def open_keyboard() -> Input:
    """Standard input, a terminal, as prompt_toolkit reads it."""
    keyboard = create_input(sys.stdin)
    if hasattr(keyboard, "stdin_reader"):  # not on Windows, whose console tells pastes by itself
        keyboard.stdin_reader = KeyReader(sys.stdin.fileno())
    return keyboard


def take_typed_ahead(keyboard: Input) -> None:
    """Give the next prompt the keys that were typed before it: they are told from those typed in it."""
    reader = getattr(keyboard, "stdin_reader", None)
    if not isinstance(reader, KeyReader):
        return
    reader.typed_ahead = True
    with keyboard.raw_mode():
        reader.idle = False
        while not reader.idle and select.select([keyboard.fileno()], [], [], 0)[0]:
            store_typeahead(keyboard, keyboard.read_keys())
    reader.typed_ahead = False


class _Screen(Vt100_Output):
    """A terminal that is never asked where its cursor is: over a slow line the answer would end up in the text."""

    def get_rows_below_cursor_position(self) -> int:
        """What prompt_toolkit asks the terminal for where this is unknown: it must be known for a toolbar to be shown,
        and with one row that stands right under the text."""
        return 1

    def flush(self) -> None:
        """Show what was drawn; to a terminal that has gone, nothing: the keyboard tells that the input has ended."""
        try:
            super().flush()
        except OSError as error:
            if error.errno != errno.EIO:
                raise

    def erase_down(self) -> None:
        """Erase from the start of a line on, its first character by itself: tmux keeps a copy of a screen that is
        erased from its very beginning."""
        self.write_raw("\x1b[K\x1b[C\x1b[J\x1b[D")


def open_screen(stream: TextIO) -> Output:
    """The terminal that `stream` writes to."""
    if sys.platform == "win32":
        return create_output(stream)
    return _Screen.from_pty(
        stream,
        term=get_term_environment_variable(),
        default_color_depth=ColorDepth.from_env(),
        enable_bell=get_bell_environment_variable(),
    )


# Terminals that wrap lines anew when they become narrower; GNU screen, which sets STY, does not and hides the others.
_REWRAPPING = ("TMUX", "VTE_VERSION", "KITTY_WINDOW_ID", "KONSOLE_VERSION", "ITERM_SESSION_ID", "WEZTERM_PANE")
_REWRAPPING_TERMS = ("tmux", "foot", "alacritty", "xterm-kitty", "xterm-ghostty")


class _Renderer(Renderer):
    """Wipes out the whole prompt after a resize: a narrower terminal has made more lines of it than were drawn."""

    def erase(self, leave_alternate_screen: bool = True) -> None:
        columns = self.output.get_size().columns
        if self._last_screen and self._last_size and columns < self._last_size.columns:
            x, y = self._cursor_pos
            drawn = [self._last_screen.data_buffer[row] for row in range(y + 1)]
            above = sum(_lines_of([row[at] for at in range(_length(row))], columns) for row in drawn[:y])
            own = _lines_of([drawn[y][at] for at in range(x)], columns)
            self._cursor_pos = Point(x, above + own - 1)
        super().erase(leave_alternate_screen)


def _length(row: dict[int, Char]) -> int:
    """How many cells of a row were drawn: spaces at its end are not."""
    return 1 + max((at for at, cell in row.items() if cell.char != " "), default=0)


def _lines_of(cells: list[Char], columns: int) -> int:
    """How many lines a terminal of so many columns makes of these cells; it leaves wide characters whole."""
    lines = 1
    used = 0
    for cell in cells:
        if used + cell.width > columns:
            lines, used = lines + 1, 0
        used += cell.width
    return lines


def expect_rewrapping(application: Application[Any]) -> None:
    """Let the prompt know how the terminal wraps, where that is known; else a few broken lines are left by a resize."""
    named = any(name in os.environ for name in _REWRAPPING)
    if "STY" not in os.environ and (named or os.environ.get("TERM", "").startswith(_REWRAPPING_TERMS)):
        application.renderer = _Renderer(application.renderer.style, application.output)
