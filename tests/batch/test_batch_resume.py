"""The --out file: what it has is seen, what is cut is mended, what is not ours is left alone."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from stellar_local.batch.fields import Item
from stellar_local.batch.reader import Shard
from stellar_local.batch.resume import Done, OutFile, out_file
from stellar_local.errors import StellarError
from stellar_local.files import partial_path


def record(index: int, id: Any = None, **fields: Any) -> str:
    return json.dumps({"id": index if id is None else id, "index": index, **(fields or {"text": "x"})}) + "\n"


def error(index: int) -> str:
    return record(index, error={"type": "t", "message": "m"})


def accept(done: Done) -> None:
    pass


def resumed(path: Path, shard: Shard = Shard(), retry: bool = False) -> set[int]:  # noqa: B008
    """The indexes that the file has, by the way in which the runner asks for them."""
    with out_file(path, shard, accept, resume=True, retry=retry) as (_, done):
        return {index for index in range(20) if done.has(Item(index, index))}


def test_a_file_that_is_not_there_is_begun(tmp_path: Path) -> None:
    with out_file(tmp_path / "out", Shard(), accept, resume=True) as (file, done):
        file.write(b"line\n")
        assert done.count == 0
    assert (tmp_path / "out").read_bytes() == b"line\n"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_it_has_is_known_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text(record(3) + record(0) + error(7))
    assert resumed(path) == {0, 3, 7}
    with out_file(path, Shard(), accept, resume=True) as (file, _):
        file.write(record(1).encode())
    assert path.read_text() == record(3) + record(0) + error(7) + record(1)


def test_without_resume_an_existing_file_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("precious")
    with pytest.raises(StellarError) as raised, out_file(path, Shard(), accept):
        pass
    assert raised.value.hint == "add --resume to go on with it, or choose another name"
    assert path.read_text() == "precious"
    path.write_text("")
    with out_file(path, Shard(), accept) as (file, _):
        file.write(b"x\n")
    assert path.read_text() == "x\n"


@pytest.mark.parametrize("kept", [0, 1, 6, 7, 12, 20])
def test_a_cut_last_line_is_cut_off(kept: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "out"
    path.write_text(record(0) + record(1)[:kept])
    assert resumed(path) == {0}
    assert path.read_text() == record(0)
    assert ("the last line was cut" in capsys.readouterr().err) == bool(kept)


@pytest.mark.parametrize("tail", ["\0" * 40, '{"id": 1, "ind\0\0\0\n', '{"id": 1, "ind\n'])
def test_what_a_loss_of_power_leaves_is_cut_off(tail: str, tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text(record(0) + tail)
    assert resumed(path) == {0}
    assert path.read_text() == record(0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("my own notes", "line 1 of"),
        ("my own notes\n", "line 1 of"),
        (record(0) + "{broken\n" + record(1), "line 2 of"),
        (record(0) + record(1)[:10] + record(2) + record(3), "line 2 of"),
        (record(0) + '{"id": 1, "index": 1}\n', "line 2 of"),
        (record(0) + record(1, id=[1]), "line 2 of"),
        (record(0) + record(-1), "line 2 of"),
        (record(0) + record(1 << 60), "line 2 of"),
        (record(0) + record(True), "line 2 of"),
        (record(0) + record(5) + record(0), "has line 1 of the input twice (again on its own line 3)"),
        (b"\xff\xfe\n".decode("latin-1"), "line 1 of"),
    ],
)
def test_what_is_not_ours_is_refused_and_kept(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text(content, encoding="utf-8")
    before = path.read_bytes()
    with pytest.raises(StellarError) as raised:
        resumed(path)
    assert message in raised.value.message
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == ["out"]


def test_another_shard_s_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text(record(1) + record(4))
    assert resumed(path, Shard(2, 3)) == {1, 4}
    with pytest.raises(StellarError, match="another share"):
        resumed(path, Shard(1, 3))


def test_another_input_s_file_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text(record(0) + record(1, id="a") + record(2)[:9])
    before = path.read_bytes()

    def check(ids: list[Any]) -> None:
        items = [Item(index, id) for index, id in enumerate(ids)]
        with out_file(path, Shard(), lambda done: done.check(items), resume=True):
            pass

    for ids in ([0, 1, 2], [0, "b"], ["0", "a"], [0]):
        with pytest.raises(StellarError, match="made from another input"):
            check(ids)
        assert path.read_bytes() == before
    check([0, "a", 2])
    assert path.read_text() == record(0) + record(1, id="a")


def test_another_input_without_ids_is_told_by_its_prompts(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text(record(0, text="a", usage={"prompt_tokens": 5}) + error(1) + record(2, text="b", usage={}))
    with out_file(path, Shard(), accept, resume=True) as (_, done):
        assert (done.count, done.failed) == (3, 1)
        for index in (1, 2, 3):  # nothing is known of these
            done.differs(Item(index, index), lambda item: 99)
        done.differs(Item(0, 0), lambda item: 5)
    with (
        pytest.raises(StellarError, match="made from another input: line 1 has a prompt of another length"),
        out_file(path, Shard(), accept, resume=True) as (_, done),
    ):
        done.differs(Item(0, 0), lambda item: 6)


def test_files_of_others_beside_it_are_left_alone(tmp_path: Path) -> None:
    path, other = tmp_path / "poetry", tmp_path / "poetry.lock"
    other.write_text("mine")
    path.write_text(record(0) + error(1))
    path.chmod(0o600)
    assert resumed(path, retry=True) == {0}
    assert other.read_text() == "mine"
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(one.name for one in tmp_path.iterdir()) == ["poetry", "poetry.lock"]


def test_errors_are_tried_again_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text(record(0) + error(1) + record(2) + error(3) + record(4)[:8])
    assert resumed(path, retry=True) == {0, 2}
    assert path.read_text() == record(0) + record(2)
    assert not partial_path(path).exists()


def test_two_processes_do_not_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with (
        out_file(path, Shard(), accept),
        pytest.raises(StellarError, match="another process is writing"),
        out_file(path, Shard(), accept),
    ):
        pass


def test_a_run_that_fails_at_once_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(KeyError), out_file(tmp_path / "out", Shard(), accept):
        raise KeyError
    assert not list(tmp_path.iterdir())


def test_devices_and_folders_are_refused(tmp_path: Path) -> None:
    for path in (Path(os.devnull), tmp_path):
        with pytest.raises(StellarError, match="cannot write"), out_file(path, Shard(), accept):
            pass


def test_a_line_that_does_not_fit_on_the_disk_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    descriptor = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    file = OutFile(tmp_path / "out", descriptor)
    file.write(b"whole\n")
    real = os.write

    def full(number: int, data: Any) -> int:
        if len(data) > 3:
            return real(number, bytes(data[:3]))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StellarError) as raised:
        file.write(b"cut\nhere")
    monkeypatch.undo()
    os.close(descriptor)
    assert "no space left on device" in raised.value.message
    assert (tmp_path / "out").read_bytes() == b"whole\n"


def test_a_million_lines_take_little_memory(tmp_path: Path) -> None:
    done = Done(tmp_path)
    for index in range(1_000_000):
        done.add({"id": index, "index": index, "text": ""})
    assert done.count == 1_000_000
    assert done._marks.itemsize * len(done._marks) < 9 << 20
    assert done.has(Item(999_999, 999_999)) and not done.has(Item(1_000_000, 0))
