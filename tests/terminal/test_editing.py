"""Editing a message: keys sent to a prompt through prompt_toolkit's own pipe, nothing drawn."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import ColorDepth, DummyOutput
from wcwidth import wcswidth

from stellar_local.render.markdown import PlainView
from stellar_local.terminal.editing import _shown, fitted
from stellar_local.terminal.terminal import PromptTerminal, Suggestion
from stellar_local.texts import Texts

COMMANDS = ["/help", "/set", "/set temperature ", "/read 星图 1.md"]
UP, DOWN, LEFT, RIGHT, HOME, END = "\x1b[A", "\x1b[B", "\x1b[D", "\x1b[C", "\x1b[H", "\x1b[F"
ESC_ENTER, CTRL_J, TAB, BACKSPACE = "\x1b\r", "\n", "\t", "\x7f"
PASTE = "\x1b[200~{}\x1b[201~"


def suggest(text: str) -> Iterable[Suggestion]:
    for name in COMMANDS:
        if text.startswith("/") and name.startswith(text):
            yield Suggestion(name, len(text), "说明\x1b[2J")


class Screen(DummyOutput):
    """Draws nothing, in colour: without colours nothing is suggested."""

    def get_default_color_depth(self) -> ColorDepth:
        return ColorDepth.DEPTH_8_BIT


class Keys:
    """A prompt in memory: each call sends keys and gives the message that comes of them."""

    def __init__(self, pipe: PipeInput, path: Path | None = None, screen: DummyOutput | None = None) -> None:
        self.pipe, self.mode = pipe, "emacs"
        self.terminal = PromptTerminal(
            Texts("en"),
            suggest=suggest,
            toolbar=lambda columns: f"{columns} columns",
            view=lambda: PlainView(sys.stdout),
            history=path,
            keys=lambda: self.mode,
            keyboard=pipe,
            screen=screen or Screen(),
        )

    def __call__(self, *keys: str, default: str = "") -> str | None:
        self.pipe.send_text("".join(keys))
        return self.terminal.read(default)

    def later(self, typed: str, *keys: str) -> str | None:
        """Send keys when the prompt has drawn what was typed, and found the history and a suggestion."""
        threading.Timer(0.2, lambda: self.pipe.send_text("".join(keys))).start()
        return self(typed)


@pytest.fixture
def keys() -> Iterator[Keys]:
    with create_pipe_input() as pipe:
        yield Keys(pipe)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("你好\r", "你好"),
        ("\r", ""),
        ("ends with a backslash\\\r", "ends with a backslash\\"),
        (f"a{CTRL_J}b{CTRL_J}\r", "a\nb\n"),
        (f"a{ESC_ENTER}b\r", "a\nb"),
        (f"a{ESC_ENTER}b{UP}x{DOWN}y\r", "ax\nby"),
        (f"星图{BACKSPACE}座{LEFT}的\r", "星的座"),
        (f"one two{HOME}\x0b\r", ""),
        ("ab\x15c\r", "c"),
        ("undone\x17\x1f\r", "undone"),
        ('"""\r第一行\r\r  second\r"""\r', "第一行\n\n  second"),
        ('"""after\rbefore"""\r', "after\nbefore"),
        ('"""one line"""\r', "one line"),
        ('say """\r', 'say """'),
        ('"""open\r' + BACKSPACE * 8 + "closed\r", "closed"),
    ],
)
def test_what_is_typed_is_the_message(typed: str, message: str, keys: Keys) -> None:
    assert keys(typed) == message


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
def test_a_paste_is_one_message_that_can_be_edited(end: str, keys: Keys) -> None:
    lines = [f"第{number}行：什么是黑洞？\t{number}" for number in range(20)]
    assert keys(PASTE.format(end.join(lines)), "!\r") == "\n".join(lines) + "!"
    assert keys("before ", PASTE.format(f"a{end}b{end}"), " after\r") == "before a\nb\n after"


def test_a_pasted_file_with_a_docstring_is_sent_as_it_is(keys: Keys) -> None:
    code = '"""Stars."""\nimport math\n\ndef f():\n    """Doc."""\n'
    assert keys(PASTE.format(code), "\r") == code


def test_the_default_is_typed_already(keys: Keys) -> None:
    assert keys("!\r", default="一\n二") == "一\n二!"


def test_ctrl_c_clears_and_an_empty_line_tells_how_to_leave(keys: Keys, capsys: pytest.CaptureFixture[str]) -> None:
    assert keys("half a line\x03") == ""
    assert capsys.readouterr().err == ""
    assert keys("\x03") == ""
    assert capsys.readouterr().err == "[/exit or Ctrl-D leaves]\n"
    assert keys("still here\r") == "still here"


def test_ctrl_d_leaves_only_an_empty_line(keys: Keys) -> None:
    assert keys(f"ab{LEFT}\x04\r") == "a"
    assert keys("\x04") is None


