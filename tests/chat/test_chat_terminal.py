"""`stellar chat` as a process: in a pseudo-terminal, in a pipe, killed, and gone on with. On the tiny model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Stellar
from terminals import Pty

if sys.platform == "win32":
    pytest.skip("no pseudo-terminals here", allow_module_level=True)

SHORT = ["--temperature", "0", "--max-tokens", "8", "--threads", "1"]
Open = Callable[..., Pty]


@pytest.fixture
def open_pty(stellar: Stellar) -> Iterator[Open]:
    opened: list[Pty] = []

    def open_one(*arguments: object, **size: int) -> Pty:
        opened.append(Pty([*stellar.argv, "chat", *map(str, arguments)], stellar.env, stellar.cwd, **size))
        return opened[-1]

    yield open_one
    for terminal in opened:
        terminal.close()


def say(terminal: Pty, line: str, answer: str) -> None:
    """Type a line, and wait for what it brings."""
    terminal.type(line + "\r")
    terminal.wait_for(answer)
    terminal.settle()


def sessions(stellar: Stellar) -> dict[str, dict[str, object]]:
    folder = Path(stellar.env["STELLAR_DATA"]) / "sessions"
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")}


def test_the_start_says_which_level_and_why(open_pty: Open, spm_folder: Path) -> None:
    terminal = open_pty(spm_folder, *SHORT)
    shown = terminal.wait_for(r">.*tiny-Q8_0 · \d+/512 · /help")
    assert "tiny-Q8_0.gguf: the best of 2 levels; it needs" in shown
    assert "tiny-Q8_0.gguf · context 512 · template: bayling" in shown
    terminal.type("\x04")
    assert terminal.exit_code() == 0


def test_it_speaks_chinese_where_the_locale_does(open_pty: Open, stellar: Stellar, spm_folder: Path) -> None:
    stellar.env["LC_ALL"] = "zh_CN.UTF-8"
    terminal = open_pty(spm_folder, *SHORT)
    assert "2 个级别中最好的" in terminal.wait_for(r">.*/help")
    terminal.type("你是谁？\r")
    terminal.wait_for("> 你是谁？.*回答在 max_tokens 处截断.*>")
    terminal.type("/undo 9\r")
    terminal.wait_for("没有那么多轮对话")
    terminal.type("/set ui_lang en\r")
    terminal.wait_for("ui_lang = en")
    terminal.type("/undo 9\r")
    terminal.wait_for("there are not as many turns")
    terminal.type("/exit\r")
    assert terminal.exit_code() == 0


def test_the_toolbar(open_pty: Open, spm_model: Path) -> None:
    terminal = open_pty(spm_model, *SHORT, "--session", "天文")
    terminal.wait_for(r"tiny-F32 · 0/512 · 天文 · /help")
    terminal.type("hello\r")
    terminal.wait_for(r"tiny-F32 · \d\d+/512 · [\d,]+ tok/s · 天文 · /help")
    terminal.resize(40)
    terminal.type("x")
    shown = terminal.wait_for(r"> x\n[^\n]{1,40}$")
    assert "/512" in shown.rpartition("\n")[2]
    terminal.type("\x03\x04")
    assert terminal.exit_code() == 0


def test_completion_of_commands_and_their_arguments(open_pty: Open, spm_model: Path) -> None:
    terminal = open_pty(spm_model, *SHORT)
    terminal.wait_for("/help")
    terminal.type("/he")
    terminal.wait_for(r"/help.*list the commands")
    terminal.type("\t\r")
    terminal.wait_for("Conversation.*Keys.*Ctrl-R")
    terminal.settle()
    for begun, menu, whole in (("/set overfl", " overflow", "> /set overflow"), (" sh", " shift", "overflow shift")):
        terminal.type(begun)
        terminal.wait_for(rf"{begun}\n +{menu}")
        terminal.type("\t")
        terminal.wait_for(whole)
    terminal.type("\r")
    terminal.wait_for("overflow = shift")
    terminal.type("\x04")
    assert terminal.exit_code() == 0


def test_history_and_sessions_outlive_the_process(open_pty: Open, stellar: Stellar, spm_model: Path) -> None:
    terminal = open_pty(spm_model, *SHORT)
    terminal.wait_for("/help")
    terminal.type("an unusual question 问\r")
    terminal.wait_for("tok/s")
    terminal.type("/exit\r")
    assert terminal.exit_code() == 0
    terminal = open_pty(spm_model, *SHORT)
    terminal.wait_for("/help")
    terminal.type("an unu")
    terminal.wait_for("> an unusual question 问")  # the suggestion
    terminal.type("\x05\r")
    terminal.wait_for("tok/s")
    terminal.type("\x04")
    assert terminal.exit_code() == 0
    assert [len(one["turns"]) for one in sessions(stellar).values()] == [1, 1]  # type: ignore[arg-type]


def test_go_on_after_kill(open_pty: Open, stellar: Stellar, spm_model: Path) -> None:
    """The answer in hand is lost, what was answered is not; the model need not be named again."""
    terminal = open_pty(spm_model, "--ctx", 512, "--temperature", "1.5", "--min-p", "0", "--seed", "1")
    terminal.wait_for("/help")
    say(terminal, "/set max_tokens 8", "max_tokens = 8")
    say(terminal, "first 一", "tok/s")
    say(terminal, "/set max_tokens 400", "max_tokens = 400")
    say(terminal, "/set logit_bias 2=-100", "logit_bias = 2=-100")
    terminal.type("second 二\r")
    terminal.wait_for(r"> second 二\n.{3}")
    os.kill(terminal.pid, signal.SIGKILL)
    terminal.close()
    assert [[turn["question"] for turn in one["turns"]] for one in sessions(stellar).values()] == [["first 一"]]  # type: ignore[attr-defined]
    terminal = open_pty("--continue")
    terminal.wait_for(r"session [-\d]+: turns 1, tokens (\d+).*tiny-F32 · \1/512")
    terminal.type("/history\r")
    terminal.wait_for("1. > first 一")
    terminal.type("/set max_tokens\r")
    terminal.wait_for("max_tokens = 400")
    terminal.type("\x04")
    assert terminal.exit_code() == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_an_orderly_end_keeps_the_answer_in_hand(
    number: int, code: int, open_pty: Open, stellar: Stellar, spm_model: Path
) -> None:
    terminal = open_pty(spm_model, "--temperature", "1.5", "--min-p", "0", "--seed", "1", "--overflow", "shift")
    terminal.wait_for("/help")
    terminal.type("/set logit_bias 2=-100\r")
    terminal.wait_for("logit_bias")
    terminal.type("for ever\r")
    terminal.wait_for(r"> for ever\n(?:.|\n){300}")  # of the answer: nothing else is as long
    os.kill(terminal.pid, number)
    assert terminal.exit_code() == code
    (saved,) = sessions(stellar).values()
    (turn,) = saved["turns"]  # type: ignore[misc]
    assert turn["finish"] == "cancelled"
    assert len(turn["answer"]) > 10


def test_a_terminal_that_is_closed_keeps_the_answer_in_hand(open_pty: Open, stellar: Stellar, spm_model: Path) -> None:
    """SIGHUP, and no one to write to any more."""
    terminal = open_pty(spm_model, "--temperature", "1.5", "--min-p", "0", "--seed", "1", "--overflow", "shift")
    terminal.wait_for("/help")
    say(terminal, "/set logit_bias 2=-100", "logit_bias = 2=-100")
    terminal.type("for ever\r")
    terminal.wait_for(r"> for ever\n(?:.|\n){300}")  # of the answer: nothing else is as long
    os.close(terminal.fd)
    os.waitpid(terminal.pid, 0)
    (saved,) = sessions(stellar).values()
    assert [turn["finish"] for turn in saved["turns"]] == ["cancelled"]  # type: ignore[attr-defined]


def test_what_is_typed_during_an_answer_waits(open_pty: Open, spm_model: Path) -> None:
    terminal = open_pty(spm_model, "--temperature", "1.5", "--min-p", "0", "--seed", "1", "--overflow", "shift")
    terminal.wait_for("/help")
    say(terminal, "/set logit_bias 2=-100", "logit_bias = 2=-100")
    terminal.type("go on\r")
    terminal.wait_for(r"> go on\n.{20}")
    terminal.type("the next one")
    assert not terminal.echoes()
    terminal.type("\x03")
    terminal.wait_for(r"\[interrupted\]\n> the next one\n")
    terminal.type("\x03")
    terminal.settle()
    terminal.type("/exit\r")
    assert terminal.exit_code() == 0


def test_private_leaves_nothing(open_pty: Open, stellar: Stellar, spm_model: Path) -> None:
    terminal = open_pty(spm_model, *SHORT, "--private")
    terminal.wait_for("/help")
    terminal.type("secret\r")
    terminal.wait_for("tok/s")
    terminal.type("\x04")
    assert terminal.exit_code() == 0
    assert [path for path in Path(stellar.env["STELLAR_DATA"]).rglob("*") if path.is_file()] == []


def test_one_answer_with_prompt(stellar: Stellar, spm_model: Path) -> None:
    done = stellar("chat", spm_model, "--prompt", "Hello", "--temperature", 0, "--max-tokens", 5)
    assert done.returncode == 0
    assert done.stdout.endswith("\n")
    assert "answer was cut" in done.stderr
    assert sessions(stellar) == {}


def test_prompts_on_a_session(stellar: Stellar, spm_model: Path) -> None:
    first = stellar("chat", spm_model, "--session", "星 1", "--prompt", "One. 一。", *SHORT)
    second = stellar("chat", "--continue", "--prompt", "Two. 二。", *SHORT)
    assert (first.returncode, second.returncode) == (0, 0), second.stderr
    assert [turn["question"] for turn in sessions(stellar)["星 1"]["turns"]] == ["One. 一。", "Two. 二。"]  # type: ignore[attr-defined]
    # The same as in one process.
    both = stellar("chat", spm_model, *SHORT, input="One. 一。\nTwo. 二。\n")
    assert both.stdout == first.stdout + second.stdout


def test_plain_lines_without_a_terminal(stellar: Stellar, spm_model: Path) -> None:
    done = stellar("chat", spm_model, *SHORT, input='hi\n/clear\n\nhi\n"""two\nlines"""\n')
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert "cleared" in done.stderr
    assert sessions(stellar) == {}
    answers = done.stdout.splitlines()
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "Missing argument 'MODEL'"),
        (["--continue"], 2, "no session to go on with"),
        (["MODEL", "--continue", "--session", "x"], 2, "both name a session"),
        (["MODEL", "--private", "--continue"], 2, "--private saves nothing"),
        (["MODEL", "--session", "../x"], 2, "x"),
        (["MODEL", "--session", ""], 2, "session"),
        (["--session", "new"], 2, "no MODEL"),
        (["MODEL", "--overflow", "never"], 2, "--overflow must be one of drop, shift, error"),
        (["MODEL", "--ui-lang", "fr"], 2, "--ui-lang must be"),
        (["MODEL", "--prompt", " "], 2, "--prompt is empty"),
        (["nowhere.gguf"], 1, "nowhere.gguf"),
    ],
)
def test_wrong_arguments(arguments: list[str], code: int, message: str, stellar: Stellar, spm_model: Path) -> None:
    done = stellar("chat", *[str(spm_model) if one == "MODEL" else one for one in arguments])
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_failing_line_ends_a_script(stellar: Stellar, spm_model: Path) -> None:
    done = stellar("chat", spm_model, *SHORT, input="hi\n/nonsense\nhi\n")
    assert done.returncode == 1
    assert "unknown command /nonsense" in done.stderr
    assert len(done.stdout.splitlines()) == 1


def test_a_damaged_session_is_set_aside(stellar: Stellar, spm_model: Path) -> None:
    for name in ("one", "two"):
        stellar("chat", spm_model, "--session", name, "--prompt", "hi", *SHORT)
    folder = Path(stellar.env["STELLAR_DATA"]) / "sessions"
    (folder / "two.json").write_text('{"version": 1, "turns": [')
    done = stellar("chat", "--continue", "--prompt", "and?", *SHORT)
    assert done.returncode == 0, done.stderr
    assert len(sessions(stellar)["one"]["turns"]) == 2  # type: ignore[arg-type]
    assert (folder / "two.json.damaged").exists()
    done = stellar("chat", spm_model, "--session", "two", "--prompt", "hi", *SHORT)
    assert done.returncode == 0, done.stderr


@pytest.mark.real
@pytest.mark.parametrize("delay", [0.15, 0.25, 0.4, 0.6])
def test_ctrl_c_while_the_model_loads(delay: float, stellar: Stellar, real_model: Path) -> None:
    """Whenever it comes, it ends the program without a word of Python's; it never goes on to the answer's end."""
    process = stellar.start("chat", real_model, "--prompt", "Tell a very long story.", "--temperature", "0")
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    said = errors.decode()
    assert process.returncode in (130, -signal.SIGINT)  # the latter before our own code runs
    if process.returncode == 130:
        assert said.strip() == "interrupted"


def test_closed_standard_streams_are_no_defect(stellar: Stellar, spm_model: Path) -> None:
    line = " ".join([*stellar.argv, "chat", str(spm_model), "--max-tokens 2"])
    for closed in ("<&-", ">&-", "<&- >&-"):
        done = subprocess.run(["bash", "-c", f"{line} --prompt hi {closed}"], env=stellar.env, capture_output=True)
        assert done.returncode == 0, done.stderr
        assert b"internal error" not in done.stderr


def test_a_closed_pipe_ends_it_quietly(stellar: Stellar, spm_model: Path) -> None:
    line = " ".join([*stellar.argv, "chat", str(spm_model), "--max-tokens 400 --temperature 2 --min-p 0"])
    command = f"printf 'a\\nb\\nc\\n' | {line} | head -c 20 >/dev/null; exit ${{PIPESTATUS[1]}}"
    done = subprocess.run(["bash", "-c", command], env=stellar.env, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert b"rror" not in done.stderr
