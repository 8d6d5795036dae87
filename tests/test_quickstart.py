"""Quickstart's own logic: whose files it may remove, and who may run at once. The whole of it is in tests/real."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest
from conftest import Stellar

from stellar_local import quickstart
from stellar_local.errors import StellarError


def test_it_never_removes_what_it_has_not_made(tmp_path: Path, stellar: Stellar) -> None:
    mine = tmp_path / "qs" / "base" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("x")
    done = stellar("quickstart", "--dir", "qs")
    assert done.returncode == 1
    assert "base exists already and was not made by stellar quickstart" in done.stderr
    assert mine.read_text() == "x"


def test_a_changed_step_replaces_its_own_leftovers(tmp_path: Path) -> None:
    step = quickstart.Step("data", "", ("x",), makes=tmp_path / "train.json")
    stamp = tmp_path / ".steps" / "data"
    quickstart._prepare(step, stamp, "one")
    (tmp_path / "train.json").write_text("partial")
    quickstart._prepare(step, stamp, "one")
    assert (tmp_path / "train.json").exists()
    quickstart._prepare(step, stamp, "two")
    assert not (tmp_path / "train.json").exists()
    (tmp_path / "other").write_text("x")
    with pytest.raises(StellarError, match="was not made by"):
        quickstart._prepare(
            quickstart.Step("more", "", ("x",), makes=tmp_path / "other"), tmp_path / ".steps" / "more", "one"
        )


def test_two_at_once_are_refused(tmp_path: Path, stellar: Stellar) -> None:
    (tmp_path / "qs").mkdir()
    with (tmp_path / "qs" / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = stellar("quickstart", "--dir", "qs")
    assert done.returncode == 1
    assert "another process is writing to qs" in done.stderr
