"""Rows of text: as wide as they may be, broken where readers of English and of Chinese expect it."""

from __future__ import annotations

import textwrap

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from rich.cells import get_character_cell_size
from wcwidth import wcwidth

from stellar_local.render import layout
from stellar_local.render.layout import Widths, cells, divisions, longest_unit

ZWJ, FAMILY = "\u200d", "👨\u200d👩\u200d👧"
PARTS = st.sampled_from(
    ["a", "word", " ", "  ", "恒星", "，", "。", "（", "）", "“", "e\u0301", FAMILY, "🇨🇳", "❤\ufe0f", "☰"]
)
TEXTS = st.lists(PARTS, max_size=30).map("".join)


def rows(text: str, width: int) -> list[str]:
    edges = [0, *divisions(text, width), len(text)]
    return [text[a:b].rstrip(" ") for a, b in zip(edges, edges[1:], strict=False)]


def test_widths_are_never_less_than_others_say() -> None:
    """Rich and wcwidth, whose tables are of Unicode 17; terminals have older ones."""
    widths = Widths()
    for code in [*range(0x20, 0x7F), *range(0xA0, 0xD800), *range(0xE000, 0x30000)]:
        char = chr(code)
        assert widths[char] >= max(wcwidth(char), get_character_cell_size(char)), hex(code)


@pytest.mark.parametrize(
    ("text", "size"), [("abc", 3), ("恒星", 4), ("e\u0301", 1), ("❤\ufe0f", 2), (FAMILY, 6), ("🇨🇳", 4), ("“", 1)]
)
def test_what_terminals_differ_about_counts_as_much_as_it_may(text: str, size: int) -> None:
    assert sum(map(Widths().__getitem__, text)) == size


@pytest.mark.parametrize(
    ("locale", "wide"), [("zh_CN.UTF-8", True), ("ja_JP", True), ("en_US.UTF-8", False), ("", False)]
)
def test_ambiguous_characters_are_wide_in_east_asian_locales(
    locale: str, wide: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LC_ALL", raising=False)
    monkeypatch.delenv("LC_CTYPE", raising=False)
    monkeypatch.setenv("LANG", locale)
    assert layout.east_asian() is wide
    assert (Widths(1 + wide)["α"], Widths(1 + wide)["a"]) == (1 + wide, 1)


@given(TEXTS, st.integers(2, 30))
def test_rows_fit_and_hold_all_the_text(text: str, width: int) -> None:
    found = rows(text, width)
    assert "".join(found).replace(" ", "") == text.replace(" ", "")
    assert all(cells(row) <= width for row in found)
    assert not any(row.startswith(" ") for row in found[1:])


@given(st.lists(st.text("abc", min_size=1, max_size=9), min_size=1, max_size=20).map(" ".join), st.integers(9, 30))
def test_english_breaks_as_textwrap_does(text: str, width: int) -> None:
    assert rows(text, width) == textwrap.wrap(text, width)


@given(TEXTS.map(lambda text: text.replace(" ", "")), st.integers(12, 30))
def test_chinese_breaks_between_characters_but_not_before_or_after_every_mark(text: str, width: int) -> None:
    assume(longest_unit(text) <= width)  # else it breaks where it must
    for before, row in zip(rows(text, width), rows(text, width)[1:], strict=False):
        assert row[0] not in "，。）"
        assert before[-1] not in "（“"


@pytest.mark.parametrize(
    ("text", "width", "expected"),
    [
        ("恒星是由引力凝聚的等离子体，太阳是恒星。", 14, ["恒星是由引力凝", "聚的等离子体，", "太阳是恒星。"]),
        ("恒星是由引力凝聚，太阳", 16, ["恒星是由引力凝", "聚，太阳"]),  # no comma begins a row
        ("我们用（Python）写", 7, ["我们用", "（Pytho", "n）写"]),
        ("使用Python编写", 10, ["使用Python", "编写"]),
        ("a supercalifragilistic b", 8, ["a", "supercal", "ifragili", "stic b"]),
        (f"ab{FAMILY}", 7, ["ab", FAMILY]),
        ("　　首行缩进", 8, ["　　首行", "缩进"]),
        ("x = 5   ", 5, ["x = 5"]),
        ("🇨🇳🇫🇷", 4, ["🇨🇳", "🇫🇷"]),
        ("", 5, [""]),
    ],
)
def test_examples(text: str, width: int, expected: list[str]) -> None:
    assert rows(text, width) == expected


@pytest.mark.parametrize(
    ("text", "size"), [("a word here", 4), ("恒星，和", 4), ("（恒", 4), ("", 0), ("ab " + FAMILY, 6)]
)
def test_the_longest_unit_is_what_a_column_must_hold(text: str, size: int) -> None:
    assert longest_unit(text) == size
