"""`stellar chat` in a real terminal (tmux) with the real model, as a person uses it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Stellar
from terminals import Tmux

pytestmark = pytest.mark.real
PROMPT = r"\n>\n[^\n]*/4,096[^\n]*$"  # and the toolbar, which has the context even where there is little room


class Chat:
    """A chat in a tmux window."""

    def __init__(self, tmux: Tmux, stellar: Stellar) -> None:
        self.tmux, self.stellar = tmux, stellar

    def open(self, *arguments: object, columns: int = 80, rows: int = 50) -> None:
        self.tmux.start([*self.stellar.argv, "chat", *map(str, arguments)], columns, rows)
        self.tmux.wait_for(PROMPT)

    def ask(self, text: str, timeout: float = 120) -> str:
        """Type a line; returns what is shown once the prompt is there again."""
        self.tmux.type(text)
        self.tmux.send("Enter")
        return self.ready(text, timeout)

    def ready(self, last: str = "", timeout: float = 120) -> str:
        return self.tmux.wait_for(re.escape(last) + r"\n.*" + PROMPT, timeout)

    def sessions(self) -> dict[str, list[dict[str, str]]]:
        folder = Path(self.stellar.env["STELLAR_DATA"]) / "sessions"
        return {one.stem: json.loads(one.read_text(encoding="utf-8"))["turns"] for one in folder.glob("*.json")}


@pytest.fixture
def chat(stellar: Stellar, tmp_path: Path) -> Iterator[Chat]:
    if sys.platform == "win32":
        pytest.skip("no tmux here")
    tmux = Tmux(stellar.env, tmp_path)
    chat = Chat(tmux, stellar)
    yield chat
    chat.tmux.kill()


def test_turns_with_memory_and_ctrl_c(chat: Chat, real_model: Path) -> None:
    chat.open(real_model, "--threads", 1, "--temperature", 0, "--max-tokens", 40)
    chat.ask("I have a cat called Tom.")
    shown = chat.ask("What is my cat called?")
    assert "Tom" in shown.rpartition("my cat called?")[2]
    chat.ask("/set max_tokens 1000")
    chat.tmux.type("Write a very long story about the stars.")
    chat.tmux.send("Enter")
    chat.tmux.wait_for(r"about the stars\.\n.*\w+ \w+ \w+ \w+ \w+")
    chat.tmux.send("C-c")
    chat.tmux.wait_for(r"\[interrupted\]\n>", 10)
    chat.tmux.type("half a line")
    chat.tmux.wait_for("> half a line")
    chat.tmux.send("C-c")
    chat.tmux.wait_for(PROMPT, 10)
    (turns,) = chat.sessions().values()
    assert [turn["finish"] for turn in turns][2:] == ["cancelled"]
    chat.tmux.send("C-d")
    assert chat.tmux.exit_code() == 0


def test_a_paste_of_many_lines_is_one_message(chat: Chat, real_model: Path) -> None:
    chat.open(real_model, "--threads", 1, "--temperature", 0, "--max-tokens", 8)
    lines = [f"第 {number} 行: line {number}, {'星' * (number % 7)}" for number in range(20)]
    chat.tmux.paste("\n".join(lines))
    chat.tmux.wait_for("第 19 行")
    chat.tmux.send("Enter")
    chat.ready("行: line 19, 星星星星星")
    (turns,) = chat.sessions().values()
    assert [turn["question"] for turn in turns] == ["\n".join(lines)]


def test_chinese_in_forty_columns_and_resized(chat: Chat, real_model: Path) -> None:
    """Nothing is lost and no character is broken, while the answer comes, whatever becomes of the window."""
    chat.open(real_model, "--threads", 1, "--temperature", 0, "--max-tokens", 60, "--ui-lang", "zh", columns=40)
    question = "请用中文介绍一下太阳系的八大行星，并说明它们各自的特点和距离太阳的远近。"
    chat.tmux.type(question)
    chat.tmux.send("Enter")
    chat.tmux.wait_for(r"远近。\n.{10}")
    for columns in (100, 30, 80):
        chat.tmux.resize(columns)
    chat.tmux.wait_for(PROMPT)
    (turns,) = chat.sessions().values()
    assert turns[0]["question"] == question
    shown = "".join(chat.tmux.settle().split())
    words = re.findall(r"\w{4,}", turns[0]["answer"])
    assert words
    assert all(word in shown for word in words[-5:])
    assert "\ufffd" not in shown


def test_gone_on_with_after_kill(chat: Chat, real_model: Path) -> None:
    chat.open(real_model, "--threads", 1, "--temperature", 0, "--max-tokens", 60)
    chat.ask("My favourite star is Vega.")
    chat.tmux.type("Tell me a long story.")
    chat.tmux.send("Enter")
    chat.tmux.wait_for(r"a long story\.\n.{20}")
    chat.tmux.kill_child()
    (turns,) = chat.sessions().values()
    assert [turn["question"] for turn in turns] == ["My favourite star is Vega."]
    chat.tmux.kill()
    chat.tmux = Tmux(chat.stellar.env, chat.stellar.cwd)
    chat.open("--continue", "--threads", 1, "--temperature", 0, "--max-tokens", 30)
    chat.ask("Which star did I name?")
    chat.ask("/history")
    (turns,) = chat.sessions().values()
    assert [turn["question"] for turn in turns] == ["My favourite star is Vega.", "Which star did I name?"]


def test_the_kv_memory_comes_back(chat: Chat, real_model: Path) -> None:
    """What is computed after a restart is the new question; the answer is the one that a chat without a break gives."""
    options = ["--temperature", "0", "--max-tokens", "30", "--threads", "1"]
    lines = ["Name three planets.", "Which of them is the largest?"]
    whole = chat.stellar("chat", real_model, *options, input="\n".join(lines) + "\n")
    first = chat.stellar("chat", real_model, "--session", "s", *options, input=lines[0] + "\n")
    again = chat.stellar("chat", "--session", "s", *options, input=lines[1] + "\n/stats\n")
    assert first.stdout + again.stdout == whole.stdout
    prompt, cached = map(int, re.findall(r"(\d+) tokens of prompt \((\d+) from memory", again.stderr)[0])
    assert 0 < prompt - cached < 30 < cached


EVERY = [
    ("/help", "Ctrl-R searches"),
    ("/history", "> Name a star"),
    ("/context", "of 4,096 tokens"),
    ("/system Answer briefly.", "system line: Answer briefly."),
    ("/set temperature 0.2", "temperature = 0.2"),
    ("/seed 7", "seed: 7"),
    ("/template", "template: "),
    ("/lora", "no LoRA adapter"),
    ("/model", r"SmolLM2.*context 4,096"),
    ('/schema {"type": "boolean"}', "answers follow this schema"),
    ("/regen", "true|false"),
    ("/schema off", "free text"),
    ('/grammar root ::= "yes" | "no"', "answers follow this grammar"),
    ("/edit 1 Is Vega a star?", "yes|no"),
    ("/grammar off", "free text"),
    ("/continue", "."),
    ("/stats", "in all: "),
    ("/tokens 星", "tokens"),
    ("/plan", "weights "),
    ("/save stars", r"\[saved as stars"),
    ("/sessions", r"\* stars"),
    ("/export talk.md", r"\[written to talk\.md\]"),
    ("/read facts.txt What is it about?", "."),
    ("/copy", "characters copied"),
    ("/undo", "turns taken back: 1"),
    ("/rename suns", "now called suns"),
    ("/clear", "saved as suns"),
    ("/load suns", "session suns: turns 1"),
    ("/delete nobody", r"\["),
]


def test_every_command_once(chat: Chat, real_model: Path) -> None:
    (chat.stellar.cwd / "facts.txt").write_text("The Sun is a star. 太阳是恒星。\n", encoding="utf-8")
    chat.open(real_model, "--threads", 1, "--temperature", 0, "--max-tokens", 20, columns=100, rows=100)
    chat.ask("Name a star.")
    for line, expected in EVERY:
        chat.tmux.send("C-l")  # so that the screen has only what comes of this line
        chat.tmux.wait_for("^" + PROMPT[2:])
        shown = chat.ask(line)
        shown = shown.partition(line)[2]
        assert re.search(expected, shown, re.DOTALL), f"{line}:\n{shown}"
        assert "error:" not in shown, shown
    assert (chat.stellar.cwd / "talk.md").exists()
    chat.tmux.type("/exit")
    chat.tmux.send("Enter")
    assert chat.tmux.exit_code() == 0
    from stellar_local.chat.loop import COMMANDS

    assert {line.split()[0] for line, _ in EVERY} | {"/exit"} == set(COMMANDS)
