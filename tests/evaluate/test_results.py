"""Logs and summaries on disk: half lines, damage, other files, a full disk, two processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stellar_local.errors import StellarError, UsageError
from stellar_local.evaluate.results import Log, open_log, read_log, read_summaries


def test_half_a_line_of_a_killed_run_is_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "words--a.jsonl"
    with open_log(path, {"task": "words"}) as log:
        log.add({"key": "1", "answer": "天"})
        log.add({"key": "2", "error": {"type": "x", "message": "y"}})
    whole = path.read_bytes()
    path.write_bytes(whole + '{"key": "3", "answer": "星'.encode()[:-1])
    with open_log(path, {"task": "words"}) as log:
        assert set(log.done) == {"1"}
        log.add({"key": "2", "answer": "again"})
    header, records = read_log(path)
    assert header == {"stellar_eval": 1, "task": "words"}
    assert [one["key"] for one in records] == ["1", "2"]
    assert records[1] == {"key": "2", "answer": "again"}


def test_a_damaged_line_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "words--a.jsonl"
    with open_log(path, {"task": "words"}) as log:
        log.add({"key": "1"})
    path.write_bytes(path.read_bytes() + b'\xff\xfe\n{"nokey": 1}\n[]\n{"key": "4"}\n')
    _, records = read_log(path)
    assert [one["key"] for one in records] == ["1", "4"]
    assert capsys.readouterr().err.count("is damaged and left out") == 3


@pytest.mark.parametrize("content", [b"", b"\n", b"[]\n", b'{"a": 1}\n', b"\x00\xff\n", b'{"stellar_eval": 2}\n'])
def test_other_files_are_no_logs(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x--y.jsonl"
    path.write_bytes(content)
    with pytest.raises(Exception, match="no log of an evaluation"):
        read_log(path)
    if content:  # an empty one is begun
        with pytest.raises(Exception, match="no log of an evaluation"), open_log(path, {}):
            pass


def test_two_processes_never_write_one_log(tmp_path: Path) -> None:
    path = tmp_path / "x--y.jsonl"
    with open_log(path, {}), pytest.raises(Exception, match="another process is writing"), open_log(path, {}):
        pass


def test_a_full_disk_leaves_the_log_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x--y.jsonl"
    with open_log(path, {}) as log:
        log.add({"key": "1"})
        before = path.read_bytes()

        def full(descriptor: int, data: Any) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("stellar_local.evaluate.results.os.write", full)
        with pytest.raises(Exception, match="[Nn]o space|full"):
            log.add({"key": "2"})
    assert path.read_bytes() == before
    assert isinstance(log, Log)


def test_a_damaged_summary_is_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a--b.json").write_text("{}")
    assert read_summaries(tmp_path) == []
    assert "is no summary of an evaluation" in capsys.readouterr().err
    with pytest.raises(UsageError, match="no such folder"):
        read_summaries(tmp_path / "none")


def test_a_log_that_was_hardly_begun_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "x--y.jsonl"
    with open_log(path, {"task": "x"}):
        pass
    path.write_bytes(path.read_bytes()[:-3])
    with open_log(path, {"task": "x"}) as log:
        log.add({"key": "1"})
    assert read_log(path)[0]["task"] == "x"
    other = tmp_path / "o--y.jsonl"
    other.write_text("my notes")
    with pytest.raises(StellarError, match="no log"), open_log(other, {}):
        pass
    assert other.read_text() == "my notes"
