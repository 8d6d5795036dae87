"""Markdown's blocks from a stream: the same as markdown-it-py finds in the whole text, and what models do to them."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from stellar_local.render.blocks import Block, Blocks

REFERENCE = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["reference"])


def blocks(text: str) -> list[Block]:
    """All blocks, in their order."""
    splitter, found = Blocks(), []
    for line in text.split("\n"):
        held, own = splitter.line(line)
        found += held + own
    return found + splitter.end()


def leaves(text: str) -> list[tuple[str, str, str]]:
    """What our splitter finds: kind, text, and the quotes and items around it; code in one piece."""
    found: list[tuple[str, str, str]] = []
    for kind, content, level, _, first, rest in blocks(text):
        around = re.sub(r"[•◦]|\d+[.)]", "-", first).replace("▌", ">").replace(" ", "")
        inside = re.sub(r"▌ ", ">", rest).replace(" ", "")
        if kind == "code":
            found[-1] = ("code", found[-1][1] + content + "\n", found[-1][2])
        elif kind == "fence":
            found.append(("code", "", around))
        elif kind != "end":
            content = content.split("\n")[0] if kind == "table" else content
            found.append((kind + str(level or ""), content, around or inside))
    return found


def expected(text: str) -> list[tuple[str, str, str]]:
    """The same from markdown-it-py's tokens."""
    found: list[tuple[str, str, str]] = []
    around: list[str] = []
    fresh: list[bool] = []

    def add(kind: str, content: str) -> None:
        path = "".join(mark for mark, new in zip(around, fresh, strict=True) if mark == ">" or new)
        fresh[:] = [False] * len(fresh)
        found.append((kind, content, path))

    tokens = REFERENCE.parse(text + "\n")
    for index, token in enumerate(tokens):
        if token.type in ("blockquote_open", "list_item_open"):
            around.append(">" if token.type == "blockquote_open" else "-")
            fresh.append(True)
        elif token.type in ("blockquote_close", "list_item_close"):
            if ("-", True) in zip(around, fresh, strict=True):  # an item without content: its mark is shown
                add("paragraph", "")
            around.pop()
            fresh.pop()
        elif token.type == "paragraph_open":
            add("paragraph", "\n".join(line.strip(" ") for line in tokens[index + 1].content.split("\n")))
        elif token.type == "heading_open":
            content = "\n".join(line.strip(" ") for line in tokens[index + 1].content.split("\n"))
            add(f"heading{token.tag[1]}", content)
        elif token.type == "hr":
            add("rule", "")
        elif token.type in ("fence", "code_block"):
            add("code", token.content)
    return found


WORDS = st.sampled_from(["word", "两个字", "a b", "**x**", "#no", "5 * 3", "-1", "2 + 2", "`c`"])
MARKS = st.sampled_from(["", "", "- ", "* ", "+ ", "> ", "# ", "## ", "-", "---", "***", "- - -", "===", ">", "#"])
LINES = st.builds(
    lambda indent, marks, word: indent + "".join(marks) + word,
    st.sampled_from(["", "", " ", "  ", "   "]),
    st.lists(MARKS, max_size=3),
    st.just("") | WORDS,
)
ITEMS = st.builds("{}{}{}".format, st.sampled_from(["", "  ", "    ", "      "]), st.sampled_from(["", "- "]), WORDS)
FENCES = st.sampled_from(
    ["word", "", "```", "~~~", "  ```py x", "````", "# h", "> q", "> ```", "> ~~~", ">", "```x``` y", "~~~~ z", "    a"]
)
NUMBERS = st.sampled_from(["1. a", " 1. b", "2. c", "10) d", "1.", "word", "", "   word", "    word", "> 1. e", "- f"])


@given(
    st.lists(LINES, max_size=12)
    | st.lists(st.just("") | ITEMS, max_size=12)
    | st.lists(FENCES, max_size=12)
    | st.lists(NUMBERS, max_size=12)
)
@example(["", "- ", "", "  word"])
@example(["", "-", "  word", "- -", "", "  word"])
@example(["", "- >", "", "     word"])
@settings(max_examples=300)
def test_containers_and_leaves_are_those_of_commonmark(lines: list[str]) -> None:
    text = "\n".join(["start", *lines])
    assert leaves(text) == expected(text)


@given(
    st.lists(st.sampled_from(["a", "b | c", r"d \| e", "f|", "|g", "`h`", "", " "]), min_size=1, max_size=4),
    st.lists(st.sampled_from(["---", ":-:", "-:", ":--", "-", "--x"]), min_size=1, max_size=4),
    st.booleans(),
)
def test_tables_begin_where_markdown_it_sees_them(titles: list[str], marks: list[str], framed: bool) -> None:
    header, delimiters = ("|".join(parts) for parts in (titles, marks))
    if framed:
        header, delimiters = f"| {header} |", f"| {delimiters} |"
    assume(re.search(r"[|:]", delimiters) and header.strip("| "))  # else it makes a heading here, or has no cells
    text = f"{header}\n{delimiters}\n| x | y |"
    is_table = any(token.type == "table_open" for token in REFERENCE.parse(text))
    assert (blocks(text)[0].kind == "table") == is_table


