"""The chat loop over a terminal made of lists, and `stellar chat` in a real pseudo-terminal."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Stellar
from stellar_local.chat.commands import COMMANDS
from terminals import Pty

from stellar_local.chat.loop import chat
from stellar_local.config import RuntimeOptions, SamplingOptions
from stellar_local.errors import RequestError
from stellar_local.session import Conversation, Runtime


class Script:
    """A terminal whose messages are a list and whose output is kept."""

    def __init__(self, *messages: str, interactive: bool = True) -> None:
        self.messages, self.interactive = list(messages), interactive
        self.output, self.notes = "", []  # type: str, list[str]

    def read(self) -> str | None:
        return self.messages.pop(0) if self.messages else None

    def write(self, text: str) -> None:
        self.output += text

    def end_answer(self) -> None:
        self.output += "\n"

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def runtime(spm_model: Path) -> Iterator[Runtime]:
    with Runtime(spm_model, RuntimeOptions(ctx=512)) as runtime:
        yield runtime


@pytest.fixture
def talk(runtime: Runtime) -> Conversation:
    return Conversation(runtime, SamplingOptions(temperature=0, max_tokens=6))


def test_turns_stream_and_are_remembered(talk: Conversation) -> None:
    script = Script("Who are you?", "", "   ", "And now?")
    chat(talk, script)
    assert [turn.instruction for turn in talk.turns] == ["Who are you?", "And now?"]
    assert script.output == "".join((turn.response or "") + "\n" for turn in talk.turns)


def test_help_lists_every_command(talk: Conversation) -> None:
    script = Script("/help")
    chat(talk, script)
    assert {"/help", "/clear", "/exit"} <= set(COMMANDS)
    for name in COMMANDS:
        assert any(name in note for note in script.notes)
    assert script.output == ""


def test_clear_forgets_and_exit_leaves(talk: Conversation) -> None:
    script = Script("a question", "/clear", "/EXIT", "never read")
    chat(talk, script)
    assert talk.turns == []
    assert script.messages == ["never read"]


def test_an_unknown_command_is_answered(talk: Conversation) -> None:
    script = Script("/quit now")
    chat(talk, script)
    assert script.notes == ["unknown command /quit; /help lists them"]


def test_a_message_that_does_not_fit_leaves_the_chat_alive(talk: Conversation) -> None:
    script = Script("word " * 600, "hi")
    chat(talk, script)
    assert script.notes[0].startswith("[the prompt has")
    assert len(talk.turns) == 1
    with pytest.raises(RequestError):
        chat(talk, Script("word " * 600, interactive=False))


def test_ctrl_c_stops_the_answer_and_keeps_what_came(runtime: Runtime) -> None:
    class Impatient(Script):
        def write(self, text: str) -> None:
            super().write(text)
            if len(self.output) > 3 and not self.notes:
                self.notes.append("pressed")
                raise KeyboardInterrupt

    talk = Conversation(runtime, SamplingOptions(temperature=1.5, min_p=0, seed=1))
    script = Impatient("go on for ever", "again")
    chat(talk, script)
    assert "[interrupted]" in script.notes
    assert len(talk.turns) == 2
    assert (talk.turns[0].response or "")[:4] == script.output[:4]


@pytest.fixture
def open_pty(stellar: Stellar) -> Iterator[object]:
    if sys.platform == "win32":
        pytest.skip("no pseudo-terminals here")
    opened: list[Pty] = []

    def open_one(*arguments: object) -> Pty:
        opened.append(Pty([*stellar.argv, "chat", *map(str, arguments)], stellar.env, stellar.cwd))
        return opened[-1]

    yield open_one
    for terminal in opened:
        terminal.close()


@pytest.mark.real
def test_a_real_terminal_with_the_real_model(open_pty, real_model: Path) -> None:  # type: ignore[no-untyped-def]
    terminal = open_pty(real_model, "--temperature", "0", "--max-tokens", "1000")
    terminal.wait_for(r"template the model's own.*\n>$")
    terminal.type("I have a cat called Tom.\r")
    terminal.wait_for(r"called Tom\.\n.*\w.*\n>$")
    terminal.type("What is my cat called?\r")
    terminal.wait_for(r"my cat called\?\n[^\n]*Tom.*\n>$")
    terminal.type("Write a very long story about the stars.\r")
    terminal.wait_for(r"about the stars\.\n.*\w+ \w+ \w+ \w+ \w+")
    terminal.type("\x03")  # stops the answer only
    terminal.wait_for(r"\[interrupted\]\n>$", 10)
    terminal.type("half a line")
    terminal.wait_for(r"\n> half a line$")
    terminal.type("\x03")  # clears the line
    terminal.wait_for(r"\n> half a line\^?C?\n>$")
    terminal.type("/help\r")
    terminal.wait_for(r"/clear +forget.*Ctrl-D leaves\n>$")
    terminal.type("/clear\r")
    terminal.wait_for(r"is cleared\]\n>$")
    terminal.type("/exit\r")
    assert terminal.exit_code() == 0


def test_ctrl_d_leaves_and_chinese_is_whole(open_pty, spm_model: Path) -> None:  # type: ignore[no-untyped-def]
    terminal = open_pty(spm_model, "--temperature", "0", "--max-tokens", "8")
    terminal.wait_for("/help\n>$")
    terminal.type("你是谁？\r")
    terminal.wait_for(r"> 你是谁？\n.*\n>$")
    terminal.type("\x04")
    assert terminal.exit_code() == 0


def test_one_answer_with_prompt(stellar: Stellar, spm_model: Path) -> None:
    done = stellar("chat", spm_model, "--prompt", "Hello", "--temperature", 0, "--max-tokens", 5)
    assert done.returncode == 0
    assert done.stdout.endswith("\n")
    assert "answer was cut" in done.stderr


def test_plain_lines_without_a_terminal(stellar: Stellar, spm_model: Path) -> None:
    done = stellar("chat", spm_model, "--temperature", 0, "--max-tokens", 3, input="hi\n/clear\nhi\n")
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert "cleared" in done.stderr


def test_control_sequences_of_a_model_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    from stellar_local.chat.terminal import PlainTerminal

    PlainTerminal().write("a\x1b[2J\x07b")
    assert capsys.readouterr().out == "a␛[2Jb"


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
    import subprocess

    line = " ".join([*stellar.argv, "chat", str(spm_model), "--max-tokens 2"])
    for closed in ("<&-", ">&-", "<&- >&-"):
        done = subprocess.run(["bash", "-c", f"{line} --prompt hi {closed}"], env=stellar.env, capture_output=True)
        assert done.returncode == 0, done.stderr
        assert b"internal error" not in done.stderr
