"""Blocks drawn: within the width, with the terminal's own colours, nothing lost."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from screens import Screen

from stellar_local.render.blocks import Block
from stellar_local.render.drawing import Drawing


@pytest.fixture(autouse=True)
def colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM", "COLORFGBG"):
        monkeypatch.delenv(name, raising=False)


def plain(drawn: str) -> list[str]:
    lines = re.sub(r"\x1b\[[0-9;]*m", "", drawn).split("\n")
    assert lines.pop() == ""
    return lines


TABLE = """\
| Star 恒星 | Type | Mass |
|:--|:-:|--:|
| Sun 太阳 | G2V | 1.0 |
| `a\\|b` | **M1** | 16 | extra |
| 参宿四 |"""


def test_a_table_is_aligned() -> None:
    assert plain(Drawing(Screen()).draw([Block("table", TABLE)], 79)) == [
        "┌───────────┬──────┬────────────┐",
        "│ Star 恒星 │ Type │       Mass │",
        "├───────────┼──────┼────────────┤",
        "│ Sun 太阳  │ G2V  │        1.0 │",
        "│ a|b       │  M1  │ 16 | extra │",
        "│ 参宿四    │      │            │",
        "└───────────┴──────┴────────────┘",
    ]


def test_a_table_that_is_too_wide_breaks_its_cells_and_one_that_cannot_be_is_text() -> None:
    narrow = plain(Drawing(Screen()).draw([Block("table", TABLE)], 24))
    assert {cell_len(line) for line in narrow} == {cell_len(narrow[0])}
    assert cell_len(narrow[0]) <= 24
    assert plain(Drawing(Screen()).draw([Block("table", "| a | b |\n|---|---|\n| 1 | 2 |")], 9)) == [
        "| a | b |", "|---|---|", "| 1 | 2 |",
    ]  # fmt: skip


PARTS = st.sampled_from(["a", "word", " ", "恒", "星，", "“", "👨", "e\u0301", "❤\ufe0f", "1."])
CELLS = st.lists(PARTS, max_size=6).map(lambda parts: "".join(parts).strip())


@given(st.lists(st.lists(CELLS, min_size=1, max_size=5), min_size=1, max_size=4), st.integers(4, 60))
def test_tables_fit_and_lose_nothing(rows: list[list[str]], width: int) -> None:
    columns = len(rows[0])
    source = "\n".join("| " + " | ".join(row) + " |" for row in [rows[0], ["---"] * columns, *rows[1:]])
    drawn = plain(Drawing(Screen()).draw([Block("table", source)], width))
    assert all(cell_len(line) <= width for line in drawn)
    if drawn[0][0] == "┌":
        assert len({cell_len(line) for line in drawn}) == 1
    said = Counter(char for row in rows for cell in row for char in cell if char.isalnum())
    assert Counter(char for line in drawn for char in line if char.isalnum()) == said


def test_prefixes_go_before_each_row() -> None:
    drawing = Drawing(Screen())
    item = Block("paragraph", "恒星是由引力凝聚的", first="▌ 1. ", rest="▌    ", space="▌")
    assert plain(drawing.draw([item], 14)) == ["▌", "▌ 1. 恒星是由", "▌    引力凝聚", "▌    的"]
    deep = Block("paragraph", "word", first="    • ◦ • ", rest=" " * 10)
    assert plain(drawing.draw([deep], 9)) == ["    • ◦ •", "    word"]


def test_code_is_never_broken_and_math_neither() -> None:
    line = "x = " + "1 + " * 30 + "1"
    blocks = [Block("fence", "python title=a"), Block("code", line), Block("code"), Block("end"), Block("math", line)]
    assert plain(Drawing(Screen()).draw(blocks, 20)) == ["╭─ python title=a", line, "", "╰─", line]


ALL = [
    *(Block("heading", f"Level {level} *x*", level) for level in range(1, 7)),
    Block("paragraph", "**b** *i* ~~s~~ `c` [l](u) text"),
    Block("paragraph", "item", first="• ", rest="  "),
    Block("rule"),
    Block("table", TABLE),
    Block("fence", "python"),
    Block("code", "@d\ndef f(x: int = 1): return 'a' # c"),
    Block("code", "class A(Exception): pass"),
    Block("end"),
]


@pytest.mark.parametrize("background", ["", "15;0"])
def test_only_colours_of_the_palette_and_none_for_text(background: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the terminal's depth: no fixed colour, no background, no white and no black."""
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.setenv("COLORFGBG", background)
    drawn = Drawing(Screen()).draw(ALL, 60)
    codes = {code for found in re.findall(r"\x1b\[([0-9;]*)m", drawn) for code in found.split(";")}
    colours = {"31", "32", "33", "34", "35", "36"} | ({"91", "92", "93", "94", "95", "96"} if background else set())
    assert codes & colours
    assert codes <= {"0", "1", "2", "3", "4", "9"} | colours
    assert " text\n" in drawn


def test_no_color_keeps_the_structure(monkeypatch: pytest.MonkeyPatch) -> None:
    with_colours = plain(Drawing(Screen()).draw(ALL, 60))
    monkeypatch.setenv("NO_COLOR", "1")
    drawn = Drawing(Screen()).draw(ALL, 60)
    codes = {code for found in re.findall(r"\x1b\[([0-9;]*)m", drawn) for code in found.split(";")}
    assert {"1", "3", "9"} <= codes <= {"0", "1", "2", "3", "4", "9"}
    assert [line.replace("`", "").split() for line in plain(drawn)] == [line.split() for line in with_colours]
