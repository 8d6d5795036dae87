"""Files appear complete or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stellar_local import files
from stellar_local.errors import ModelError, StellarError


def test_atomic_file_appears_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with files.atomic_file(path) as temporary:
        temporary.write_text("x")
        assert not path.exists()
    assert path.read_text() == "x"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), files.atomic_file(path) as temporary:
        temporary.write_text("new")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_of_one_file(tmp_path: Path) -> None:
    """The second one is refused; what the first one writes is not touched."""
    pytest.importorskip("fcntl")
    path = tmp_path / "a.txt"
    with files.atomic_file(path) as temporary:
        temporary.write_text("first")
        with pytest.raises(StellarError, match=r"another process is writing to .*a\.txt"), files.atomic_file(path):
            raise AssertionError("not reached")
        assert temporary.read_text() == "first"
    assert path.read_text() == "first"
    files.partial_path(path).write_text("left by a killed run, and longer")
    with files.atomic_file(path) as temporary:
        temporary.write_text("next")
    assert path.read_text() == "next"
    assert list(tmp_path.iterdir()) == [path]


def test_files_below_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b/x", "a", ".hidden/x", "b/.y", "b/~$z", "b-c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert files.files_below(tmp_path) == [tmp_path / "a", tmp_path / "b" / "x", tmp_path / "b-c"]
    real = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)  # tests may run as root, to whom no folder is closed
    with pytest.raises(StellarError, match="cannot read .*b: permission denied") as caught:
        files.files_below(tmp_path)
    assert "write" not in caught.value.hint


def test_links_in_a_circle(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    assert files.real(loop / "x").name == "x"
    assert files.real(tmp_path / "a" / ".." / "b") == tmp_path.resolve() / "b"


def test_atomic_folder(tmp_path: Path) -> None:
    path = tmp_path / "d"
    files.partial_path(path).mkdir()
    (files.partial_path(path) / "left by a killed run").touch()
    with files.atomic_folder(path) as temporary:
        (temporary / "f").touch()
        assert not path.exists()
    assert [file.name for file in path.iterdir()] == ["f"]
    with pytest.raises(ValueError), files.atomic_folder(tmp_path / "e"):
        raise ValueError
    assert [file.name for file in tmp_path.iterdir()] == ["d"]


def test_full_disk_is_a_sentence(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with (
        pytest.raises(StellarError, match="cannot write .*: no space left on device") as caught,
        files.atomic_file(tmp_path / "x"),
        Path("/dev/full").open("w") as full,
    ):
        full.write("x")
        full.flush()
    assert "free some space" in caught.value.hint


def test_ensure_folder(tmp_path: Path) -> None:
    assert files.ensure_folder(tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(StellarError, match="not a directory"):
        files.ensure_folder(tmp_path / "file")
    with pytest.raises(StellarError, match="not a directory"):
        files.ensure_folder(tmp_path / "file" / "below")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_require_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="model not found"):
        files.require_file(tmp_path / "no", "model")
    with pytest.raises(ModelError, match="not a file"):
        files.require_file(tmp_path, "model")


def test_read_text_names_the_bad_byte(tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_bytes(b"\xef\xbb\xbfab")
    assert files.read_text(path, "it") == "ab"
    path.write_bytes("星".encode("gb18030"))
    with pytest.raises(StellarError, match=r"it is not UTF-8 text: .* \(byte 0\)"):
        files.read_text(path, "it")


def test_sha256(tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_bytes(os.urandom(3 << 20))
    import hashlib

    assert files.sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_two_writers_of_one_place(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    with (
        files.exclusive(lock, tmp_path),
        pytest.raises(StellarError, match="another process is writing to"),
        files.exclusive(lock, tmp_path),
    ):
        raise AssertionError("both hold the lock")
    assert not lock.exists()
    with files.exclusive(lock, tmp_path):
        assert lock.exists()


def test_links_are_written_through_and_devices_are_refused(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to(target)
    files.atomic_text(link, "x")
    assert link.is_symlink()
    assert target.read_text() == "x"
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(StellarError, match="cannot write"):
            files.atomic_text(path, "x")


def test_a_file_of_the_user_s_with_a_lock_s_name_is_left_alone(tmp_path: Path) -> None:
    lock = tmp_path / "out.lock"
    lock.write_text("mine")
    with files.exclusive(lock, tmp_path / "out"):
        pass
    assert lock.read_text() == "mine"
    lock.write_text("")
    with files.exclusive(lock, tmp_path / "out"):
        assert lock.exists()
    assert not lock.exists()


def test_a_large_file_is_known_by_samples_of_all_of_it(tmp_path: Path) -> None:
    path, size = tmp_path / "large", 5 << 20
    content = bytearray(size)
    path.write_bytes(content)
    first = files.sampled(path)
    assert first[:2] == (size, path.stat().st_mtime_ns)
    assert files.sampled(path) == first
    for place in (0, (1 << 16) - 1, (size - (1 << 16)) * 7 // 15 + 5, size - 1):
        content[place] = 1
        path.write_bytes(content)
        os.utime(path, ns=(0, first[1]))
        assert files.sampled(path)[:2] == first[:2]
        assert files.sampled(path) != first
        content[place] = 0
    path.write_bytes(b"short")
    assert files.sampled(path)[0] == 5
    with pytest.raises(StellarError, match="cannot read"):
        files.sampled(tmp_path / "none")
