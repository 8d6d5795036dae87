"""Reading and writing in real terminals: a pseudo-terminal that answers no questions, tmux, pipes on either side."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Stellar
from terminals import Pty, Tmux

from stellar_local.terminal.terminal import PlainTerminal
from stellar_local.texts import Texts

if sys.platform == "win32":
    pytest.skip("no pseudo-terminals here", allow_module_level=True)

# A chat without a model: it says each message back, and "answer" takes a second and a half.
PROGRAM = r"""
import contextlib, os, signal, sys, time
from pathlib import Path
from stellar_local.render.markdown import PlainView
from stellar_local.terminal.terminal import Suggestion, open_terminal
from stellar_local.texts import Texts
from stellar_local.console import use_utf8

def leave(number, frame):
    raise SystemExit(128 + number)

for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, leave)
use_utf8(sys.stdin, sys.stdout, sys.stderr)
print("loading", flush=True)
time.sleep(float(os.environ.get("LOADING", 0)))
names = ["/help", "/set", "/settings"]
terminal = open_terminal(
    Texts("en"),
    suggest=lambda text: [Suggestion(name, len(text), "说明") for name in names if name.startswith(text)],
    toolbar=lambda columns: f"星语者 13B {columns} columns " + "长" * 60,
    view=lambda: PlainView(sys.stdout),
    history=Path(os.environ["HISTORY"]) if "HISTORY" in os.environ else None,
    keys=lambda: os.environ.get("KEYS", "emacs"),
)
default = ""
while (message := terminal.read(default)) is not None:
    default = ""
    if message:
        print(f"<{message!r}>", flush=True)
    if message == "answer":
        terminal.progress("阅读中 " + "长" * 100)
        time.sleep(0.3)
        try:
            with terminal.answering():
                for number in range(8):
                    terminal.write(f"piece{number} ")
                    time.sleep(0.15)
        except KeyboardInterrupt:
            terminal.note("[interrupted]")
        terminal.end_answer()
    if message.startswith("edit"):
        default = terminal.edit(message) or ""
with contextlib.suppress(OSError):
    print("left", flush=True)
