"""Code coloured line by line: the same colours as Pygments gives the whole of it."""

from __future__ import annotations

import textwrap
from itertools import cycle, islice
from pathlib import Path

import pytest
from pygments.lexers import get_lexer_by_name
from rich.console import Console
from rich.style import Style

from stellar_local.render import highlight
from stellar_local.render.highlight import Highlighter

C = """\
#include <stdio.h>
/* A comment
   over lines: "no string", int no_type;
 */
int main(void) {
    // short
    const char *glob = "/* no comment";
    printf("%d 星\\n", 42); /* one */ return 0;
}
"""
JS = """\
/**
 * @param {number} mass in solar masses
 */
const luminosity = (mass) => `L = ${mass ** 3.5}
   over two lines`;
export default function* f() { yield /a[/]b/g.test("x"); }
"""
PHP = 'function f(int $x): string {\n    /* a\n       b */\n    return "a $x";\n}\n'
RUST = 'fn main() {\n    /* a /* nested */\n       b */\n    let s = r#"x"#;\n}\n'
BASH = 'for f in *.md; do\n  echo "${f%.md}" # name\ndone\n'
JSON = '{"name": "星",\n "list": [1, 2.5, null, true]}\n'
SQL = "SELECT name, 'it''s' FROM stars -- bright\nWHERE mass > 1.5;\n"
DIFF = "--- a\n+++ b\n@@ -1 +1 @@\n-old\n+new\n"
_CONSOLE = Console()
PYTHON = Path(textwrap.__file__).read_text(encoding="utf-8")


def styles_of_whole(language: str, source: str, theme: highlight.ANSISyntaxTheme) -> list[Style]:
    lexer = get_lexer_by_name(language, startinline=True)
    return [
        theme.get_style_for_token(kind)
        for _, kind, value in lexer.get_tokens_unprocessed(source)
        for char in value
        if not char.isspace()
    ]


@pytest.mark.parametrize(
    ("language", "source"),
    [
        ("c", C), ("js", JS), ("php", PHP), ("rust", RUST), ("bash", BASH), ("json", JSON), ("sql", SQL),
        ("diff", DIFF), ("python", PYTHON), ("C", "".join(islice(cycle(C.splitlines(keepends=True)), 900))),
    ],
    ids=["c", "js", "php", "rust", "bash", "json", "sql", "diff", "python", "long c"],
)  # fmt: skip
def test_lines_have_the_colours_of_the_whole(language: str, source: str) -> None:
    highlighter = Highlighter(language)
    found = []
    for line in source.splitlines():
        text = highlighter.line(line)
        assert text.plain == line
        found += [text.get_style_at_offset(_CONSOLE, at) for at, char in enumerate(line) if not char.isspace()]
    assert found == styles_of_whole(language, source, highlighter._theme)
    assert len(set(map(str, found))) > 2  # there are colours


def test_unknown_languages_and_very_long_lines_have_none() -> None:
    assert not Highlighter("no such language").line("if x: return 1").spans
    assert not Highlighter("").line("if x: return 1").spans
    python = Highlighter("python")
    assert not python.line("x = 1; " * 1000).spans
    assert python.line("x = 1").spans


def test_a_lexer_that_fails_costs_the_colours_only(monkeypatch: pytest.MonkeyPatch) -> None:
    highlighter = Highlighter("python")

    def fails(source: str) -> object:
        raise ValueError(source)

    monkeypatch.setattr(highlighter._lexer, "get_tokens_unprocessed", fails)
    assert highlighter.line("x = 1").plain == "x = 1"


@pytest.mark.parametrize(
    ("said", "dark"), [("15;0", True), ("0;15", False), ("0;default;8", True), (None, False), ("x", False)]
)
def test_bright_colours_are_for_backgrounds_known_to_be_dark(
    said: str | None, dark: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLORFGBG", raising=False)
    if said is not None:
        monkeypatch.setenv("COLORFGBG", said)
    color = Highlighter("python").line("def f(): pass").spans[0].style
    assert ("bright" in str(color)) is dark


def test_the_cost_of_a_line_does_not_grow_with_the_code() -> None:
    """In characters given to the lexer, since times vary: a line costs at most the window before it."""
    highlighter, given = Highlighter("python"), []
    lexer = highlighter._lexer
    assert lexer is not None
    original = lexer.get_tokens_unprocessed

    def counts(source: str) -> object:
        given.append(len(source))
        return original(source)

    lexer.get_tokens_unprocessed = counts  # type: ignore[method-assign]
    try:
        for line in PYTHON.splitlines() * 3:
            highlighter.line(line)
    finally:
        del lexer.get_tokens_unprocessed
    assert max(given) < 9000 + 1000
    assert sum(given) < 60 * 3 * len(PYTHON)
