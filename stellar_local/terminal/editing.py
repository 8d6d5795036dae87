"""How a message is edited: keys, completion, suggestions from the history, what is shown of a text.

Knows prompt_toolkit and the rules for several lines; knows no commands and opens no devices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from prompt_toolkit.application.current import get_app
from prompt_toolkit.auto_suggest import AutoSuggest, Suggestion
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import Condition, emacs_mode, has_focus, has_selection
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.layout.processors import Processor, TabsProcessor, Transformation, TransformationInput
from prompt_toolkit.styles import Style

from ..console import cells, cut, one_line, printable
from .quotes import is_open

STYLE = Style.from_dict({"bottom-toolbar": "noreverse", "bottom-toolbar.text": "fg:#888888"})
_LONGEST_SUGGESTION = 200  # characters: a whole page in grey would only jump about


class EditorWanted(Exception):
    """Raised out of the prompt when the text is to be edited in the user's editor."""


def key_bindings() -> KeyBindings:
    """The keys that differ from prompt_toolkit's own: Enter sends unless a block is open, Alt-Enter breaks the line."""
    bindings = KeyBindings()
    typing = has_focus(DEFAULT_BUFFER)  # not searching

    @bindings.add("enter", filter=typing)
    def send(event: KeyPressEvent) -> None:
        if is_open(event.current_buffer.text):
            event.current_buffer.insert_text("\n")
        else:
            event.current_buffer.validate_and_handle()

    @bindings.add("c-j", filter=typing)
    @bindings.add("escape", "enter", filter=typing & emacs_mode)
    def break_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @bindings.add("c-g", filter=typing & ~has_selection)
    @bindings.add("c-x", "c-e", filter=typing)
    def open_editor(event: KeyPressEvent) -> None:
        event.app.erase_when_done = True
        event.app.exit(exception=EditorWanted())

    return bindings


@Condition
def types_command() -> bool:
    """Whether what stands in the prompt is a command so far."""
    text = get_app().current_buffer.text
    return text.startswith("/") and "\n" not in text


class SuggestedCompletion(Completer):
    """The menu of what may stand before the cursor, from a function of the text up to there.

    It gives what to insert, how many characters before the cursor that replaces, and a note.
    """

    def __init__(self, suggest: Callable[[str], Iterable[tuple[str, int, str]]]) -> None:
        self._suggest = suggest

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        for text, length, note in self._suggest(document.text_before_cursor):
            yield Completion(text, -length, display=one_line(text), display_meta=one_line(note))


class SuggestionFromHistory(AutoSuggest):
    """The rest of the line of the latest message that began as this one does."""

    def get_suggestion(self, buffer: Buffer, document: Document) -> Suggestion | None:
        text = document.text
        if not text.strip():
            return None
        for entry in reversed(buffer.history.get_strings()):
            if entry.startswith(text):
                rest = printable(entry[len(text) :].partition("\n")[0])
                if 0 < len(rest) <= _LONGEST_SUGGESTION:
                    return Suggestion(rest)
        return None


class _Visible(Processor):
    """Shows U+FFFD for what would drive the terminal or turn the text around and is not shown as ^X anyway."""

    def apply_transformation(self, transformation_input: TransformationInput) -> Transformation:
        return Transformation([(style, _shown(text)) for style, text, *_ in transformation_input.fragments])


def _shown(text: str) -> str:
    if printable(text) == text:
        return text
    return "".join(char if char < " " or printable(char) else "\ufffd" for char in text)


def text_processors() -> list[Processor]:
    """How the text in the prompt is shown: each character in the place where it stands, tabs as spaces."""
    return [_Visible(), TabsProcessor(tabstop=4, char1=" ", char2=" ")]


def continuation(width: int, line: int, wrapped: int) -> str:
    """What stands before each line but the first; nothing where only the screen breaks the line."""
    return "" if wrapped else "… "


def fitted(parts: str | Sequence[tuple[str, str]], columns: int) -> StyleAndTextTuples:
    """Styled text as one line of at most `columns` cells, made safe to show."""
    shown: StyleAndTextTuples = []
    for style, text in [("", parts)] if isinstance(parts, str) else parts:
        piece = cut(one_line(text), columns)
        columns -= cells(piece)
        shown.append((style, piece))
        if piece != one_line(text):
            break
    return shown
