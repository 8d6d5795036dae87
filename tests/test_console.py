"""Output made safe for terminals; progress and tables."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from terminals import Pty
from wcwidth import wcswidth

from stellar_local import console
from stellar_local.errors import StellarError


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


def test_messages_are_neutralised_once(capsys: pytest.CaptureFixture[str]) -> None:
    name = "x\x1b]0;owned\x07"
    console.say(f"two\nlines of {name} 中文")
    console.show_error(StellarError(f"no {name}", f"rename {name}"))
    console.warn(f"{name}\nstellar: error: forged\u2028too")
    assert capsys.readouterr().err == (
        "two\nlines of x␛]0;owned 中文\n"
        "stellar: error: no x␛]0;owned\n  hint: rename x␛]0;owned\n"
        "stellar: warning: x␛]0;owned stellar: error: forged too\n"
    )


@pytest.mark.parametrize("terminal", [False, True])
def test_labels_of_progress_are_neutralised(
    terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    monkeypatch.setenv("COLUMNS", "100")
    with console.progress("first \x1b]0;owned\x07", 2) as bar:
        bar.advance()
        bar.describe("[b]then\x1b]0;owned\x07\nnext")
        bar.advance()
    said = capsys.readouterr().err
    assert "\x1b]" not in said and "\x07" not in said
    assert "[b]then␛]0;owned next" in said


def test_table_neutralises_cells() -> None:
    out = io.StringIO()
    console.table(["q", "答"], [["\x1b[31mred", "[bold]不是标记[/bold]"]], out)
    assert "\x1b" not in out.getvalue()
    assert "[bold]不是标记[/bold]" in out.getvalue()


def test_tables_of_nothing() -> None:
    for headers, rows, shown in (
        ([], [], ""),
        ([""], [[""]], None),
        (["level"], [], "level"),
        (["a", ""], [["b", ""]], "b"),
    ):
        out = io.StringIO()
        console.table(headers, rows, out, lines=False)
        assert shown is None or shown in out.getvalue()


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("columns", [14, 28, 29, 30, 40, 200])
def test_a_narrow_table_breaks_no_word(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between cells there are two blanks, or one; where there is no room for that, each row becomes a list."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    out, rows = Screen(), [["Q5_K_M", "4,096", "10.87", "hardly any"], ["F16", "8,192", "3.10", "没有"]]
    console.table(["level", "context", "GPU, GiB", "质量损失"], rows, out, lines=False)
    shown = out.getvalue().splitlines()
    assert all(wcswidth(line) <= columns for line in shown)
    words = " ".join(shown).replace(";", "").split()
    for word in [word for row in rows for cell in row for word in cell.split()]:
        assert word in words
    assert ("─" * 5 in out.getvalue()) == (columns > 28)
    assert columns < 29 or ("hardly any" in out.getvalue()) == (columns >= 40)


@pytest.mark.parametrize("columns", range(12))
def test_a_line_is_cut_between_characters(columns: int) -> None:
    for text in ("abcdefgh", "星语者 ab", "a星语者b", "🌟e\u0301", ""):
        shown = console.cut(text, columns)
        assert text.startswith(shown)
        assert wcswidth(shown) == console.cells(shown) <= columns
        assert shown == text or wcswidth(text[: len(shown) + 1]) > columns


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals here")
def test_the_live_line_is_as_wide_as_the_terminal_of_stderr(tmp_path: Path) -> None:
    code = "from stellar_local.console import LiveLine; import time; assert LiveLine.possible(); line = LiveLine()\n"
    code += "line.show('长' * 50); time.sleep(0.3); line.close(); print('answer')"
    (tmp_path / "program.py").write_text(code, encoding="utf-8")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    env.pop("COLUMNS", None)
    pty = Pty(["sh", "-c", f"{sys.executable} program.py > answers"], env, tmp_path, columns=30)
    pty.wait_for("长")
    assert pty.screen() == "长" * 14
    assert pty.exit_code() == 0
    assert pty.screen() == ""
    assert (tmp_path / "answers").read_text() == "answer\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_log_that_cannot_be_written_stops_nothing() -> None:
    code = "from stellar_local.console import progress, say; say('a')\n"
    code += "with progress('b', 2) as bar: bar.advance(2)\nprint('done')"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=full, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, "done\n")
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=writer, text=True, cwd=ROOT)
    os.close(writer)
    assert (done.returncode, done.stdout) == (0, "done\n")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8GiB", 8 << 30),
        (" 1.5 g ", 3 << 29),
        ("8GB", 8_000_000_000),
        ("512KiB", 512 << 10),
        ("8", None),
        ("8,5G", None),
    ],
)
def test_sizes_as_people_write_them(text: str, size: int | None) -> None:
    assert console.bytes_of(text) == size
