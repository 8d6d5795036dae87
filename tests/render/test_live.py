"""The live region in a terminal: it shows text at once, replaces only what is its own, and knows when it cannot."""

from __future__ import annotations

import os
import pty
import struct
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from screens import ALLOWED, Screen

from stellar_local.render.layout import divisions
from stellar_local.render.live import Live, size_of

PARTS = st.sampled_from(["a", "word", " ", "  ", "\n", "\n\n", "\t", "恒星，", "（", "e\u0301", "👨", "☰", "a" * 25])
TEXTS = st.lists(PARTS, min_size=1, max_size=30).map("".join)


def shown(screen: Screen) -> list[str]:
    return screen.rows()


def region(columns: int = 20, lines: int = 10, above: int = 0) -> tuple[Screen, Live]:
    screen = Screen(columns, lines)
    screen.write("".join(f"up {number}\n" for number in range(above)))
    screen.writes.clear()
    return screen, Live(screen, screen.size)


@given(TEXTS, st.lists(st.integers(1, 9)), st.integers(5, 30))
def test_text_is_shown_in_the_same_rows_however_it_comes(text: str, cuts: list[int], columns: int) -> None:
    screen, live = region(columns, 200)
    rest = text
    for cut in cuts:
        live.add(rest[:cut])
        live.flush()
        rest = rest[cut:]
    live.add(rest)
    live.flush()
    if "\t" not in text:
        lines = text.split("\n")
        edges = [[0, *divisions(line, columns - 1), len(line)] for line in lines]
        ends = [(line, a, b) for line, at in zip(lines, edges, strict=True) for a, b in zip(at, at[1:], strict=False)]
        rows = [line[a:b].rstrip() for line, a, b in ends]
        assert shown(screen) == [unicodedata.normalize("NFC", row) for row in rows]  # as pyte does
    whole, once = region(columns, 200)
    once.add(text)
    once.flush()
    assert shown(whole) == shown(screen)
    assert len(whole.writes) == 1


@given(TEXTS, TEXTS, st.booleans(), st.integers(5, 30), st.integers(0, 12))
def test_replacing_touches_nothing_above(text: str, other: str, flushed: bool, columns: int, above: int) -> None:
    screen, live = region(columns, 12, above)
    live.add(text)
    if flushed:
        live.flush()
    own = above
    whole = live.whole
    screen.screen.touched.clear()
    live.replace("new\nrows\n", "line\n")
    live.flush()
    rows = shown(screen)
    assert rows[:above] == [f"up {number}" for number in range(above)]
    assert all(row >= own for row in screen.screen.touched)
    if whole:
        assert rows[own:] == ["new", "rows", ""]
    assert screen.screen.cursor.x == 0
    assert all(map(ALLOWED.fullmatch, screen.sequences()))
    live.add(other)
    live.flush()
    live.leave()
    live.flush()
    assert screen.screen.cursor.x == 0


def test_a_word_that_does_not_fit_moves_to_the_next_row() -> None:
    screen, live = region(10)
    for char in "one two th":
        live.add(char)
        live.flush()
    assert shown(screen) == ["one two", "th"]
    live.add("ree, ok")
    live.flush()
    assert shown(screen) == ["one two", "three, ok"]


def test_replacing_is_one_write_in_synchronized_output() -> None:
    screen, live = region()
    live.add("some **bold** text that takes rows")
    live.flush()
    before = len(screen.writes)
    live.replace("\x1b[1mbold\x1b[0m\n", "")
    live.add("next")
    live.flush()
    (write,) = screen.writes[before:]
    assert write.startswith("\x1b[?2026h")
    assert write.index("\x1b[?2026l") > write.index("bold")
    assert shown(screen) == ["bold", "next"]


