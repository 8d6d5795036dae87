"""The page on which a person judges: the question on top, two answers without names, keys for a vote.

`Page` says what stands on each line for any size of a window, and what a key does; `show` runs it in a terminal. Knows
terminals and ballots; knows no model's name, so that it can show none.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, TextIO

from ...console import cells, cut, fitted, folded, is_dumb, one_line, printable
from ...errors import ExitCode, StellarError, UsageError
from ...interrupts import caught
from .ballots import BOTH_BAD, EQUAL, LEFT, RIGHT, Ballots
from .pairs import Pair
from .wording import page_text

if TYPE_CHECKING:
    from prompt_toolkit.application import Application

WIDE = 90  # columns, from which on two answers stand side by side
_KEYS = {"1": LEFT, "2": RIGHT, "3": EQUAL, "=": EQUAL, "4": BOTH_BAD}
_LINES = {"up": -1, "k": -1, "down": 1, "j": 1}


@lru_cache(maxsize=64)
def lines_of(text: str, columns: int) -> Sequence[str]:
    """A model's text as lines of at most so many columns, without anything that drives a terminal."""
    lines: list[str] = []
    for line in printable(text).expandtabs(4).splitlines() or [""]:
        for part in folded(line, columns):
            while cells(part) > columns:  # one long word
                head = cut(part, columns) or part[:1]
                lines.append(head)
                part = part[len(head) :]
            lines.append(part)
    return lines


@dataclass(frozen=True)
class Picture:
    """What a window shows: lines of the head, the question, the body (one column or two) and the foot."""

    head: str
    question: Sequence[str]
    bodies: Sequence[Sequence[str]]  # of two, each begins with its heading
    width: int  # columns of a body
    foot: Sequence[str]