"""
READY = r"\n> *\n星语者 13B \d+ columns 长+$"


@pytest.fixture
def program(tmp_path: Path, stellar: Stellar) -> list[str]:
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    for name in ("VISUAL", "EDITOR"):
        stellar.env.pop(name, None)
    return [sys.executable, "program.py"]


@pytest.fixture
def open_pty(program: list[str], stellar: Stellar, tmp_path: Path) -> Iterator[Callable[..., Pty]]:
    opened: list[Pty] = []

    def open_one(argv: list[str] | None = None, columns: int = 80, term: str = "xterm", **env: str) -> Pty:
        opened.append(Pty(argv or program, {**stellar.env, **env}, tmp_path, columns, 60, term))
        return opened[-1]

    yield open_one
    for terminal in opened:
        terminal.close()


@pytest.fixture
def tmux(stellar: Stellar, tmp_path: Path) -> Iterator[Tmux]:
    made = Tmux(stellar.env, tmp_path)
    yield made
    made.kill()


def test_the_terminal_is_asked_nothing_and_left_as_it_was(open_pty: Callable[..., Pty]) -> None:
    pty = open_pty()
    before = pty.settings()
    pty.wait_for(READY, 10)
    pty.type("你好\r")
    pty.wait_for(rf"\n> 你好\n<'你好'>{READY}")
    pty.type("\x04")
    pty.wait_for(r"\n>\nleft$")
    assert pty.settings() == before
    assert pty.exit_code() == 0
    sent = pty.output
    assert b"\x1b[6n" not in sent  # where is the cursor?
    assert not re.search(rb"\x1b\[(\?[>=]?|>)?\d*[cn]", sent)  # who are you? how are you?
    assert not re.search(rb"\x1b\[\?100\dh", sent)  # the mouse
    assert sent.count(b"\x1b[?2004h") and sent.rfind(b"\x1b[?2004h") < sent.rfind(b"\x1b[?2004l")
    assert sent.rfind(b"\x1b[?25l") < sent.rfind(b"\x1b[?25h")
    assert sent.rfind(b"\x1b[?7l") < sent.rfind(b"\x1b[?7h")


def test_bytes_of_a_character_may_come_one_by_one(open_pty: Callable[..., Pty]) -> None:
    pty = open_pty(columns=40)
    pty.wait_for(READY)
    for byte in "黑洞🌟".encode():
        pty.type(bytes([byte]))
        time.sleep(0.01)
    pty.wait_for(r"\n> 黑洞🌟\n星语者")
    assert pty.cursor()[0] == 8
    pty.type("\x7f\x7f洞的\x1b[D\x7f\r")
    pty.wait_for(r"<'黑的'>")


def test_typed_during_an_answer_it_is_not_shown_and_then_in_the_prompt(open_pty: Callable[..., Pty]) -> None:
    pty = open_pty()
    pty.wait_for(READY)
    pty.type("answer\r")
    pty.wait_for("piece1")
    pty.type("下一个问题\r")
    pty.type("还有")
    shown = pty.wait_for("piece7")
    assert "下一个问题" not in shown and "还有" not in shown
    pty.wait_for(r"piece7 *\n> 下一个问题\n<'下一个问题'>\n> 还有\n星语者")
    pty.type("吗\r")
    pty.wait_for("<'还有吗'>")


def test_a_paste_during_an_answer_stays_whole(open_pty: Callable[..., Pty]) -> None:
    pty = open_pty()
    pty.wait_for(READY)
    pty.type("answer\r")
    pty.wait_for("piece1")
    assert pty.output.rfind(b"\x1b[?2004h") > pty.output.rfind(b"\x1b[?2004l")
    text = "\n".join(f"第{number}行" for number in range(20))
    pty.paste(text)
    pty.wait_for(r"piece7 *\n> 第0行\n… 第1行.*… 第19行\n星语者")
    pty.type("\r")
    pty.settle()
    assert repr(text) in pty.screen().replace("\n", "")


def test_ctrl_c_stops_an_answer_and_loses_no_typed_key(open_pty: Callable[..., Pty]) -> None:
    pty = open_pty()
    pty.wait_for(READY)
    pty.type("answer\r")
    pty.wait_for("piece1")
    pty.type("next\x03")
    pty.wait_for(r"\[interrupted\]\n> next\n星语者", 1)
    assert "piece7" not in pty.screen()


def test_typed_before_the_first_prompt_enter_sends(open_pty: Callable[..., Pty]) -> None:
    """The terminal is as usual then: it shows the keys, and Enter is a line feed."""
    pty = open_pty(LOADING="0.5")
    pty.wait_for("loading")
    pty.type("早\rlate")
    pty.wait_for(r"<'早'>\n> late\n星语者")


def test_lines_that_come_at_once_without_marks_are_one_message(open_pty: Callable[..., Pty]) -> None:
    pty = open_pty()
    pty.wait_for(READY)
    pty.type("第一行\rsecond\r")
    pty.wait_for(r"\n> 第一行\n… second\n…\n星语者")
    pty.type("\r")
    pty.wait_for(r"<'第一行\\nsecond\\n'>")


def test_a_progress_line_is_cut_and_gone_when_the_answer_begins(open_pty: Callable[..., Pty]) -> None:
    pty = open_pty(columns=40)
    pty.wait_for(READY)
    pty.type("answer\r")
    pty.wait_for(r"<'answer'>\n阅读中 长{16}$")  # 39 columns: the last stays free
    pty.wait_for("piece1")
    assert "阅读中" not in pty.screen()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("when", ["prompt", "answer"])
def test_a_signal_that_ends_the_chat_leaves_the_terminal_in_order(
    number: int, when: str, open_pty: Callable[..., Pty]
) -> None:
    pty = open_pty()
    before = pty.settings()
    pty.wait_for(READY)
    pty.type("answer\r" if when == "answer" else "half a li")
    pty.wait_for("piece1" if when == "answer" else "half a li")
    assert pty.settings() != before
    os.kill(pty.pid, number)
    deadline = time.monotonic() + 5
    while not os.waitid(os.P_PID, pty.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):  # it has ended, and is not reaped
        pty.read(0.05)
        assert time.monotonic() < deadline
    assert pty.settings() == before
    assert pty.exit_code() == 128 + number
    assert b"Traceback" not in pty.output
    assert pty.output.rfind(b"\x1b[?2004h") < pty.output.rfind(b"\x1b[?2004l")


@pytest.mark.parametrize("ignored", [False, True], ids=["SIGHUP", "nohup"])
def test_a_terminal_that_goes_away_ends_the_chat(
    ignored: bool, open_pty: Callable[..., Pty], program: list[str], tmp_path: Path
) -> None:
    """It neither waits nor burns the processor, and says nothing of Python's."""
    trap = "sed -i s/signal.SIGHUP/signal.SIGTERM/ program.py; trap '' HUP; " if ignored else ""
    pty = open_pty(["sh", "-c", trap + f"exec {' '.join(program)} 2> errors"])
    pty.wait_for(READY)
    os.close(pty.fd)
    deadline = time.monotonic() + 5
    while not os.waitid(os.P_PID, pty.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        time.sleep(0.02)
        assert time.monotonic() < deadline
    pty.fd = os.open(os.devnull, os.O_RDONLY)
    assert "prompt_toolkit" not in (tmp_path / "errors").read_text()


def test_ctrl_z_stops_and_fg_goes_on(open_pty: Callable[..., Pty], program: list[str]) -> None:
    pty = open_pty(["bash", "--norc", "--noediting", "-i"], PS1="$ ")
    pty.wait_for(r"\$$")
    before = pty.settings()
    pty.type(" ".join(program) + "\r")
    pty.wait_for(READY)
    pty.type("half")
    pty.wait_for("\n> half\n")
    pty.type("\x1a")
    pty.wait_for(r"Stopped.*\n\$$")
    assert pty.settings() == before
    pty.type("echo still here\r")
    pty.wait_for(r"\nstill here\n\$$")
    pty.type("fg\r")
    pty.wait_for(r"\$ fg\n[^\n]*program.py\n> half\n星语者")
    pty.type(" more\r")
    pty.wait_for("<'half more'>")
    pty.type("answer\r")
    pty.wait_for("piece1")
    pty.type("\x1a")
    pty.wait_for(r"Stopped[^<>]*\n\$$")
    assert pty.settings() == before
    pty.type("fg\r")
    pty.wait_for("piece7.*> *\n星语者")
    pty.type("\x04")
    pty.wait_for(r"left\n\$$")
    assert pty.settings() == before


def test_two_chats_share_a_history(open_pty: Callable[..., Pty], tmp_path: Path) -> None:
    path = str(tmp_path / "history")
    first, second = open_pty(HISTORY=path), open_pty(HISTORY=path)
    first.wait_for(READY)
    second.wait_for(READY)
    first.type("从第一个\r")
    first.wait_for("<'从第一个'>")
    second.paste("a\nb")
    second.type("\r")
    second.wait_for("<'a.nb'>")
    third = open_pty(HISTORY=path)
    third.wait_for(READY)
    third.type("\x1b[A")
    third.wait_for(r"\n> a\n… b\n星语者")
    third.type("\x1b[A\x1b[A")
    third.wait_for(r"\n> 从第一个\n星语者")
    third.type("\x03")
    third.wait_for(READY)
    third.type("从")
    third.wait_for(r"\n> 从第一个\n星语者")  # in grey
    third.type("\r")
    third.wait_for("<'从'>")


def test_a_history_that_cannot_be_kept_is_told_once(open_pty: Callable[..., Pty], tmp_path: Path) -> None:
    pty = open_pty(HISTORY=str(tmp_path))
    pty.wait_for(rf"\[typed messages are kept in memory only:[^\]]*: not a file\]{READY}")
    pty.type("one\r")
    pty.wait_for(rf"<'one'>{READY}")
    pty.type("\x1b[A")
    pty.wait_for("\n> one\n")
    assert pty.screen().count("in memory only") == 1


def test_vi(open_pty: Callable[..., Pty]) -> None:
    pty = open_pty(KEYS="vi")
    pty.wait_for(READY)
    pty.type("黑洞 abc")
    pty.wait_for("> 黑洞 abc\n")
    pty.type("\x1b")
    time.sleep(0.7)  # until Escape is known to be no beginning of another key
    pty.type("0x")
    pty.wait_for("> 洞 abc\n")
    pty.type("A!\x1b\r")  # Alt-Enter
    pty.wait_for("> 洞 abc!\n…\n")
    pty.type("x")
    pty.type("\x1b")
    time.sleep(0.1)
    pty.type("\r")  # Escape and then Enter: it is sent
    pty.wait_for(r"<'洞 abc!\\nx'>")


def test_a_dumb_terminal_gets_lines(open_pty: Callable[..., Pty]) -> None:
    pty = open_pty(term="dumb")
    pty.wait_for("loading\n>$")
    pty.type("你好\r")
    pty.wait_for(r"> 你好\n<'你好'>\n>$")
    for line in ('"""', "a", 'b"""'):
        pty.type(line + "\r")
        pty.wait_for(rf"[>…] {line}\n.*[>…]$")
    pty.wait_for(r"<'a\\nb'>\n>$")
    pty.type("half\x03")
    pty.wait_for(r"\^C\n>$")
    pty.type("answer\r")
    pty.wait_for("piece7 *\n>$")
    pty.type("\x04")
    pty.wait_for("left$")
    assert pty.exit_code() == 0
    assert b"\x1b" not in pty.output


def test_answers_into_a_pipe_leave_the_prompt_on_the_terminal(
    open_pty: Callable[..., Pty], program: list[str], tmp_path: Path
) -> None:
    pty = open_pty(["sh", "-c", " ".join(program) + " | cat > answers"])
    pty.wait_for(READY.lstrip("\\n"))
    pty.type("answer\r")
    pty.wait_for(rf"> answer{READY}")
    pty.type("\x04")
    assert pty.exit_code() == 0
    answers = (tmp_path / "answers").read_text(encoding="utf-8")
    assert answers == "loading\n<'answer'>\n" + "".join(f"piece{number} " for number in range(8)) + "\nleft\n"


def test_both_editors_of_the_chat(open_pty: Callable[..., Pty], tmp_path: Path) -> None:
    """A script as the editor: it talks on the terminal, as it is outside the prompt."""
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nprintf "new line: "\nread line\necho "$line" >> "$2"\nstty -echo -icanon\n')
    editor.chmod(0o755)
    pty = open_pty(EDITOR=f"{editor} -x")
    pty.wait_for(READY)
    pty.type("一行\x07")
    pty.wait_for(r"\nnew line:$")
    pty.type("二行\r")
    pty.wait_for(r"\nnew line: 二行\n> 一行\n… 二行\n星语者")
    pty.type("\r")
    pty.wait_for(r"<'一行\\n二行'>")
    pty.type("edit\r")
    pty.wait_for(r"<'edit'>\nnew line:$")
    pty.type("three\r")
    pty.wait_for(r"\n> edit\n… three\n星语者")


# In tmux


def test_a_paste_in_tmux_is_one_message(tmux: Tmux, program: list[str]) -> None:
    tmux.start(program, 80, 50)
    tmux.wait_for(READY)
    lines = [f"第{number}行：什么是黑洞？" for number in range(20)]
    tmux.paste("\n".join(lines) + "\n")
    tmux.wait_for(r"\n> 第0行：什么是黑洞？\n… 第1行.*\n… 第19行：什么是黑洞？\n…\n星语者")
    tmux.send("BSpace", "BSpace", "!", "Enter")
    tmux.settle()
    assert repr("\n".join(lines)[:-1] + "!") in tmux.screen().replace("\n", "")


def test_keys_and_menu_in_tmux(tmux: Tmux, program: list[str]) -> None:
    tmux.start(program, 60, 30)
    tmux.wait_for(READY)
    tmux.type("/se")
    tmux.wait_for(r"\n> /se\n +/set +说明 *\n +/settings +说明 *\n星语者")
    tmux.send("Tab", "Tab", "Enter")
    tmux.wait_for(r"> /settings\n<'/settings'>")
    tmux.type("nothing about /se")
    assert "说明" not in tmux.settle()
    tmux.send("M-Enter")
    tmux.type("two")
    tmux.wait_for(r"\n> nothing about /se\n… two\n")
    tmux.send("Enter")
    tmux.wait_for(r"<'nothing about /se\\ntwo'>")
    tmux.type('"""')
    tmux.send("Enter")
    tmux.type("块")
    tmux.send("Enter")
    tmux.type('"""')
    tmux.wait_for(r'\n> """\n… 块\n… """\n')
    tmux.send("Enter")
    tmux.wait_for(r"<'块'>")
    tmux.type("kept")
    tmux.send("C-l")
    tmux.wait_for(r"\A> kept\n星语者[^\n]*\Z")
    tmux.send("C-c")
    tmux.wait_for(r"\A> kept\n>\n星语者[^\n]*\Z")
    tmux.send("C-c")
    tmux.wait_for(r"\n\[/exit or Ctrl-D leaves\]\n>\n")
    tmux.send("C-d")
    assert tmux.exit_code() == 0


def test_a_long_chinese_line_in_narrow_and_wide_windows(tmux: Tmux, program: list[str]) -> None:
    """Nothing is lost, doubled or cut in half on the screen, whatever the width; the cursor is where it should be."""
    text = "星语者是一个天文学语言模型，能用中文和英文回答问题。" * 3
    tmux.start(program, 80, 12)
    tmux.wait_for(READY)
    for number in range(6):  # the prompt comes to the lower end of the window
        tmux.send(str(number), "Enter")
        tmux.wait_for(rf"<'{number}'>{READY}")
    tmux.type(text)
    tmux.settle()
    for columns in (80, 40, 41, 100, 40, 100):
        tmux.resize(columns, 12)
        tmux.wait_for(rf"13B {columns} columns")
        shown = tmux.settle()
        prompt = shown[shown.index("<'5'>") + 6 :].split("\n")
        assert "".join(prompt[:-1]) == "> " + text
        assert prompt[-1].startswith("星语者 13B")
        assert len(prompt[:-1]) == -(-(2 + 2 * len(text)) // (columns - columns % 2))
        assert tmux.cursor()[0] == (2 + 2 * len(text)) % (columns - columns % 2)
        assert "\ufffd" not in shown
    tmux.send(*["BSpace"] * 40)
    tmux.type("完")
    tmux.send("Enter")
    tmux.settle()
    assert repr(text[:-40] + "完") in tmux.screen().replace("\n", "")


def test_real_vim_in_tmux(tmux: Tmux, program: list[str]) -> None:
    vim = shutil.which("vim")
    if vim is None:
        pytest.skip("vim is not installed")
    tmux.start(["env", f"EDITOR={vim} -u NONE -N", *program], 80, 30)
    tmux.wait_for(READY)
    tmux.type("什么是黑洞？")
    tmux.send("C-g")
    tmux.wait_for(r"什么是黑洞？\n~.*message\.md")
    tmux.type("o第二行")
    tmux.send("Escape")
    tmux.type(":wq")
    tmux.send("Enter")
    tmux.wait_for(r"\n> 什么是黑洞？\n… 第二行\n星语者")
    tmux.send("C-x", "C-e")
    tmux.wait_for(r"第二行\n~.*message\.md")
    tmux.type(":q!")
    tmux.send("Enter")
    tmux.wait_for(r"\[nothing was saved: the text stays as it was\]\n> 什么是黑洞？\n… 第二行\n星语者")
    tmux.send("Enter")
    tmux.wait_for(r"<'什么是黑洞？\\n第二行'>")


# Without a terminal


def test_plain_lines(program: list[str], stellar: Stellar) -> None:
    data = b'one\r\n\xe4\xbd\xa0\xff\n\n"""\nfirst\n  second\n"""\n"""x"""\n"""never\nclosed'
    done = subprocess.run(program, input=data, capture_output=True, env=stellar.env, cwd=stellar.cwd, timeout=60)
    expected = ["loading", "<'one'>", "<'你\ufffd'>", r"<'first\n  second'>", "<'x'>", r"<'never\nclosed'>", "left"]
    assert done.stdout.decode("utf-8").splitlines() == expected
    assert done.stderr == b""
    assert done.returncode == 0


def test_plain_output(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    terminal = PlainTerminal(Texts("zh"))
    assert not terminal.interactive
    terminal.progress("reading")
    with terminal.answering():
        terminal.write("黑\x1b[2J")
        terminal.write("洞\u202e")
    terminal.end_answer()
    terminal.note("a\x1b[2Jb")
    assert terminal.edit("text") is None
    assert capsys.readouterr() == ("黑␛[2J洞\n", "a␛[2Jb\n[编辑器只能在终端中使用]\n")
    monkeypatch.setattr(sys, "stdin", io.StringIO("last"))
    assert [terminal.read(), terminal.read(), terminal.read()] == ["last", None, None]