def test_rows_that_are_right_already_are_not_written_again() -> None:
    screen, live = region()
    live.add("plain text, and *em* here")
    live.flush()
    before = len(screen.writes)
    live.replace("plain text, and em\nhere\n", "")
    live.flush()
    assert "plain" in "".join(screen.writes[before:])
    live.add("nothing to change, two rows")
    live.flush()
    before = len(screen.writes)
    live.replace("nothing to change,\ntwo rows\n", "")
    live.flush()
    assert screen.writes[before:] == ["\n"]
    assert shown(screen) == ["plain text, and em", "here", "nothing to change,", "two rows", ""]


def test_what_was_never_shown_is_not_erased() -> None:
    screen, live = region()
    live.add("raw **text**")
    live.replace("text\n", "")
    live.add("more")
    live.flush()
    assert screen.written == "text\nmore"


def test_a_region_taller_than_the_screen_stays_but_its_last_line_may_go() -> None:
    screen, live = region(20, 5, above=2)
    live.add("".join(f"row {number}\n" for number in range(6)) + "# title")
    live.flush()
    assert (live.whole, live.line_whole) == (False, True)
    live.replace("ALL\nTITLE\n", "TITLE\n")
    live.flush()
    assert shown(screen) == ["up 0", "up 1", *(f"row {number}" for number in range(6)), "TITLE", ""]
    live.add("x" * 200)
    live.flush()
    assert (live.whole, live.line_whole) == (False, False)
    live.replace("ALL\n", "LINE\n")
    live.flush()
    assert "".join(shown(screen)).count("x") == 200
    assert "LINE" not in screen.text()
    assert live.empty


@pytest.mark.parametrize("columns", [12, 40])
def test_after_a_resize_nothing_is_erased_until_the_region_is_over(columns: int) -> None:
    screen, live = region(20, 10, above=3)
    live.add("some words in two rows")
    live.flush()
    screen.resize(columns, 10)
    screen.writes.clear()
    for piece in (" and", " more words\n", "last"):
        live.add(piece)
        live.flush()
    assert (live.whole, live.line_whole) == (False, False)
    live.replace("ALL\n", "LINE\n")
    live.flush()
    assert screen.written == " and more words\nlast\n"
    live.add("raw")
    live.flush()
    assert live.whole
    live.replace("new\n", "")
    live.flush()
    assert shown(screen)[-2:] == ["new", ""]


def test_a_screen_that_became_lower_may_have_scrolled_rows_away() -> None:
    screen, live = region(20, 10)
    live.add("a\nb\nc\nd\ne")
    live.flush()
    screen.lines = 4
    live.replace("ALL\n", "E\n")
    live.flush()
    assert [row for row in shown(screen) if row] == ["a", "b", "c", "d", "E"]


def test_on_a_screen_too_narrow_nothing_is_erased() -> None:
    screen, live = region(3, 10)
    live.add("恒星 text")
    live.flush()
    live.replace("ALL\n", "LINE\n")
    live.flush()
    assert screen.written == "恒星 text\n"


def test_abandoned_text_stays() -> None:
    screen, live = region()
    live.add("half")
    live.flush()
    live.abandon()
    live.add(" done")
    live.replace("ALL\n", "LINE\n")
    live.flush()
    assert shown(screen) == ["half done", ""]
    live.add("raw")
    live.replace("new\n", "")
    live.flush()
    assert shown(screen) == ["half done", "new", ""]


def test_an_empty_row_before_the_text_is_part_of_it() -> None:
    screen, live = region()
    live.space()
    live.add("raw")
    live.flush()
    assert shown(screen) == ["", "raw"]
    live.replace("▌\n▌ new\n", "")
    live.flush()
    assert shown(screen) == ["▌", "▌ new", ""]


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_the_size_is_asked_of_the_terminal_itself() -> None:
    import fcntl
    import termios

    leader, follower = pty.openpty()
    with os.fdopen(follower, "w") as out:
        assert size_of(out) == (80, 24)  # a terminal that does not say
        fcntl.ioctl(leader, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 44, 0, 0))
        assert size_of(out) == (44, 33)
    os.close(leader)
    assert size_of(Screen()) == (80, 24)  # no file at all
