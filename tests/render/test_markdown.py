"""Answers in a terminal: the same screen however the text was cut, nothing finished touched, nothing let through."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from conftest import ROOT
from hypothesis import example, given
from hypothesis import strategies as st
from screens import ALLOWED, Screen

from stellar_local.render.markdown import MarkdownView, PlainView, answer_view

ANSWER = (Path(__file__).parent / "answer.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)


def show(text: str, cuts: list[int] | int, columns: int = 80, lines: int = 24, above: int = 0) -> Screen:
    """A screen on which an answer was shown; `cuts` are the lengths of its pieces, or of each."""
    screen = Screen(columns, lines)
    screen.write("".join(f"up {number}\n" for number in range(above)))
    screen.writes.clear()
    view = MarkdownView(screen, screen.size)
    lengths = iter(cuts) if isinstance(cuts, list) else iter(lambda: cuts, 0)
    while text:
        length = next(lengths, len(text))
        view.feed(text[:length])
        text = text[length:]
    view.end()
    return screen


@pytest.mark.parametrize("columns", [80, 40])
def test_an_answer_with_everything_in_it(columns: int) -> None:
    shown = (Path(__file__).parent / f"answer-{columns}.txt").read_text(encoding="utf-8")
    assert show(ANSWER, 3, columns, 24).text() == shown


MARKS = ["- ", "* ", "1. ", "2) ", "> ", "# ", "```\n", "```py\n", "~~~\n", "$$\n", "$$", "\\[", "---\n", "===\n"]
TABLES = ["| a | b |\n", "|---|:-:|\n", "| 恒星 | x |\n"]
SPACES = ["\n", "\n\n", "    ", "  ", "\t", "\r\n", "\u3000", "\u200b", "\u2028"]
SPANS = ["***", "**", "*", "_", "`", "[x](u)", "<b>", "$x_1$", "key: v\n", "/* c\n", '"""doc\n']
WORDS = [
    "word ",
    "longer words here ",
    "a" * 30,
    "恒星，标点。",
    "很长的一段中文文字没有空格但是有标点。" * 3,
    "“引用”",
]
CLUSTERS = ["👨\u200d👩\u200d👧", "🇨🇳", "e\u0301", "❤\ufe0f"]
PIECES = st.sampled_from([*MARKS, *TABLES, *SPACES, *SPANS, *WORDS, *CLUSTERS])
TEXTS = st.lists(PIECES, max_size=25).map("".join)
SIZES = st.tuples(st.sampled_from([10, 20, 40, 80]), st.sampled_from([5, 10, 24, 60]))


@given(TEXTS, st.lists(st.integers(1, 12)), SIZES, st.sampled_from([0, 3, 30]))
@example("a\n" * 30 + "# title\n", [1] * 99, (80, 24), 3)
def test_the_screen_does_not_depend_on_the_pieces(
    text: str, cuts: list[int], size: tuple[int, int], above: int
) -> None:
    at_once = show(text, [len(text)], *size, above)
    single = show(text, 1, *size, above)
    assert at_once.text() == single.text() == show(text, cuts, *size, above).text()
    assert single.rows()[:above] == [f"up {number}" for number in range(above)]
    assert single.screen.cursor.x == 0
    letters = [Counter(filter(str.isalpha, shown)) for shown in (text.replace("e\u0301", "é"), single.text())]
    assert not letters[0] - letters[1]  # nothing is lost


PROSE = st.lists(
    st.text("abcXYZ,.'", min_size=1, max_size=12).filter(lambda word: word[0].isalpha())
    | st.sampled_from(["恒星", "，", "太阳系", "a" * 30, "和。", "🌟"]),
    min_size=1,
    max_size=40,
)


@given(st.lists(PROSE.map(" ".join), min_size=1, max_size=4), SIZES, st.integers(1, 9))
def test_plain_paragraphs_are_the_words_that_were_said(paragraphs: list[str], size: tuple[int, int], cut: int) -> None:
    screen = show("\n\n".join(paragraphs), cut, *size)
    assert "".join(screen.text().split()) == "".join("".join(paragraphs).split())
    words = {word for word in " ".join(paragraphs).split() if word.isascii() and len(word) < size[0]}
    assert words <= set(screen.text().split())  # none is broken
    gaps = [not row for row in screen.rows()[:-1]]
    assert gaps.count(True) == len(paragraphs) - 1