@dataclass
class Page:
    """The page's state. `offset` is how many lines were scrolled off, of the question first, then of the answers."""

    ballots: Ballots
    language: str
    offset: int = 0
    turn: int = 0
    seen: int = 0  # the last turn that was looked at
    note: str = ""
    _furthest: int = field(default=0, repr=False)
    _screenful: int = field(default=1, repr=False)

    def press(self, key: str) -> bool:
        """Do what a key says, by its name: a character, or up, down, pageup, pagedown, home, end.

        True if the page is to close. Raises StellarError where a vote cannot be written.
        """
        pair = self.ballots.current
        if pair is None:
            return True
        self.note = ""
        last = len(pair.question.turns) - 1
        if key in _KEYS:
            if self.seen < last:
                self.note = page_text(self.language, "see_all")
                return False
            self.ballots.vote(_KEYS[key])
            self._begin()
        elif key == "s":
            self.ballots.skip()
            self._begin()
        elif key == "b":
            if self.ballots.back():
                self._begin()
            else:
                self.note = page_text(self.language, "no_earlier")
        elif key in ("n", "p"):
            self.turn = min(self.turn + 1, last) if key == "n" else max(self.turn - 1, 0)
            self.seen, self.offset = max(self.seen, self.turn), 0
        elif key in _LINES:
            self._scroll(self.offset + _LINES[key])
        elif key in ("pageup", "pagedown", " "):
            self._scroll(self.offset + (-1 if key == "pageup" else 1) * max(self._screenful - 1, 1))
        elif key in ("home", "end"):
            self._scroll(0 if key == "home" else self._furthest)
        return key == "q" or self.ballots.current is None

    def _begin(self) -> None:
        """Another pair: from its first turn and line; one that was judged has been seen."""
        pair = self.ballots.current
        self.offset = self.turn = self.seen = 0
        if pair and self.ballots.vote_of(pair):
            self.seen = len(pair.question.turns) - 1

    def _scroll(self, offset: int) -> None:
        self.offset = max(0, min(offset, self._furthest))

    def picture(self, columns: int, rows: int) -> Picture:
        """What a window of this size shows now."""
        pair = self.ballots.current
        if pair is None:
            return Picture("", (), ((),), columns, ("",))
        wide = columns >= WIDE
        keys = lines_of(self._keys_line(wide, len(pair.question.turns) > 1), columns)
        room = max(rows - 2 - len(keys), 3)  # the head, and the line of notes
        question = lines_of(f"{self._say('asked')}: {pair.question.turns[self.turn]}", columns)
        sides = (pair.a, pair.b) if self.ballots.left == "a" else (pair.b, pair.a)
        width = (columns - 3) // 2 if wide else columns
        answers = [lines_of(side[self.turn].strip() or self._say("nothing"), width) for side in sides]
        if wide:
            top = min(len(question), max(room // 3, 1))
            columns_of, names = answers, [self._say("left"), self._say("right")]
        else:  # one column, scrolled as a whole
            top, names = 0, []
            (first, second), rule = answers, "─" * columns
            columns_of = [[*question, rule, self._say("first"), *first, rule, self._say("second"), *second]]
        under = max(room - top - len(names[:1]), 1)
        hidden = len(question) - top if wide else 0
        longest = max(map(len, columns_of))
        self._furthest, self._screenful = hidden + max(longest - under, 0), under
        self._scroll(self.offset)
        begun, start = min(self.offset, hidden), max(self.offset - hidden, 0)
        bodies = [lines[start : start + under] for lines in columns_of]
        note = self.note or (self._say("more") if longest > start + under or begun < hidden else "")
        return Picture(
            self._head(pair, columns),
            question[begun : begun + top],
            [[name, *lines] for name, lines in zip(names, bodies, strict=True)] if names else bodies,
            width,
            [fitted(note, columns), *keys],
        )

    def _head(self, pair: Pair, columns: int) -> str:
        parts = [self._say("head", number=self.ballots.number, total=len(self.ballots.pairs))]
        if pair.question.category:
            parts.append(one_line(pair.question.category))
        if len(pair.question.turns) > 1:
            parts.append(self._say("turn", turn=self.turn + 1, turns=len(pair.question.turns)))
        if vote := self.ballots.vote_of(pair):
            parts.append(self._say("voted", vote=self._say(f"vote_{vote['choice']}")))
        return fitted(" · ".join(parts), columns)

    def _keys_line(self, wide: bool, several: bool) -> str:
        keys = self._say("keys" if wide else "keys_stacked")
        return f"{keys}   {self._say('keys_turns')}" if several else keys

    def _say(self, name: str, **values: object) -> str:
        return page_text(self.language, name, **values)


def _screen() -> TextIO:
    """The stream that the person at the keyboard sees."""
    return sys.stdout if sys.stdout.isatty() else sys.stderr


def possible() -> bool:
    """Whether there is a terminal for the page."""
    return sys.stdin.isatty() and _screen().isatty() and not is_dumb()


def show(ballots: Ballots, language: str) -> ExitCode | None:
    """Let a person judge until all pairs are or the page is closed; every vote is in the log by then. Returns the code
    of the signal or Ctrl-C that closed it, None where none did.

    Raises UsageError without a terminal, StellarError where a vote cannot be written, after the page has closed.
    """
    if not possible():
        raise UsageError(
            "people judge in a terminal, and this is none",
            "run it in one, or let a model judge: --judge openai --endpoint URL --judge-model NAME, or --judge MODEL",
        )
    page = Page(ballots, language)
    failed: list[StellarError] = []
    ended: list[ExitCode] = []

    def press(key: str) -> bool:
        if key == "c-c":
            ended.append(ExitCode.INTERRUPTED)
            return True
        try:
            return page.press(key)
        except StellarError as error:
            failed.append(error)
            return True

    application = _application(page, press)

    def end(number: int) -> None:
        ended.append(ExitCode.INTERRUPTED if number == signal.SIGINT else ExitCode.TERMINATED)
        if application.loop:
            application.loop.call_soon_threadsafe(_close, application)

    with caught(end), suppress(EOFError):  # the terminal is gone
        if ballots.current is not None:
            application.run(handle_sigint=False)
    if failed:
        raise failed[0]
    return ended[0] if ended else None


def _close(application: Application[None]) -> None:
    if application.is_running and not application.is_done:
        application.exit()


def _application(page: Page, press: Callable[[str], bool]) -> Application[None]:
    """The page as a program for the whole terminal."""
    from prompt_toolkit.application import Application
    from prompt_toolkit.filters import Condition
    from prompt_toolkit.formatted_text import StyleAndTextTuples
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
    from prompt_toolkit.layout import ConditionalContainer, FormattedTextControl, HSplit, Layout, VSplit, Window
    from prompt_toolkit.layout.dimension import Dimension

    from ...terminal.devices import open_keyboard, open_screen

    screen = open_screen(_screen())

    def picture() -> Picture:
        size = screen.get_size()
        return page.picture(size.columns, size.rows)

    def window(lines: Callable[[], Sequence[str]], style: str = "", fixed: bool = True, first: str = "") -> Window:
        """A part of the page, of a fixed height or of all that is left; its `first` line may have its own style."""

        def text() -> StyleAndTextTuples:
            return [(first if not number else "", f"{line}\n") for number, line in enumerate(lines())]

        return Window(
            FormattedTextControl(text),
            height=(lambda: Dimension.exact(len(lines()))) if fixed else None,
            width=None if fixed else (lambda: Dimension.exact(picture().width)),
            style=style,
            always_hide_cursor=True,
        )

    wide = Condition(lambda: len(picture().bodies) > 1)
    two = VSplit(
        [
            window(lambda: picture().bodies[0], fixed=False, first="bold"),
            Window(width=1),
            Window(width=1, char="│"),
            Window(width=1),
            window(lambda: picture().bodies[-1], fixed=False, first="bold"),
        ]
    )
    layout = HSplit(
        [
            window(lambda: [picture().head], "reverse"),
            window(lambda: picture().question, "bold"),
            ConditionalContainer(two, wide),
            ConditionalContainer(window(lambda: picture().bodies[0], fixed=False), ~wide),
            window(lambda: picture().foot, "", first="italic"),
        ]
    )
    bindings = KeyBindings()

    def bind(name: str, meaning: str) -> None:
        @bindings.add(name)
        def _(event: KeyPressEvent) -> None:
            if press(meaning):
                _close(event.app)

    for name in [*"1234=sbnpqkj ", "up", "down", "pageup", "pagedown", "home", "end"]:
        bind(name, name)
    for name in "SBNPQ":
        bind(name, name.lower())
    for number, name in enumerate("１２３４", 1):  # a Chinese input method's digits
        bind(name, str(number))
    bind("c-c", "c-c")
    bind("c-d", "q")
    return Application(Layout(layout), key_bindings=bindings, full_screen=True, input=open_keyboard(), output=screen)
