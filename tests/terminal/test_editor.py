"""Text in an editor: scripts that play the editor, as $EDITOR and in every way that it can fail."""

from __future__ import annotations

import os
import signal
import stat
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from stellar_local.errors import StellarError
from stellar_local.terminal.editor import edit
from stellar_local.texts import Texts

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the editors here are shell scripts")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    for name in ("VISUAL", "EDITOR"):
        monkeypatch.delenv(name, raising=False)


def script(path: Path, body: str) -> str:
    """A shell script at `path`; its last argument is the file to edit."""
    path.write_text(f"#!/bin/sh\nfor file; do :; done\n{body}\n")
    path.chmod(0o755)
    return str(path)


def run(text: str, language: str = "en") -> str:
    return edit(text, Texts(language), sys.__stdout__ or sys.stdout)


def left(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "temporary").iterdir())


def test_the_text_goes_there_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    look = f'cp "$file" {tmp_path}/seen; ls -l "$file" > {tmp_path}/listed'
    body = look + '; printf "新的一行\\r\\nlast\\n\\n" >> "$file"'
    monkeypatch.setenv("EDITOR", script(tmp_path / "editor", body))
    assert run("一\n two ") == "一\n two \n新的一行\nlast\n"
    assert (tmp_path / "seen").read_text(encoding="utf-8") == "一\n two \n"
    listed = (tmp_path / "listed").read_text().split()
    assert listed[0].startswith("-rw-------")
    assert listed[-1].endswith(".md")
    assert left(tmp_path) == []


@pytest.mark.parametrize("text", ["", "one line", "a\nb", "ends\n", "half a character \ud83d"])
def test_saving_it_unchanged_gives_it_back(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDITOR", script(tmp_path / "editor", 'cp "$file" "$file.new" && mv "$file.new" "$file"'))
    assert run(text) == text.replace("\ud83d", "?")


def test_emptied_is_not_unsaved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDITOR", script(tmp_path / "editor", ': > "$file"'))
    assert run("text") == ""


def test_the_first_that_is_set_with_its_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    editor = script(tmp_path / "my editor", 'printf "%s|" "$@" > "$file"')
    monkeypatch.setenv("EDITOR", "false")
    monkeypatch.setenv("VISUAL", f"'{editor}' --wait -c 'set tw=72'")
    assert run("").startswith("--wait|-c|set tw=72|/")
    monkeypatch.setenv("VISUAL", "  ")
    with pytest.raises(StellarError, match=r"\[false ended with code 1: the text stays as it was\]"):
        run("")


def test_without_either_the_usual_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    script(tmp_path / "vi", 'echo by vi > "$file"')
    assert run("") == "by vi"
    monkeypatch.setenv("PATH", str(tmp_path / "temporary"))
    with pytest.raises(StellarError, match="no editor was found; set EDITOR"):
        run("")


@pytest.mark.parametrize(
    ("editor", "said"),
    [
        ("/no/such/editor -x", "the editor editor does not work: no such file or directory; set EDITOR"),
        ("/etc/passwd", "the editor passwd does not work: permission denied"),
        ("vi 'x", "EDITOR cannot be read: No closing quotation"),
        ("true", "nothing was saved"),
        ("sh -c 'echo lost > $0; kill -9 $$'", "sh ended with code -9"),
    ],
)
def test_failures_say_so(editor: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDITOR", editor)
    with pytest.raises(StellarError, match=said):
        run("text")
    with pytest.raises(StellarError, match="[\u4e00-\u9fff]"):
        run("text", "zh")
    assert left(tmp_path) == []


def test_what_is_no_utf8_is_not_thrown_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDITOR", script(tmp_path / "editor", r"""printf '\304\343\272\303' > "$file" """))  # 你好, GBK
    with pytest.raises(StellarError, match="still in /"):
        run("")
    (folder,) = left(tmp_path)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (file,) = folder.iterdir()
    assert file.read_bytes().decode("gbk") == "你好"


def test_a_full_disk_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/no/such/folder")
    monkeypatch.setenv("EDITOR", "true")
    with pytest.raises(StellarError, match="cannot be put into a file for the editor: no such file"):
        run("text")


def test_ctrl_c_is_the_editors_own_affair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is sent to the whole process group: it ends an editor that doesn't handle it, and nothing happens here."""
    body = f'kill -INT {os.getpid()}; sleep 0.1; echo went on > "$file"'
    monkeypatch.setenv("EDITOR", script(tmp_path / "editor", body))
    assert run("") == "went on"
    monkeypatch.setenv("EDITOR", script(tmp_path / "editor", "kill -INT $$; sleep 5"))
    with pytest.raises(StellarError, match="code -2"):
        run("")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_whoever_ends_us_ends_the_editor_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = f"trap 'echo ended > {tmp_path}/end; exit' TERM; touch {tmp_path}/begun; while :; do sleep 0.05; done"
    monkeypatch.setenv("EDITOR", script(tmp_path / "editor", body))

    def leave(number: int, frame: object) -> None:
        raise SystemExit(143)

    def send() -> None:
        while not (tmp_path / "begun").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, leave)
    sender = threading.Thread(target=send)
    sender.start()
    try:
        with pytest.raises(SystemExit):
            run("text")
    finally:
        sender.join()
        signal.signal(signal.SIGTERM, before)
    assert (tmp_path / "end").read_text() == "ended\n"
    assert left(tmp_path) == []
