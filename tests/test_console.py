"""Output made safe for terminals; progress and tables."""

from __future__ import annotations

import io

import pytest

from stellar_local import console


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext\n中文 🌟", "plain\ttext\n中文 🌟"),
        ("\x1b[2J\x1b]0;title\x07", "␛[2J␛]0;title"),
        ("\x9b31m\x9d", "31m"),
        ("a\rb\x00\x08\x7f", "ab"),
        ("abc\u202egnp.exe\u2066", "abcgnp.exe"),
    ],
)
def test_controls_are_neutralised(text: str, shown: str) -> None:
    assert console.printable(text) == shown
    assert "".join(console.printable(char) for char in text) == shown  # however the stream is cut


def test_plain_progress_writes_a_line_a_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress("work", 1000) as bar:
        for _ in range(1000):
            bar.advance()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 11
    assert lines[-1] == "work: 100%"


def test_table_neutralises_cells() -> None:
    out = io.StringIO()
    console.table(["q", "答"], [["\x1b[31mred", "[bold]不是标记[/bold]"]], out)
    assert "\x1b" not in out.getvalue()
    assert "[bold]不是标记[/bold]" in out.getvalue()
