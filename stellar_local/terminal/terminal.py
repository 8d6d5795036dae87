"""Where a chat reads and writes: a terminal with line editing, or plain streams. Knows nothing of models.

Answers go to stdout with control sequences made harmless; everything else goes to stderr. prompt_toolkit is imported
where a prompt is opened, since it takes a while.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, TextIO

from ..console import LiveLine, folded, is_dumb, say
from ..errors import StellarError
from ..render.markdown import AnswerView, PlainView
from ..texts import Texts, language_of
from .editor import edit
from .quotes import ends, is_open, message_of
from .typeahead import kept

if TYPE_CHECKING:
    from prompt_toolkit.input import Input
    from prompt_toolkit.output import Output

_PROMPT, _CONTINUATION = "> ", "… "
_MENU_ROWS = 8


class Suggestion(NamedTuple):
    """One line of the completion menu: `text` replaces the last `length` characters before the cursor."""

    text: str
    length: int
    note: str = ""


class Terminal(Protocol):
    """What the chat loop needs of its surroundings."""

    interactive: bool

    def read(self, default: str = "") -> str | None:
        """The next message, perhaps of several lines, with `default` already typed; None at the end of input.

        Ctrl-C gives an empty message.
        """

    def write(self, text: str) -> None:
        """Show a piece of an answer at once: whole characters, which are made safe here."""

    def end_answer(self) -> None:
        """An answer is complete: the cursor goes to the start of a line."""

    def note(self, text: str) -> None:
        """Tell the user something that is no answer."""

    def progress(self, text: str) -> None:
        """Show one line that whatever comes next replaces, "" included; nothing without a terminal."""

    def edit(self, text: str) -> str | None:
        """The text as the user's editor saved it; None, after a note, if it didn't."""

    def answering(self) -> AbstractContextManager[None]:
        """While the block runs, an answer streams: typed keys are not shown but kept for the next prompt."""


class _Output:
    """The output side that all terminals share."""

    def __init__(self, view: Callable[[], AnswerView]) -> None:
        self._new_view = view
        self._view: AnswerView | None = None
        self._line = LiveLine() if sys.stderr.isatty() and not is_dumb() else None

    def write(self, text: str) -> None:
        self.progress("")
        self._view = self._view or self._new_view()
        self._view.feed(text)

    def end_answer(self) -> None:
        self.progress("")
        view, self._view = self._view or self._new_view(), None
        view.end()

    def note(self, text: str) -> None:
        self.progress("")
        if sys.stderr.isatty():  # broken between words, which the terminal would not do
            columns = max(shutil.get_terminal_size().columns - 1, 20)
            text = "\n".join(part for line in text.split("\n") for part in folded(line, columns))
        say(text)

    def progress(self, text: str) -> None:
        if self._line is None:
            return
        if text:
            self._line.show(text)
        else:
            self._line.close()


class PlainTerminal(_Output):
    """Lines from stdin, for pipes and scripts: no editing, and no prompt unless a person types in a dumb terminal."""

    def __init__(self, texts: Texts | None = None, prompt: bool = False) -> None:
        super().__init__(_plain_view)
        self._texts = texts or Texts(language_of())
        self.interactive = prompt
        self._begun = False

    def read(self, default: str = "") -> str | None:
        """A line, or a block of lines; `default` is of no use without editing."""
        try:
            text = self._line_after(_PROMPT)
            if text is not None and is_open(text):
                lines = [text]
                while (line := self._line_after(_CONTINUATION)) is not None:
                    lines.append(line)
                    if ends(line):
                        break
                text = "\n".join(lines)
        except KeyboardInterrupt:
            if not self.interactive:
                raise
            self.note("")
            return ""
        return None if text is None else message_of(text)

    def _line_after(self, prompt: str) -> str | None:
        """The next line without its end; None at the end of input."""
        if self.interactive:
            _screen().write(prompt)
            _screen().flush()
        line = sys.stdin.readline()
        if not self._begun:
            self._begun, line = True, line.removeprefix("\ufeff")  # as some programs begin a file
        return line.rstrip("\r\n") if line else None

    def edit(self, text: str) -> str | None:
        self.note(self._texts("input.editor_no_terminal"))
        return None

    def answering(self) -> AbstractContextManager[None]:
        return nullcontext()


class PromptTerminal(_Output):
    """Line editing by prompt_toolkit, on stderr where stdout is no terminal (`stellar chat MODEL | tee FILE`).

    `suggest` gives what may stand before the cursor, from the text up to there; `toolbar` what stands under the prompt,
    for so many columns, as text or as (style, text) pairs of prompt_toolkit; `view` shows one answer; `history` is the
    file of what was typed, None for memory alone; `keys` is asked before each prompt: "emacs" or "vi". `keyboard` and
    `screen` take the place of the terminal in tests.
    """

    interactive = True

    def __init__(
        self,
        texts: Texts,
        *,
        suggest: Callable[[str], Iterable[Suggestion]],
        toolbar: Callable[[int], str | Sequence[tuple[str, str]]] | None,
        view: Callable[[], AnswerView],
        history: Path | None,
        keys: Callable[[], str],
        keyboard: Input | None = None,
        screen: Output | None = None,
    ) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.output import ColorDepth

        from . import editing
        from .devices import expect_rewrapping, open_keyboard, open_screen
        from .history import MessageHistory

        super().__init__(view if sys.stdout.isatty() else _plain_view)
        self._texts, self._keys = texts, keys
        self._history_file, self._history = history, MessageHistory(history)
        screen = screen or open_screen(_screen())
        coloured = screen.get_default_color_depth() != ColorDepth.DEPTH_1_BIT  # else it looks like what is typed
        suggestion = editing.SuggestionFromHistory() if coloured else None

        def columns() -> int:
            return screen.get_size().columns

        self._session: PromptSession[str] = PromptSession(
            _PROMPT,
            multiline=True,
            prompt_continuation=editing.continuation,
            history=self._history,
            auto_suggest=suggestion,
            completer=editing.SuggestedCompletion(suggest),
            complete_while_typing=editing.types_command,
            key_bindings=editing.key_bindings(),
            input_processors=editing.text_processors(),
            bottom_toolbar=toolbar and (lambda: editing.fitted(toolbar(columns()), columns())),
            style=editing.STYLE,
            include_default_pygments_style=False,
            enable_suspend=True,
            input=keyboard or open_keyboard(),
            output=screen,
        )
        expect_rewrapping(self._session.app)

    def read(self, default: str = "") -> str | None:
        from .editing import EditorWanted

        self.progress("")
        while True:
            self._tell_about_history()
            try:
                return message_of(self._prompt(default))
            except EditorWanted:
                typed = self._session.default_buffer.text
                edited = self.edit(typed)
                default = typed if edited is None else edited
            except KeyboardInterrupt:
                if not self._session.default_buffer.text:
                    self.note(self._texts("input.how_to_leave"))
                return ""
            except EOFError:
                return None

    def _prompt(self, default: str) -> str:
        """What the user typed and sent. Raises EditorWanted, KeyboardInterrupt, EOFError."""
        from prompt_toolkit.enums import EditingMode

        from .devices import take_typed_ahead

        self._session.app.erase_when_done = False
        take_typed_ahead(self._session.input)
        mode = EditingMode.VI if self._keys() == "vi" else EditingMode.EMACS
        # The menu's rows must fit beside the line and the toolbar, or prompt_toolkit shows nothing but a complaint.
        rows = self._session.app.output.get_size().rows
        space = max(0, min(_MENU_ROWS, rows - 3))
        return self._session.prompt(default=default, editing_mode=mode, reserve_space_for_menu=space)

    def _tell_about_history(self) -> None:
        """Say, once, that the history is not kept."""
        from .history import DAMAGED

        problem, self._history.problem = self._history.problem, ""
        if problem == DAMAGED:
            self.note(self._texts("input.history_damaged", path=self._history_file))
        elif problem:
            self.note(self._texts("input.history_lost", path=self._history_file, reason=problem))

    def edit(self, text: str) -> str | None:
        self.progress("")
        try:
            return edit(text, self._texts, _screen())
        except StellarError as error:
            self.note(error.message)
            return None

    def answering(self) -> AbstractContextManager[None]:
        return kept(sys.stdin.fileno(), _screen().fileno())


def _plain_view() -> AnswerView:
    return PlainView(sys.stdout)


def _screen() -> TextIO:
    """The stream that the person at the keyboard sees: stdout, or stderr where stdout is no terminal."""
    return sys.stdout if sys.stdout.isatty() else sys.stderr


def open_terminal(
    texts: Texts,
    *,
    suggest: Callable[[str], Iterable[Suggestion]],
    toolbar: Callable[[int], str | Sequence[tuple[str, str]]] | None,
    view: Callable[[], AnswerView],
    history: Path | None,
    keys: Callable[[], str],
) -> Terminal:
    """The terminal for this process, as PromptTerminal says; plain lines where either end is no terminal."""
    if not sys.stdin.isatty() or not _screen().isatty():
        return PlainTerminal(texts)
    if is_dumb():
        return PlainTerminal(texts, prompt=True)
    return PromptTerminal(texts, suggest=suggest, toolbar=toolbar, view=view, history=history, keys=keys)
