"""Inline Markdown as styled text: what CommonMark says, what Chinese needs, and nothing hidden or eaten."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.text import Text

from stellar_local.render.inline import InlineMarkdown

INLINE = InlineMarkdown(colour=True)
TAGS = {"italic": "em", "bold": "strong", "strike": "s", "cyan": "code"}


def tagged(source: str) -> str:
    """The text with <em> and the like around each character that has the style: easy to compare."""
    text = INLINE(source)
    styles = [set() for _ in text.plain]  # type: list[set[str]]
    for span in text.spans:
        for at in range(span.start, span.end):
            styles[at] |= set(str(span.style).split())
    characters = zip(text.plain, styles, strict=True)
    return "".join(f"[{' '.join(sorted(style))}:{char}]" if style else char for char, style in characters)


def by_reference(source: str) -> str:
    """The same from markdown-it-py's HTML."""
    html = MarkdownIt("commonmark", {"html": False}).enable("strikethrough").renderInline(source)
    out, on = "", []  # type: str, list[str]
    for tag, char in re.findall(r"<(/?\w+)>|([^<])", html):
        if tag.startswith("/"):
            on.remove(tag[1:])
        elif tag:
            on.append(tag)
        else:
            styles = sorted({style for style, name in TAGS.items() if name in on})
            out += f"[{' '.join(styles)}:{char}]" if styles else char
    return out


MARKS = st.sampled_from(["*", "**", "_", "__", "~~", "`", "``", "a", "b c", " ", ".", "(", "\\*", "1"])


@given(st.lists(MARKS, max_size=14).map("".join))
def test_emphasis_in_english_is_that_of_commonmark(source: str) -> None:
    assert tagged(source) == by_reference(source)


@pytest.mark.parametrize(
    ("source", "bold"),
    [
        ("**重点：**内容", "重点："),
        ("他说**“你好”**然后走了", "“你好”"),
        ("**注意（重要）**请看", "注意（重要）"),
        ("使用**`code`**函数", "code"),
        ("这是**粗体**文字", "粗体"),
        ("1. **Name**：值", "Name"),
        ("a**b**c", "b"),
        ("** 不是 **", ""),
        ("2**3 和 4**5", "3 和 4"),  # CommonMark too
    ],
)
def test_bold_beside_chinese_punctuation(source: str, bold: str) -> None:
    text = INLINE(source)
    found = "".join(text.plain[span.start : span.end] for span in text.spans if "bold" in str(span.style))
    assert found == bold
    assert "**" not in text.plain or not bold


@pytest.mark.parametrize(
    "math",
    [
        r"$a_1 * b_2 * c_3$", r"\(x_i^2 * y_i^2\)", r"\[\sum_{i=1}^n *x*\]", r"$$\frac{a}{b} \\ *c*$$",
        r"$\{x \mid x > 0\}$", r"$\alpha$", r"$E=mc^2$", r"$\text{a\$b} * c * d$",
    ],
)  # fmt: skip
def test_math_is_left_as_it_was_written(math: str) -> None:
    text = INLINE(f"see {math} and *this* [x](y)")
    assert text.plain == f"see {math} and this x (y)"
    assert [text.plain[span.start : span.end] for span in text.spans] == ["this", "y"]


@pytest.mark.parametrize(
    ("source", "plain", "styled"),
    [
        ("$5 and *six* and $6", "$5 and six and $6", ["six"]),
        ("US$5, *or* US$6.", "US$5, or US$6.", ["or"]),
        ("*$HOME* and $PATH", "$HOME and $PATH", ["$HOME"]),
        ("只要 $9.9，*原价* $19.9", "只要 $9.9，原价 $19.9", ["原价"]),
        ("a $ b *c* $ d", "a $ b c $ d", ["c"]),
        ("`$x_1$` and \\$5 *y* $6$7", "$x_1$ and $5 y $6$7", ["$x_1$", "y"]),
        (r"C:\new \_x\_ \( *y*", r"C:\new _x_ ( y", ["y"]),
    ],
)
def test_prices_and_variables_are_no_math(source: str, plain: str, styled: list[str]) -> None:
    text = INLINE(source)
    assert text.plain == plain
    assert [text.plain[span.start : span.end] for span in text.spans] == styled


@pytest.mark.parametrize(
    ("source", "plain"),
    [
        ("[星](https://a.b/星?x=1&y=2)", "星 (https://a.b/星?x=1&y=2)"),
        ("[https://bank.com](https://evil.com)", "https://bank.com (https://evil.com)"),
        ("<https://a.b>", "https://a.b"),
        ("<me@a.b>", "me@a.b"),
        ("[https://a.b](https://a.b)", "https://a.b"),
        ("[**b** `c`](u)", "b c (u)"),
        ("[](u)", "(u)"),
        ("[x]()", "x"),
        ("![alt](pic.png)", "alt (pic.png)"),
        ("[x](javascript:alert)", "[x](javascript:alert)"),
        ("[x][1] [y]", "[x][1] [y]"),
        ("<b>html</b><!-- c --><br>", "<b>html</b><!-- c --><br>"),
        ("&lt;b&gt; &amp; &copy;", "<b> & ©"),
        (":smile: [bold]x[/bold] [link=a]", ":smile: [bold]x[/bold] [link=a]"),
        ("a\nb  \nc\\\nd", "a\nb\nc\nd"),
    ],
)
def test_nothing_is_hidden(source: str, plain: str) -> None:
    text = INLINE(source)
    assert text.plain == plain
    assert not any(getattr(span.style, "link", None) for span in text.spans)


@pytest.mark.parametrize(
    "reference", ["&#27;", "&#x1b;", "&#x9b;", "&#8238;", "&#13;", "&#12;", "&#8;", "&#127;", "&#0;"]
)
def test_character_references_make_no_controls(reference: str) -> None:
    for source in (f"a{reference}[2Jb", f"`a{reference}`", f"[a{reference}](b{reference})", f"![a](<b{reference}>)"):
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", INLINE(source).plain)


def test_without_colours_code_keeps_its_backticks() -> None:
    assert InlineMarkdown(colour=False)("use `x`").plain == "use `x`"
    assert INLINE("use `x`").plain == "use x"


def test_a_style_is_for_all_of_it() -> None:
    assert isinstance(INLINE("a *b*", "bold"), Text)
    assert INLINE("a *b*", "bold").style == "bold"


@given(st.text("*_`[]()!<>&;#$\\~\n ab星：“", max_size=60))
def test_anything_is_text(source: str) -> None:
    """No error, and letters all stay."""
    text = INLINE(source)
    assert [char for char in text.plain if char in "星ab"] == [char for char in source if char in "星ab"]
