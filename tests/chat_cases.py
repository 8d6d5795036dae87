"""What the tests of the chat share: a terminal made of lists, and chats over the tiny models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from stellar_local.chat.loop import run
from stellar_local.chat.sessions import Store
from stellar_local.chat.state import Chat
from stellar_local.config import ChatOptions
from stellar_local.flags import Setup
from stellar_local.texts import Texts


class Script:
    """A terminal whose messages are a list, and whose output is kept."""

    def __init__(self, interactive: bool = True) -> None:
        self.interactive = interactive
        self.messages: list[str] = []
        self.output, self.edited = "", []  # type: str, list[str]
        self.notes: list[str] = []
        self.editor: Callable[[str], str | None] = lambda text: None
        self.drafts: list[str] = []

    def read(self, default: str = "") -> str | None:
        self.drafts.append(default)
        return self.messages.pop(0) if self.messages else None

    def write(self, text: str) -> None:
        self.output += text

    def end_answer(self) -> None:
        self.output += "\n"

    def note(self, text: str) -> None:
        self.notes.append(text)

    def progress(self, text: str) -> None:
        pass

    def edit(self, text: str) -> str | None:
        self.edited.append(text)
        return self.editor(text)

    def answering(self) -> Any:
        return nullcontext()


class Talk:
    """A chat with its script: `say` runs lines and returns the notes that they brought."""

    def __init__(self, chat: Chat, script: Script) -> None:
        self.chat, self.script = chat, script

    def say(self, *lines: str) -> list[str]:
        before = len(self.script.notes)
        self.script.messages = list(lines)
        run(self.chat)
        return self.script.notes[before:]

    @property
    def questions(self) -> list[str]:
        return [turn.question for turn in self.chat.conversation.turns]


Opener = Callable[..., Any]


@contextmanager
def opened(model: Path, folder: Path | None, interactive: bool = True, **flags: Any) -> Iterator[Talk]:
    """A chat over a model, with its sessions in a folder (None: nothing is saved)."""
    setup = Setup({"ctx": 512, "threads": 1, "temperature": 0, "max_tokens": 8, **flags}, False)
    script = Script(interactive)
    options = setup.options(ChatOptions)
    store = None if folder is None else Store(folder, Texts("en"))
    chat = Chat(setup, setup.open(model), script, options, store=store)
    try:
        yield Talk(chat, script)
    finally:
        chat.close()


@pytest.fixture
def talk(spm_model: Path, tmp_path: Path) -> Iterator[Talk]:
    """A chat over the tiny SentencePiece model, its sessions in a folder of the test's."""
    with opened(spm_model, tmp_path / "sessions") as talk:
        yield talk


@pytest.fixture(scope="session")
def lora_file(spm_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter of the tiny SentencePiece base, in GGUF."""
    from tiny import write_adapter

    from convert.adapter import Adapter
    from convert.checkpoint import Checkpoint
    from convert.llama import Shape
    from convert.lora_gguf import write_lora_gguf

    folder = write_adapter(spm_base, tmp_path_factory.mktemp("lora") / "astro", 1)
    file = folder.with_name("astro 星.gguf")
    write_lora_gguf(Adapter.open(folder), 1.0, Shape.from_config(Checkpoint.open(spm_base).config), file.stem, file)
    return file