CONTROLS = [
    "\x1b[2J",
    "\x1b]0;owned\x07",
    "\x1b]8;;http://evil\x1b\\",
    "\x9b31m",
    "\x1bP",
    "\x1b[?1049h",
    "\x7f",
    "\x00",
]
ODD = ["\x7f", "\x00", "&#27;", "&#x9b;", "\u202e", "\ufffd", "\ud800", "```\x1b[31m\n", "[a](\x1b[1m)", "\udc9b"]
HOSTILE = st.lists(PIECES | st.sampled_from([*CONTROLS, *ODD]), max_size=30).map("".join)


@given(HOSTILE | st.binary(max_size=300).map(lambda data: data.decode("latin-1")), st.integers(1, 20), SIZES)
def test_a_hostile_stream_drives_nothing(text: str, cut: int, size: tuple[int, int]) -> None:
    screen = show(text, cut, *size)
    assert all(map(ALLOWED.fullmatch, screen.sequences()))
    assert screen.screen.cursor.x == 0


def test_a_line_that_is_finished_is_never_touched_again() -> None:
    """At the end of every block of an answer, all rows above the cursor are finished; from then on they stay."""
    screen = Screen(80, 24)
    view = MarkdownView(screen, screen.size)
    finished, checks, later = 0, 0, 0
    for block in re.split(r"(?<=\n\n)", ANSWER):
        for at in range(0, len(block), 2):
            screen.screen.touched.clear()
            view.feed(block[at : at + 2])
            assert all(row >= finished for row in screen.screen.touched)
            later += len(screen.screen.touched)
        if "```" not in block:  # a code block has empty lines of its own, but its lines are finished as well
            finished, checks = screen.screen.row, checks + 1
    assert checks == 10 and later > 200


def test_text_is_there_as_soon_as_it_comes() -> None:
    screen = Screen()
    view = MarkdownView(screen, screen.size)
    for text, rows in [
        ("**bo", ["**bo"]),
        ("ld** and", ["**bold** and"]),
        ("\n\n", ["bold and", ""]),
        ("- on", ["bold and", "", "- on"]),
        ("e\n- ", ["bold and", "", "- one", "-"]),
        ("t", ["bold and", "", "• one", "- t"]),
        ("wo\n", ["bold and", "", "• one", "- two", ""]),
        ("```py\n", ["bold and", "", "• one", "• two", "╭─ py", ""]),
        ("x = 1", ["bold and", "", "• one", "• two", "╭─ py", "x = 1"]),
    ]:
        view.feed(text)
        assert screen.rows() == rows
    view.end()
    assert screen.rows() == ["bold and", "", "• one", "• two", "╭─ py", "x = 1", "╰─", ""]


def test_a_block_taller_than_the_screen_stays_raw_and_the_next_one_is_rendered() -> None:
    long = "**bold** " + "words and words " * 40
    screen = show(f"# T\n\n{long}\n\n**next** one", 5, 40, 10)
    rows = screen.rows()
    assert rows[0] == "T"
    assert rows[2].startswith("**bold** words")
    assert rows[-2:] == ["next one", ""]
    assert " ".join(" ".join(rows).split()) == f"T {long}next one"


@pytest.mark.parametrize("more", ["\n- item\n\n", "\n> quote\n\n", "\n# title\n\n", "\n\n"])
def test_after_a_resize_the_block_stays_raw_and_the_next_one_is_rendered(more: str) -> None:
    screen = Screen(40, 10)
    view = MarkdownView(screen, screen.size)
    view.feed("some **text**")
    screen.resize(60, 10)
    for char in more + "**next**":
        view.feed(char)
    view.end()
    assert " ".join(screen.text().split()) == " ".join(f"some **text** {more} next".split())


@pytest.mark.parametrize("cut", [1, 7, 1000])
def test_a_line_taller_than_the_screen_is_shown_once(cut: int) -> None:
    quote = "> " + "word " * 60
    screen = show(f"text\n{quote}\n\n*end*", cut, 40, 5)
    assert "".join(screen.text().split()) == "".join(f"text{quote}end".split())


