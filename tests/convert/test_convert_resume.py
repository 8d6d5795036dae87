"""Killed, full, interrupted, repeated: an export goes on where it was, and ends in the bytes of an undisturbed run."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from exporting import export

from convert import export as exporting_module
from convert import gguf_out, merged_folder, tensor_file
from convert.fingerprint import fingerprint
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
        assert process.returncode in (0, -signal.SIGKILL), said
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
    assert made("Q8_0", "Q6_K", weight=0.5) == []  # another model


def test_the_manifest_lists_all_levels_of_one_model(
    bases: Callable[[str], Path], adapter: Path, tmp_path: Path
) -> None:
    for name in ("Q4_K_M", "Q8_0"):
        export(bases("spm-gqa-64"), [(adapter, 1.0)], tmp_path / "two", [LEVELS[name]], name="m")
    export(bases("spm-gqa-64"), [(adapter, 1.0)], tmp_path / "one", [LEVELS["Q8_0"], LEVELS["Q4_K_M"]], name="m")
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


class Killed(BaseException):
    """What a test raises in the place of a kill; nothing is cleaned up after it."""


def killed_in(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, call: int, run: Callable[[], object]) -> None:
    """Run until the `call`th call of a method, which a kill ends: as after one, no output is abandoned."""
    original, calls = getattr(owner, name), 0

    def method(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls == call:
            raise Killed
        return original(*arguments)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(owner, name, method)
        for output in (gguf_out.GgufStream, merged_folder.MergedFolder):
            patch.setattr(output, "abandon", lambda self: False)
        run()


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        *((tensor_file.TensorFile, "write", call) for call in (1, 2, 4, 5, 20)),  # in the first tensor, and later
        *((tensor_file.TensorFile, "sync", call) for call in (1, 2, 3, 4)),  # between one file's name and the next's
        (merged_folder.MergedFolder, "_forget", 1),
        (exporting_module, "_describe", 1),
        (gguf_out.GgufStream, "forget", 1),
        (gguf_out.GgufStream, "forget", 3),
    ],
)
def test_killed_at_every_kind_of_moment(
    owner: object, name: str, call: int, bases: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, levels = bases("spm-gqa-64"), [LEVELS[name] for name in ("Q8_0", "Q6_K", "Q4_0")]

    def run(place: str) -> None:
        export(base, out=tmp_path / place / "out", levels=levels, name="m", hf=tmp_path / place / "hf")

    run("whole")
    killed_in(monkeypatch, owner, name, call, lambda: run("killed"))
    if owner is not tensor_file.TensorFile or name == "sync":  # nothing is written a second time
        with monkeypatch.context() as patch:
            patch.setattr(tensor_file.TensorFile, "write", lambda *_: pytest.fail("written again"))
            run("killed")
    run("killed")
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_stopped_while_taking_up(bases: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the first unfinished file is checked costs the others nothing."""
    base, levels = bases("spm-gqa-64"), [LEVELS[name] for name in ("Q8_0", "Q6_K", "Q4_0")]

    def run() -> None:
        export(base, out=tmp_path / "out", levels=levels, name="m", hf=tmp_path / "hf")

    killed_in(monkeypatch, tensor_file.TensorFile, "write", 60, run)
    before = contents(tmp_path)
    assert sum(name.endswith(".partial") for name in before) == 3

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tensor_file.TensorFile, "check", interrupted)
        run()
    assert contents(tmp_path) == before


