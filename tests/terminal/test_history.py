"""The history file: shared, private, bounded, and never in the way."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from stellar_local.terminal import history
from stellar_local.terminal.history import DAMAGED, MessageHistory


def entries(path: Path) -> list[str]:
    return MessageHistory(path).get_strings()


def add(path: Path, *texts: str) -> MessageHistory:
    made = MessageHistory(path)
    for text in texts:
        made.append_string(text)
    return made


def test_entries_of_every_kind_are_there_again(tmp_path: Path) -> None:
    path = tmp_path / "folder of its own" / "history"
    texts = [
        "你好",
        "/set temperature 0.2",
        "two\nlines",
        "half a character \ud83d",
        "\x00\x1b[2J",
        "\u2028 \r\n",
        '"""\na\n"""',
    ]
    add(path, *texts)
    assert entries(path) == texts
    assert "你好" in path.read_text(encoding="utf-8")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_an_entry_that_repeats_the_last_is_stored_once(tmp_path: Path) -> None:
    path = tmp_path / "history"
    add(path, "a", "a", "", "b", "a")
    add(path, "a", "c")
    assert entries(path) == ["a", "b", "a", "c"]


@pytest.mark.parametrize("tail", [b'"cut by a full di', b"\xff\xfe\x00\n", b"12\n[]\nnull\n", b'"\xff"\n'])
def test_damaged_lines_are_passed_over(tail: bytes, tmp_path: Path) -> None:
    path = tmp_path / "history"
    add(path, "before")
    path.write_bytes(path.read_bytes() + tail)
    made = add(path, "after")
    assert made.problem == ""
    assert entries(path) == ["before", "after"]


def test_a_file_that_is_no_history_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "thesis.txt"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" * 1000)
    made = add(path, "a question")
    assert made.problem == DAMAGED
    assert made.get_strings() == ["a question"]
    assert path.read_bytes() == b"\x89PNG\r\n\x1a\n" * 1000


def test_what_cannot_be_used_leaves_memory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "pipe")
    for path, reason in [
        (tmp_path, "not a file"),
        (tmp_path / "pipe", "not a file"),  # and is not waited for
        (tmp_path / "file" / "history", "not a directory"),
    ]:
        made = add(path, "kept")
        assert made.get_strings() == ["kept"]
        assert made.problem == reason
    mode = Path(os.devnull).stat().st_mode
    made = add(Path(os.devnull), "kept")
    assert made.problem == "not a file"
    assert Path(os.devnull).stat().st_mode == mode


def test_a_failure_later_on_keeps_the_entries(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "history"
    made = add(path, "first")
    path.unlink()
    path.parent.rmdir()
    path.parent.write_text("in the way")
    made.append_string("second")
    made.append_string("third")
    assert made.get_strings() == ["first", "second", "third"]
    assert made.problem


def test_permissions_of_an_old_file_are_mended(tmp_path: Path) -> None:
    path = tmp_path / "history"
    add(path, "secret")
    path.chmod(0o644)
    add(path)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_long_file_is_shortened_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, link = tmp_path / "history", tmp_path / "link"
    link.symlink_to(path)
    monkeypatch.setattr(history, "KEPT", 100)
    add(path, *map(str, range(110)))
    made = add(link, "more")
    assert made.get_strings() == [*map(str, range(10, 110)), "more"]
    assert len(path.read_bytes().splitlines()) == 111  # a tenth more is no reason to write the file again
    made = MessageHistory(link)
    assert made.get_strings() == [*map(str, range(11, 110)), "more"]
    assert len(path.read_bytes().splitlines()) == 100
    assert path.stat().st_mode & 0o777 == 0o600
    assert link.is_symlink()
    assert sorted(tmp_path.iterdir()) == [path, link]


def test_large_entries_are_bounded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "history"
    monkeypatch.setattr(history, "KEPT_BYTES", 1000)
    add(path, *(f"{number}{'x' * 100}" for number in range(20)))
    MessageHistory(path)
    assert 800 < path.stat().st_size <= 1000
    assert entries(path)[-1].startswith("19x")


def test_processes_write_and_shorten_at_the_same_time(tmp_path: Path) -> None:
    """Each entry of each process is there, whole, while others put a shorter file in its place again and again."""
    path = tmp_path / "history"
    path.write_text('"old"\n' * 300)
    code = (
        "import sys; from pathlib import Path; from stellar_local.terminal import history\n"
        "history.KEPT = 250\n"
        "made = history.MessageHistory(Path(sys.argv[1]))\n"
        "for number in range(40):\n"
        "    made.append_string(f'{sys.argv[2]} {number} ' + '星' * 50)\n"
        "    history._shorten(Path(sys.argv[1]))\n"
        "assert not made.problem, made.problem\n"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(path), str(name)], cwd=ROOT, stderr=subprocess.PIPE)
        for name in range(4)
    ]
    for process in started:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors.decode()
    new = [entry for entry in entries(path) if entry != "old"]
    assert sorted(new) == sorted(f"{name} {number} " + "星" * 50 for name in range(4) for number in range(40))