@pytest.mark.parametrize(
    ("begun", "rows"),
    [
        ("-", ["•", ""]),
        ("- **one**\n- two *thr", ["• one", "• two *thr", ""]),
        ("| a |\n|---|\n| 1 ", ["┌───┐", "│ a │", "├───┤", "│ 1 │", "└───┘", ""]),
        ("```\nx", ["╭─", "x", "╰─", ""]),
        ("$$\nx", ["$$", "x", ""]),
        ("---", ["─" * 79, ""]),
    ],
)  # fmt: skip
def test_an_interruption_renders_what_is_in_hand(begun: str, rows: list[str]) -> None:
    assert show(begun, 2).rows() == rows


def test_an_interruption_in_the_middle_of_drawing_erases_nothing_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    view = MarkdownView(screen, screen.size)
    view.feed("# title\n\n")
    view.feed("some **text**\n")
    assert view._drawing is not None

    def interrupted(*_: object) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(view._drawing, "draw", interrupted)
        view.feed("\n")
    view.end()
    assert screen.rows() == ["title", "", "some **text**", ""]


def test_an_answer_of_nothing_shows_nothing() -> None:
    for text in ("", "\n\n \n"):
        screen = Screen()
        view = MarkdownView(screen, screen.size)
        view.feed(text)
        view.end()
        assert screen.rows() == [""]


@given(st.lists(st.sampled_from(["a", "恒", "\n", "\x1b[2J", "\t", "**b**", "\r"])), st.integers(1, 5))
def test_simple_is_the_text_itself(parts: list[str], cut: int) -> None:
    text, out = "".join(parts), io.StringIO()
    view = answer_view("simple", out)
    for at in range(0, len(text), cut):
        view.feed(text[at : at + cut])
    view.end()
    expected = text.replace("\x1b", "␛").replace("\r", "")
    assert out.getvalue() == expected + "\n" * (expected[-1:] != "\n")


def test_the_style_and_the_terminal_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(answer_view("rich", Screen()), MarkdownView)
    assert isinstance(answer_view("simple", Screen()), PlainView)
    assert isinstance(answer_view("rich", io.StringIO()), PlainView)
    for term in ("dumb", "unknown", "DUMB"):
        monkeypatch.setenv("TERM", term)
        assert isinstance(answer_view("rich", Screen()), PlainView)
    monkeypatch.delenv("TERM")
    assert isinstance(answer_view("rich", Screen()), MarkdownView)


def test_no_color_is_rendered_without_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    screen = show(ANSWER, 9)
    codes = {code for found in re.findall(r"\x1b\[([0-9;]*)m", screen.written) for code in found.split(";")}
    assert codes <= {"0", "1", "2", "3", "4", "9"}
    assert "┌" in screen.text() and "`O`" in screen.text()


def test_rich_is_imported_when_it_is_needed_and_warm_imports_it_before() -> None:
    code = (
        "import sys, threading\nfrom stellar_local.render.markdown import MarkdownView, warm\n"
        "from os import terminal_size\n"
        "view = MarkdownView(sys.stdout, lambda: terminal_size((80, 24)))\n"
        "view.feed('text')\n"
        "print([name for name in ('rich', 'pygments', 'markdown_it') if name in sys.modules])\n"
        "warm()\n[one.join() for one in threading.enumerate() if one is not threading.current_thread()]\n"
        "print([name for name in ('rich', 'pygments', 'markdown_it') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "text[]\n['rich', 'pygments', 'markdown_it']\n"


@pytest.mark.parametrize(
    "text", ["word " * 4000, "恒星" * 8000, "- item\n" * 3000, "x" * 20000, "[" * 20000, "*a " * 7000]
)
def test_the_cost_of_a_piece_does_not_grow_with_the_block(text: str) -> None:
    """In characters that reach the terminal, since times vary: a piece writes itself, and now and then a row."""
    screen = Screen(80, 24)
    screen.write = screen.writes.append  # type: ignore[method-assign, assignment]
    view = MarkdownView(screen, screen.size)
    for at in range(0, len(text), 4):
        view.feed(text[at : at + 4])
    sizes = list(map(len, screen.writes))
    assert sum(sizes) < 8 * len(text)
    assert max(sizes) < 24 * 80 * 2