def kinds(text: str) -> list[tuple[str, str]]:
    return [(block.kind, block.text) for block in blocks(text)]


def test_a_table_needs_no_empty_line_before_it_and_ends_with_a_list() -> None:
    assert kinds("见下表：\n| a | b |\n|---|---|\n| 1 | 2 |\n- item\n\n| no | table |") == [
        ("paragraph", "见下表："),
        ("table", "| a | b |\n|---|---|\n| 1 | 2 |"),
        ("paragraph", "item"),
        ("paragraph", "| no | table |"),
    ]


def test_code_in_an_item_needs_no_indentation() -> None:
    text = "1. Run:\n   ```sh\nls -l\n   pwd\n```\n2. Look"
    assert kinds(text) == [
        ("paragraph", "Run:"),
        ("fence", "sh"),
        ("code", "ls -l"),
        ("code", "pwd"),
        ("end", ""),
        ("paragraph", "Look"),
    ]
    assert [block.first for block in blocks(text)] == ["1. ", *["   "] * 4, "2. "]


def test_a_list_under_a_number_may_be_indented_by_two() -> None:
    found = blocks("1. a\n  - b\n    - c\n  - d\n2. e")
    assert [(block.text, block.first) for block in found] == [
        ("a", "1. "),
        ("b", "   • "),
        ("c", "     ◦ "),
        ("d", "   • "),
        ("e", "2. "),
    ]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("````\n```py\nx\n```\n````\nend", ["```py", "x", "```"]),
        ("```markdown\n```py\nx\n```\n```\nend", ["```py", "x", "```"]),
        ("~~~\n```\n~~~\nend", ["```"]),
        ("```py\nx", ["x"]),
        ("    a\n\n\n      b\n\nend", ["a", "", "", "  b"]),
    ],
)
def test_fences_in_fences_and_code_without_end(text: str, code: list[str]) -> None:
    found = kinds(text)
    assert [line for kind, line in found if kind == "code"] == code
    assert [kind for kind, _ in found if kind != "code"] == ["fence", "end"] + ["paragraph"] * text.endswith("end")


@pytest.mark.parametrize(
    ("text", "math"),
    [
        ("$$\nE = mc^2\n= 5\n- 3\n$$\nend", ["$$", "E = mc^2", "= 5", "- 3", "$$"]),
        ("\\[\n  a_1 * b_2 * c\n\\]\nend", ["\\[", "  a_1 * b_2 * c", "\\]"]),
        ("\\begin{align*}\n# x\n\\end{align*}\nend", ["\\begin{align*}", "# x", "\\end{align*}"]),
        ("so\n$$x$$.\nend", ["$$x$$."]),
        ("$$\nnever closed\n\nend", ["$$", "never closed"]),
        ("$$x$$ is inline\nend", []),
        ("$$$ is dear\nend", []),
    ],
)
def test_displayed_math_is_left_as_it_is(text: str, math: list[str]) -> None:
    assert [block.text for block in blocks(text) if block.kind == "math"] == math
    assert "end" in blocks(text)[-1].text


def test_front_matter_is_code_and_any_other_rule_a_rule() -> None:
    matter = [("fence", "yaml"), ("code", "title: 星"), ("code", "tags: [a]"), ("end", ""), ("paragraph", "text")]
    assert kinds("---\ntitle: 星\ntags: [a]\n---\ntext") == matter
    assert kinds("---\ntext") == kinds("***\ntext") == [("rule", ""), ("paragraph", "text")]
    assert kinds("a\n\n---\nkey: value")[1:] == [("rule", ""), ("paragraph", "key: value")]


def test_empty_rows_are_kept_as_one_with_the_quotes_around_both() -> None:
    found = blocks("\n\na\n\n\n> b\n>\n> - c\n> - d\n>\n>   e\n\nf\n# g")
    assert [(block.text, block.space) for block in found] == [
        ("a", None),
        ("b", ""),
        ("c", "▌"),
        ("d", None),
        ("e", "▌"),
        ("f", ""),
        ("g", None),
    ]


def test_what_ends_a_block_is_told_from_what_is_in_the_line_itself() -> None:
    splitter = Blocks()
    assert splitter.line("text") == ([], [])
    assert splitter.waiting
    held, own = splitter.line("# title")
    assert ([block.text for block in held], [block.text for block in own]) == (["text"], ["title"])
    assert not splitter.waiting


@given(st.lists(LINES, max_size=6), LINES | ITEMS | NUMBERS)
def test_an_item_that_is_decided_early_is_one_in_the_end(before: list[str], line: str) -> None:
    for cut in range(len(line) + 1):
        splitter, plain = Blocks(), Blocks()
        for one in ["start", *before]:
            splitter.line(one)
            plain.line(one)
        end = splitter.decided(line[:cut])
        if end:
            assert end == cut  # as soon as it can be
            assert splitter.cut() + sum(splitter.line(line), []) == sum(plain.line(line), [])
            return


def test_depth_is_bounded() -> None:
    found = blocks(">" * 1000 + " a")
    assert len(found[0].first) < 40
    assert found[0].text.endswith(">>> a")