def test_a_weight_that_one_level_cannot_hold(bases: Callable[[str], Path], tmp_path: Path) -> None:
    """The others keep what they have, and go on without it."""
    import torch
    from safetensors.torch import load_file, save_file

    base = tmp_path / "base"
    shutil.copytree(bases("spm-gqa-64"), base)
    data = load_file(base / "model.safetensors")
    data["lm_head.weight"][0, 0] = torch.tensor(1e5)
    save_file(data, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(StellarError, match="beyond what F16 can hold"):
        export(base, out=tmp_path / "out", levels=[LEVELS["Q8_0"], LEVELS["F16"]], name="m")
    assert (tmp_path / "out/m-Q8_0.gguf.partial").stat().st_size > 50_000
    export(base, out=tmp_path / "out", levels=[LEVELS["Q8_0"], LEVELS["BF16"]], name="m")
    export(base, out=tmp_path / "whole", levels=[LEVELS["Q8_0"]], name="m")
    assert (tmp_path / "out/m-Q8_0.gguf").read_bytes() == (tmp_path / "whole/m-Q8_0.gguf").read_bytes()


def test_levels_of_two_models_do_not_share_a_folder(
    bases: Callable[[str], Path], adapter: Path, tmp_path: Path
) -> None:
    def run(weight: float, *names: str) -> None:
        export(bases("spm-gqa-64"), [(adapter, weight)], tmp_path, [LEVELS[name] for name in names], name="m")

    run(1.0, "Q8_0", "Q4_0")
    before = contents(tmp_path)
    with pytest.raises(StellarError, match=r"holds m-Q8_0\.gguf, made from other inputs"):
        run(0.5, "Q4_0")
    assert contents(tmp_path) == before
    run(0.5, "Q4_0", "Q8_0")
    assert contents(tmp_path).keys() == before.keys()


def test_what_people_wrote_into_the_card_stays(bases: Callable[[str], Path], tmp_path: Path) -> None:
    export(bases("spm-gqa-64"), out=tmp_path, levels=[LEVELS["Q8_0"]], name="m")
    card = tmp_path / "README.md"
    card.write_text(card.read_text(encoding="utf-8") + "\n我的话。\n", encoding="utf-8")
    export(bases("spm-gqa-64"), out=tmp_path, levels=[LEVELS["Q4_0"]], name="m")
    assert "我的话。" in card.read_text(encoding="utf-8")
    assert "m-Q4_0.gguf" in card.read_text(encoding="utf-8")


def test_two_bases_of_one_size_and_time_differ(bases: Callable[[str], Path], tmp_path: Path) -> None:
    one, other = bases("spm-gqa-64"), tmp_path / "other"
    shutil.copytree(one, other)
    status = (one / "model.safetensors").stat()
    data = bytearray((one / "model.safetensors").read_bytes())
    data[-40_000:] = bytes(40_000)
    (other / "model.safetensors").write_bytes(data)
    os.utime(other / "model.safetensors", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert fingerprint([one], [], {}) != fingerprint([other], [], {})


def test_a_merged_folder_that_was_changed(bases: Callable[[str], Path], tmp_path: Path) -> None:
    export(bases("spm-gqa-64"), hf=tmp_path / "hf")
    export(bases("spm-gqa-64"), hf=tmp_path / "hf")  # made before
    with (tmp_path / "hf/model.safetensors").open("rb+") as file:
        file.truncate(1000)
    with pytest.raises(StellarError, match="not as it was written"):
        export(bases("spm-gqa-64"), hf=tmp_path / "hf")


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

    resource = pytest.importorskip("resource", reason="no limits of resources on Windows")

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


@pytest.mark.parametrize("name", ["README.md", "Modelfile", "manifest.json", "m-Q8_0.gguf"])
def test_files_of_others_are_not_overwritten(name: str, bases: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / name).write_text('{"name": "my web app"}')
    with pytest.raises(StellarError, match=f"{name}|manifest"):
        export(bases("spm-gqa-64"), out=tmp_path, levels=[LEVELS["Q8_0"]], name="m")
    assert contents(tmp_path) == {name: b'{"name": "my web app"}'}


def test_inputs_are_not_written_to(bases: Callable[[str], Path]) -> None:
    with pytest.raises(StellarError, match="is a folder that is read"):
        export(bases("spm-gqa-64"), out=bases("spm-gqa-64"), levels=[LEVELS["Q8_0"]])


def test_an_adapters_file_overwrites_nothing_else(bases: Callable[[str], Path], adapter: Path, tmp_path: Path) -> None:
    mine, link, pipe = tmp_path / "thesis.txt", tmp_path / "link.gguf", tmp_path / "pipe"
    mine.write_text("mine")
    link.symlink_to(mine)
    os.mkfifo(pipe)
    for path in (mine, link, pipe, tmp_path, Path(), tmp_path / "out/m-Q8_0.gguf"):
        order = {"out": tmp_path / "out", "levels": [LEVELS["Q8_0"]], "name": "m", "lora_gguf": path}
        with pytest.raises(StellarError, match="--lora-gguf|no adapter's GGUF"):
            export(bases("spm-gqa-64"), [(adapter, 1.0)], **order)
    assert mine.read_text() == "mine"
    for _ in range(2):  # its own it does
        export(bases("spm-gqa-64"), [(adapter, 1.0)], lora_gguf=tmp_path / "lora.gguf")


def test_something_in_the_place_of_an_unfinished_file(bases: Callable[[str], Path], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m-Q8_0.gguf.partial")
    with pytest.raises(StellarError, match="in the way"):
        export(bases("spm-gqa-64"), out=tmp_path, levels=[LEVELS["Q8_0"]], name="m")
    (tmp_path / "hf.partial").mkdir()
    (tmp_path / "hf.partial/mine").write_text("mine")
    with pytest.raises(StellarError, match="in the way"):
        export(bases("spm-gqa-64"), hf=tmp_path / "hf")
    assert (tmp_path / "hf.partial/mine").read_text() == "mine"


def test_inputs_that_change_meanwhile(
    bases: Callable[[str], Path], adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora = tmp_path / "lora"
    shutil.copytree(adapter, lora)
    sync = tensor_file.TensorFile.end_tensor

    def change(self: tensor_file.TensorFile) -> str:
        with (lora / "adapter_model.safetensors").open("rb+") as file:
            file.seek(-4, os.SEEK_END)
            file.write(b"\0\0\0\0")
        return sync(self)

    monkeypatch.setattr(tensor_file.TensorFile, "end_tensor", change)
    with pytest.raises(StellarError, match="was changed while it was read"):
        export(bases("spm-gqa-64"), [(lora, 1.0)], tmp_path / "out", [LEVELS["Q8_0"]], hf=tmp_path / "hf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lora", "out"]
    assert list((tmp_path / "out").iterdir()) == []
