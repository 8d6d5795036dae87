"""Killed, full, interrupted, repeated: an export goes on where it was, and ends in the bytes of an undisturbed run."""

from __future__ import annotations

import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from exporting import export

from convert import export as exporting_module
from convert import gguf_out, tensor_file
from convert.levels import LEVELS
from stellar_local.errors import StellarError

NAMES = ["Q6_K", "Q4_K_M", "Q3_K_M"]


def command(base: Path, adapter: Path, out: Path) -> list[str]:
    options = ["--out", out / "gguf", "--name", "m", "--levels", ",".join(NAMES), "--hf", out / "hf"]
    arguments = ["convert", "--base", base, "--adapter", adapter, *options]
    return [sys.executable, "-m", "stellar_local.cli", *map(str, arguments)]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder by its place, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def undisturbed(
    bases: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, dict[str, bytes]]:
    """A base that takes about a second, an adapter, and the files of an undisturbed run."""
    from tiny import write_adapter

    base = bases("spm-mha-256-deep")
    adapter = write_adapter(base, tmp_path_factory.mktemp("adapter") / "lora")
    out = tmp_path_factory.mktemp("undisturbed")
    subprocess.run(command(base, adapter, out), check=True, capture_output=True)
    return base, adapter, contents(out)


def test_killed_at_twenty_moments(undisturbed: tuple[Path, Path, dict[str, bytes]], tmp_path: Path) -> None:
    base, adapter, expected = undisturbed
    moments = random.Random(7)
    started = time.monotonic()
    subprocess.run(command(base, adapter, tmp_path / "whole"), check=True, capture_output=True)
    whole = time.monotonic() - started
    out, kills, went_on = tmp_path / "killed", 0, 0
    while kills < 20:
        process = subprocess.Popen(command(base, adapter, out), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        try:
            # Half of the moments lie anywhere, half within the pass, which later runs come to ever sooner.
            process.wait(moments.uniform(0, whole) if kills % 2 else moments.uniform(0.3, 0.7) * whole)
        except subprocess.TimeoutExpired:
            process.kill()
            kills += 1
        said = process.communicate()[1].decode()
        went_on += "going on after" in said
        for name, data in contents(out).items() if out.exists() else ():
            if name in expected and not name.endswith(".lock"):  # whatever has its name is whole
                assert data == expected[name], name
        if process.returncode == 0:  # finished: begin again, with half of it thrown away
            for path in [*(out / "gguf").iterdir(), *(out / "hf").iterdir()]:
                path.unlink()
            (out / "hf").rmdir()
    subprocess.run(command(base, adapter, out), check=True, capture_output=True)
    assert contents(out) == expected
    assert went_on > 0


def test_finished_levels_are_kept(bases: Callable[[str], Path], adapter: Path, tmp_path: Path) -> None:
    def made(*names: str, weight: float = 1.0) -> list[str]:
        levels = [LEVELS[name] for name in names]
        return export(bases("spm-gqa-64"), [(adapter, weight)], tmp_path, levels, name="m").kept

    assert made("Q8_0") == []
    before = (tmp_path / "m-Q8_0.gguf").stat()
    assert made("Q8_0", "Q6_K") == ["Q8_0"]
    after = (tmp_path / "m-Q8_0.gguf").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert made("Q6_K", "Q8_0") == ["Q6_K", "Q8_0"]
    data = bytearray((tmp_path / "m-Q6_K.gguf").read_bytes())
    (tmp_path / "m-Q6_K.gguf").write_bytes(bytes([*data[:-1], data[-1] ^ 1]))
    assert made("Q6_K", "Q8_0") == ["Q8_0"]
    assert (tmp_path / "m-Q6_K.gguf").read_bytes() == data
    assert made("Q8_0", weight=0.5) == []  # another model


def test_the_manifest_lists_all_levels_of_one_model(
    bases: Callable[[str], Path], adapter: Path, tmp_path: Path
) -> None:
    for name in ("Q4_K_M", "Q8_0"):
        export(bases("spm-gqa-64"), [(adapter, 1.0)], tmp_path / "two", [LEVELS[name]], name="m")
    export(bases("spm-gqa-64"), [(adapter, 1.0)], tmp_path / "one", [LEVELS["Q8_0"], LEVELS["Q4_K_M"]], name="m")
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


@pytest.mark.parametrize("stop", range(1, 5))
def test_stopped_while_files_get_their_names(
    bases: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    base, levels = bases("spm-gqa-64"), [LEVELS[name] for name in ("Q8_0", "Q6_K", "Q4_0")]
    export(base, out=tmp_path / "whole", levels=levels, name="m")
    calls = 0

    def keep(temporary: Path, path: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == stop:
            raise KeyboardInterrupt
        tensor_file.keep(temporary, path)

    def describe(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(gguf_out, "keep", keep)
        patch.setattr(exporting_module, "_describe", describe)
        with pytest.raises(KeyboardInterrupt):
            export(base, out=tmp_path / "out", levels=levels, name="m")
    with monkeypatch.context() as patch:  # nothing is written a second time
        patch.setattr(tensor_file.TensorFile, "write", describe)
        export(base, out=tmp_path / "out", levels=levels, name="m")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_damaged_unfinished_file_is_not_trusted(
    bases: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base, levels = bases("spm-gqa-64"), [LEVELS["Q8_0"]]
    export(base, out=tmp_path / "whole", levels=levels, name="m")
    ends = 0
    end = tensor_file.TensorFile.end_tensor

    def end_tensor(self: tensor_file.TensorFile) -> str:
        nonlocal ends
        ends += 1
        if ends == 20:
            raise KeyboardInterrupt
        return end(self)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tensor_file.TensorFile, "end_tensor", end_tensor)
        export(base, out=tmp_path / "out", levels=levels, name="m")
    partial = tmp_path / "out/m-Q8_0.gguf.partial"
    data = bytearray(partial.read_bytes())
    data[-60000] ^= 255  # within the layers, behind the vocabulary and the embeddings
    partial.write_bytes(data)
    capsys.readouterr()
    export(base, out=tmp_path / "out", levels=levels, name="m")
    said = capsys.readouterr().err
    assert re.search(r"going on after \d+ of 21 tensors", said), said
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_disk_that_fills_up(undisturbed: tuple[Path, Path, dict[str, bytes]], tmp_path: Path) -> None:
    base, adapter, expected = undisturbed

    def limited() -> None:  # no file may grow beyond 3 MB, which fails as a full disk does
        resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))

    done = subprocess.run(command(base, adapter, tmp_path), capture_output=True, preexec_fn=limited)
    said = done.stderr.decode()
    assert done.returncode == 1
    assert "stellar: error: cannot write" in said
    assert "the same command goes on" in said
    assert "Traceback" not in said
    again = subprocess.run(command(base, adapter, tmp_path), capture_output=True)
    assert b"going on after" in again.stderr
    assert contents(tmp_path) == expected


def test_ctrl_c_keeps_the_work(undisturbed: tuple[Path, Path, dict[str, bytes]], tmp_path: Path) -> None:
    base, adapter, expected = undisturbed
    process = subprocess.Popen(command(base, adapter, tmp_path), stderr=subprocess.PIPE)
    partial, deadline = tmp_path / "gguf/m-Q6_K.gguf.partial", time.monotonic() + 60
    while not (partial.exists() and partial.stat().st_size > 1_000_000) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 130
    assert "the same command goes on" in said
    assert "Traceback" not in said
    subprocess.run(command(base, adapter, tmp_path), check=True, capture_output=True)
    assert contents(tmp_path) == expected


def test_files_of_others_are_not_overwritten(bases: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(StellarError, match="would be overwritten"):
        export(bases("spm-gqa-64"), out=tmp_path, levels=[LEVELS["Q8_0"]])
    with pytest.raises(StellarError, match="is a folder that is read"):
        export(bases("spm-gqa-64"), out=bases("spm-gqa-64"), levels=[LEVELS["Q8_0"]])
    assert (tmp_path / "README.md").read_text() == "mine"