def test_keys_beyond_a_message_are_the_next_one(keys: Keys) -> None:
    assert [keys("one\rtwo\rthr"), keys(), keys("ee\r")] == ["one", "two", "three"]


def test_up_moves_in_the_text_and_then_in_the_history(tmp_path: Path) -> None:
    with create_pipe_input() as pipe:
        keys = Keys(pipe, tmp_path / "history")
        for text in ("first", f"two{CTRL_J}lines", "/help", '"""\rblock\r"""'):
            keys(text, "\r")
    with create_pipe_input() as pipe:
        keys = Keys(pipe, tmp_path / "history")
        assert keys.later("x", BACKSPACE, UP, "\r") == "block"
        assert keys.later("", UP * 4, "\r") == "/help"  # three of them through the lines of the block
        assert keys.later("", UP * 6, "!", "\r") == "two\nlines!"
        assert keys.later("", UP * 2, DOWN, "\r") == "two\nlines!"


def test_the_history_suggests_the_rest_of_the_line(keys: Keys) -> None:
    keys("什么是黑洞？\r")
    keys(PASTE.format("什么是\x1b[2J中子星？\n第二行"), "\r")
    assert keys.later("什么", RIGHT, "\r") == "什么是␛[2J中子星？"  # the latest, its first line, made safe to show
    assert keys.later("什么是黑", "\x05\r") == "什么是黑洞？"
    assert keys.later("什么是黑", END, "\r") == "什么是黑"
    assert keys.later(" ", RIGHT, "\r") == " "


def test_without_colours_nothing_is_suggested() -> None:
    with create_pipe_input() as pipe:
        keys = Keys(pipe, screen=DummyOutput())
        keys("什么是黑洞？\r")
        assert keys.later("什么", RIGHT, "\r") == "什么"


def test_tab_completes_what_is_suggested(keys: Keys) -> None:
    assert keys.later("/h", TAB, "\r") == "/help"
    assert keys.later("/s", TAB, TAB, "\r") == "/set temperature "
    assert keys.later("/re", TAB, "\r") == "/read 星图 1.md"
    assert keys.later("nothing", TAB, "\r") == "nothing"


def test_the_keys_of_vi(keys: Keys) -> None:
    keys.mode = "vi"
    assert keys("abc\x1b0iX\x1b\r") == "Xabc"
    assert keys("one two\x1bbcw星\x1bA!\r") == "one 星!"
    assert keys(f"a{CTRL_J}b\r") == "a\nb"
    assert keys(PASTE.format("p\nq"), "\x1bggx\r") == "\nq"
    keys.mode = "emacs"
    assert keys("abc\x01X\r") == "Xabc"


def test_ctrl_r_searches(keys: Keys) -> None:
    keys("第一个 question\r")
    keys("second\r")
    assert keys.later("", "\x12quest\r", END, "!\r") == "第一个 question!"
    assert keys.later("typed", "\x12quest\x07\r") == "typed"  # Ctrl-G ends the search, and opens no editor


@pytest.mark.skipif(sys.platform == "win32", reason="the editor here is a shell script")
@pytest.mark.parametrize("key", ["\x07", "\x18\x05"], ids=["Ctrl-G", "Ctrl-X Ctrl-E"])
def test_the_editor_changes_the_text(
    key: str, keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("VISUAL", raising=False)
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nprintf "再加一行\\n" >> "$1"\n')
    editor.chmod(0o755)
    monkeypatch.setenv("EDITOR", str(editor))
    monkeypatch.setattr("stellar_local.terminal.terminal._screen", lambda: sys.__stderr__)
    assert keys("一行", key, "!\r") == "一行\n再加一行!"
    monkeypatch.setenv("EDITOR", "false")
    assert keys("kept", key, "\r") == "kept"
    assert "false ended with code 1" in capsys.readouterr().err


@pytest.mark.parametrize("columns", range(1, 45))
def test_the_toolbar_fits(columns: int) -> None:
    """Measured by wcwidth, as terminals do; the text is cut, never a character."""
    parts = [("bold", "星语者 13B"), ("", " · "), ("fg:red", "上下文\x1b[2J 3,012/4,096"), ("", "\nx"), ("", "长" * 30)]
    whole = "星语者 13B · 上下文␛[2J 3,012/4,096 x" + "长" * 30
    shown = "".join(text for _, text in fitted(parts, columns))
    assert columns - 1 <= wcswidth(shown) <= columns
    assert whole.startswith(shown)
    assert fitted("abc", 2) == [("", "ab")]


def test_nothing_typed_drives_the_terminal() -> None:
    assert _shown("黑洞 a\tb") == "黑洞 a\tb"
    assert _shown("a\u202eb\u2066\x9b\x7f") == "a\ufffdb\ufffd\ufffd\ufffd"
    assert _shown("\x1b[2J\x00") == "\x1b[2J\x00"  # prompt_toolkit shows these as ^[ and ^@
    assert len(_shown("a\u202e\u202e")) == 3  # a place for each character
