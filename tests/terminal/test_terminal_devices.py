"""The keyboard as prompt_toolkit gets it: characters whole, pastes marked; and how terminals wrap lines anew."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator

import pytest

if sys.platform == "win32":
    pytest.skip("the reader is for POSIX terminals", allow_module_level=True)

from prompt_toolkit.layout.screen import Char

from stellar_local.terminal.devices import KeyReader, _lines_of

BEGIN, END = "\x1b[200~", "\x1b[201~"


class Keyboard:
    """A reader of a pipe, and what comes of bytes that arrive together."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        self.reader = KeyReader(self._read)

    def send(self, text: str | bytes) -> None:
        os.write(self._write, text.encode("utf-8") if isinstance(text, str) else text)

    def __call__(self, *pieces: str | bytes) -> str:
        """What is read of pieces, each of which arrives by itself."""
        shown = ""
        for piece in pieces:
            self.send(piece)
            shown += self.reader.read()
        return shown

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)


@pytest.fixture
def keyboard() -> Iterator[Keyboard]:
    made = Keyboard()
    yield made
    made.close()


def test_characters_are_whole_however_their_bytes_come(keyboard: Keyboard) -> None:
    assert keyboard(*(bytes([byte]) for byte in "黑洞🌟é".encode())) == "黑洞🌟é"
    assert keyboard(b"a\xffb\xe9") == "a\ufffdb"
    assert keyboard(b"\xbb\x91") == "黑"


@pytest.mark.parametrize(
    "keys",
    ["a", "a\r", "hello\r", "你好\r", "\r", "\n", "\x1b[A", "\x1b", "\x03", "a\tb", "\x1b[A\r\x1b[A\r", "ab\x7f\rc"],
)
def test_typed_keys_stay_as_they_are(keys: str, keyboard: Keyboard) -> None:
    assert keyboard(keys) == keys


def test_alt_enter_is_a_line_break_in_every_mode(keyboard: Keyboard) -> None:
    assert keyboard("\x1b\r") == "\n"
    assert keyboard("\x1b", "\r") == "\x1b\r"  # Escape, then Enter, as a user of vi types them


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
def test_lines_that_come_at_once_are_a_paste(end: str, keyboard: Keyboard) -> None:
    assert keyboard(f"第一行{end}\tsecond{end}") == f"{BEGIN}第一行{end}\tsecond{end}{END}"
    assert keyboard(f"one{end}two") == f"{BEGIN}one{end}two{END}"


def test_lines_that_come_one_after_another_too(keyboard: Keyboard) -> None:
    def lines() -> None:
        for number in range(5):
            keyboard.send(f"line {number}\r")
            time.sleep(0.003)

    sender = threading.Thread(target=lines)
    sender.start()
    time.sleep(0.001)
    read = keyboard.reader.read()
    sender.join()
    assert read == BEGIN + "".join(f"line {number}\r" for number in range(5)) + END


def test_a_paste_longer_than_one_read_is_one(keyboard: Keyboard) -> None:
    text = "".join(f"这是第{number}行\r" for number in range(200))
    assert keyboard(text) == BEGIN + text + END


@pytest.mark.parametrize("cut", range(1, 40))
def test_what_the_terminal_has_marked_is_left_alone(cut: int, keyboard: Keyboard) -> None:
    """Wherever the reads fall, the inside of a paste is never taken for another one."""
    pasted = f"{BEGIN}one\rtwo\rthree\rfour\rfive{END}x\r"
    assert keyboard(pasted[:cut], pasted[cut:]) == pasted
    assert keyboard("a\rb") == "a\rb"  # and lines without a mark are keys, in a terminal that sets them


def test_a_marked_paste_right_behind_lines_is_left_alone(keyboard: Keyboard) -> None:
    keyboard.send("one\rtwo")
    threading.Timer(0.003, lambda: keyboard.send(f"{BEGIN}a\rb")).start()
    read = keyboard.reader.read() + keyboard("c\rd" + END)
    assert read in (f"one\rtwo{BEGIN}a\rbc\rd{END}", f"{BEGIN}one\rtwo{END}{BEGIN}a\rbc\rd{END}")


def test_what_was_typed_before_the_prompt_is_lines(keyboard: Keyboard) -> None:
    keyboard.reader.typed_ahead = True
    assert keyboard("one\ntwo\r") == "one\rtwo\r"
    assert keyboard(f"{BEGIN}a\nb{END}") == f"{BEGIN}a\nb{END}"


def test_the_end_of_input(keyboard: Keyboard) -> None:
    os.close(keyboard._write)
    assert keyboard.reader.read() == ""
    assert keyboard.reader.closed
    keyboard._write = os.dup(keyboard._read)


def row(text: str) -> list[Char]:
    """The cells of a text, as prompt_toolkit draws it: an empty one behind each wide character."""
    cells = []
    for char in text:
        cells.append(Char(char))
        cells += [Char("")] * (cells[-1].width - 1)
    return cells


@pytest.mark.parametrize(
    ("text", "columns", "lines"),
    [
        ("", 10, 1),
        ("a" * 10, 10, 1),
        ("a" * 11, 10, 2),
        ("星" * 5, 10, 1),
        ("a" + "星" * 5, 10, 2),
        ("a" + "星" * 10, 11, 2),
        ("a" + "星" * 10, 10, 3),  # a wide character does not fit into one column: 9, 8, 4
    ],
)
def test_how_many_lines_a_narrower_terminal_makes(text: str, columns: int, lines: int) -> None:
    assert _lines_of(row(text), columns) == lines
