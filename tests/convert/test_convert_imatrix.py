"""Importance matrices in both of llama.cpp's forms, written here byte by byte as its tools/imatrix does."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from convert.imatrix import read_imatrix
from convert.llama import Tensor
from stellar_local.errors import ModelError

RANDOM = np.random.default_rng(0)
Q, DOWN = "blk.0.attn_q.weight", "blk.0.ffn_down.weight"
SUMS = {Q: RANDOM.chisquare(1, 64).astype(np.float32) * 1e4, DOWN: RANDOM.chisquare(1, 96).astype(np.float32)}
COUNTS = {Q: 5120, DOWN: 5119}
TENSORS = [
    Tensor("model.embed_tokens.weight", "token_embd.weight", (480, 64)),
    Tensor("q", Q, (64, 64)),
    Tensor("down", DOWN, (64, 96)),
]


def write_gguf(path: Path, **changes: object) -> Path:
    """save_imatrix's form; `changes` replace or leave out (None) a part."""
    parts: dict[str, object] = {
        "type": "imatrix",
        "datasets": ["/home/someone/校准.txt", "other.txt"],
        "chunks": 10,
        "size": 512,
        "sums": SUMS,
        "counts": {name: np.array([count], np.float32) for name, count in COUNTS.items()},
        **changes,
    }
    writer = gguf.GGUFWriter(path, "")
    writer.kv_data[0].clear()  # a matrix has no architecture
    if parts["type"]:
        writer.add_type(str(parts["type"]))
    if parts["datasets"] is not None:
        writer.add_array("imatrix.datasets", parts["datasets"])
    if parts["chunks"] is not None:
        writer.add_uint32("imatrix.chunk_count", parts["chunks"])
    writer.add_uint32("imatrix.chunk_size", parts["size"])
    for name, sums in parts["sums"].items():
        counts = parts["counts"].get(name)
        writer.add_tensor(f"{name}.in_sum2", np.asarray(sums).reshape(1 if counts is None else len(counts), -1))
        if counts is not None:
            writer.add_tensor(f"{name}.counts", counts.reshape(-1, 1))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def dat(chunk: int = 512, chunks: int = 10, dataset: bytes = "/home/someone/校准.txt".encode()) -> bytes:
    """save_imatrix_legacy's form: (sum / count) * ncall, ncall being the count in chunks, rounded up."""
    out = struct.pack("<i", len(SUMS))
    for name, sums in sorted(SUMS.items()):
        calls = -(-COUNTS[name] // chunk)
        out += struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", calls, len(sums))
        out += (sums / np.float32(COUNTS[name]) * np.float32(calls)).astype("<f4").tobytes()
    return out + struct.pack("<ii", chunks, len(dataset)) + dataset


def test_the_gguf_form(tmp_path: Path) -> None:
    found = read_imatrix(write_gguf(tmp_path / "我的.gguf"))
    assert list(found.entries) == [Q, DOWN]
    for name, values in found.entries.items():
        assert (values.dtype, values.shape) == (np.float32, SUMS[name].shape)
        # As in C: a float32 divided by a count turned into float32.
        assert values.tobytes() == b"".join((x / np.float32(COUNTS[name])).tobytes() for x in SUMS[name])
    assert (found.datasets, found.chunks) == (("/home/someone/校准.txt", "other.txt"), 10)
    assert found.metadata() == {
        "quantize.imatrix.file": "我的.gguf",
        "quantize.imatrix.dataset": "校准.txt",
        "quantize.imatrix.entries_count": 2,
        "quantize.imatrix.chunks_count": 10,
    }
    found.check_fits(TENSORS)


def test_the_older_form(tmp_path: Path) -> None:
    (tmp_path / "imatrix.dat").write_bytes(dat())
    found = read_imatrix(tmp_path / "imatrix.dat")
    assert sorted(found.entries) == [Q, DOWN]
    for name, values in found.entries.items():
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, SUMS[name] / COUNTS[name], rtol=3e-7)
        calls = np.float32(10)  # 5,120 and 5,119 tokens, in pieces of 512
        stored = SUMS[name] / np.float32(COUNTS[name]) * calls
        assert values.tobytes() == (stored / calls).tobytes()
    assert (found.datasets, found.chunks) == (("/home/someone/校准.txt",), 10)
    assert found.metadata()["quantize.imatrix.dataset"] == "校准.txt"
    found.check_fits(TENSORS)


def test_the_oldest_form_says_nothing_of_its_making(tmp_path: Path) -> None:
    data = dat(dataset=b"")
    for end in (data, data[:-4], data[:-8]):  # no dataset, no length of one, no chunks
        (tmp_path / "imatrix.dat").write_bytes(end)
        found = read_imatrix(tmp_path / "imatrix.dat")
        assert (len(found.entries), found.datasets) == (2, ())
    assert found.metadata() == {"quantize.imatrix.file": "imatrix.dat", "quantize.imatrix.entries_count": 2}


def test_windows_paths_stay_at_home(tmp_path: Path) -> None:
    (tmp_path / "imatrix.dat").write_bytes(dat(dataset=rb"C:\Users\someone\wiki.txt"))
    assert read_imatrix(tmp_path / "imatrix.dat").metadata()["quantize.imatrix.dataset"] == "wiki.txt"


def test_what_was_never_seen_counts_one(tmp_path: Path) -> None:
    """As load_imatrix does; one count for each matrix, two here. Counts are rounded to whole numbers."""
    counts = {Q: np.array([0.0, 3.6], np.float32), DOWN: np.array([0.0], np.float32)}
    found = read_imatrix(write_gguf(tmp_path / "m.gguf", counts=counts)).entries
    assert found[Q].tolist() == [1.0] * 32 + (SUMS[Q][32:] / np.float32(4)).tolist()
    assert found[DOWN].tolist() == [1.0] * 96


def test_calls_of_none_leave_the_values(tmp_path: Path) -> None:
    data = struct.pack("<ii", 1, 1) + b"a" + struct.pack("<iif", 0, 1, 2.5)
    (tmp_path / "imatrix.dat").write_bytes(data)
    assert read_imatrix(tmp_path / "imatrix.dat").entries["a"].tolist() == [2.5]


def nan(sums: np.ndarray, value: float) -> np.ndarray:
    out = sums.copy()
    out[3] = value
    return out


GGUFS: dict[str, tuple[dict[str, object], str]] = {
    "a model": ({"type": "model", "datasets": None}, "not an importance matrix: the GGUF file .* holds something else"),
    "no datasets": ({"datasets": None}, "damaged importance matrix .* no imatrix.datasets"),
    "no chunks": ({"chunks": None}, "damaged importance matrix .* no imatrix.chunk_count"),
    "no entries": ({"sums": {}}, "damaged importance matrix .* no entries"),
    "no counts": ({"counts": {Q: np.ones(1, np.float32)}}, f"{DOWN} has no sums or no counts"),
    "doubles": ({"sums": {Q: SUMS[Q].astype(np.float64)}}, f"{Q}.in_sum2 is not float32"),
    "NaN": ({"sums": {**SUMS, DOWN: nan(SUMS[DOWN], np.nan)}}, f"importance of {DOWN} holds negative, infinite or NaN"),
    "infinity": ({"sums": {**SUMS, Q: nan(SUMS[Q], np.inf)}}, f"importance of {Q} holds negative, infinite or NaN"),
    "negative": ({"sums": {**SUMS, Q: nan(SUMS[Q], -1.0)}}, f"importance of {Q} holds negative, infinite or NaN"),
    "NaN counted": (
        {"counts": {Q: np.array([np.nan], np.float32), DOWN: np.ones(1, np.float32)}},
        f"the counts of {Q} hold infinite or NaN",
    ),
}


@pytest.mark.parametrize("case", GGUFS)
def test_ggufs_that_are_none(case: str, tmp_path: Path) -> None:
    changes, expected = GGUFS[case]
    with pytest.raises(ModelError, match=expected) as caught:
        read_imatrix(write_gguf(tmp_path / "m.gguf", **changes))
    assert caught.value.hint


def test_a_model_is_called_one(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelError, match="not an importance matrix: the GGUF file .* holds a llama model"):
        read_imatrix(tmp_path / "m.gguf")


DATS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda data: b"", "not an importance matrix"),
    "short": (lambda data: data[:3], "not an importance matrix"),
    "text": (lambda data: "### 校准文本\n太阳是一颗恒星。".encode(), "not an importance matrix"),
    "no entries": (lambda data: struct.pack("<i", 0) + data[4:], "not an importance matrix"),
    "absurdly many": (lambda data: struct.pack("<i", 1 << 17) + data[4:], "not an importance matrix"),
    "fewer than none": (lambda data: struct.pack("<i", -2) + data[4:], "not an importance matrix"),
    "another name's length": (lambda data: data[:291] + struct.pack("<i", -5) + data[295:], "a name of -5 bytes"),
    "no values": (lambda data: data[:31] + struct.pack("<i", 0) + data[35:], f"{Q} has 0 values"),
    "too many values": (lambda data: data[:31] + struct.pack("<i", 1 << 30) + data[35:], "truncated importance matrix"),
    "too many entries": (lambda data: struct.pack("<i", 3) + data[4:], "truncated importance matrix|damaged"),
    "NaN": (lambda data: data[:35] + struct.pack("<f", np.nan) + data[39:], f"importance of {Q} holds negative"),
}


@pytest.mark.parametrize("case", DATS)
def test_dats_that_are_none(case: str, tmp_path: Path) -> None:
    change, expected = DATS[case]
    (tmp_path / "imatrix.dat").write_bytes(change(dat()))
    with pytest.raises(ModelError, match=expected) as caught:
        read_imatrix(tmp_path / "imatrix.dat")
    assert caught.value.hint


@pytest.mark.parametrize("head", ["no matrix", "a matrix"])
def test_a_large_file_is_judged_before_it_is_read(head: str, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(dat() if head == "a matrix" else b"PK\3\4")
    with path.open("r+b") as file:
        file.truncate((1 << 29) + 1)  # a hole, no bytes on the disk
    tracemalloc.start()
    try:
        with pytest.raises(ModelError, match="not an importance matrix"):
            read_imatrix(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("form", ["gguf", "dat"])
def test_a_cut_file_is_never_taken(form: str, tmp_path: Path) -> None:
    """Cut anywhere, it is refused in a sentence; the older form may lack its last part, which is optional."""
    whole = write_gguf(tmp_path / "whole").read_bytes() if form == "gguf" else dat()
    needed = len(dat(dataset=b"")) - 8 if form == "dat" else len(whole) - 28  # the last tensor is 4 bytes of 32
    for size in range(0, needed, 7):
        (tmp_path / "cut").write_bytes(whole[:size])
        with pytest.raises(ModelError, match="truncated|not an importance matrix|not a GGUF"):
            read_imatrix(tmp_path / "cut")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="importance matrix not found"):
        read_imatrix(tmp_path / "none.gguf")
    with pytest.raises(ModelError, match="importance matrix is not a file"):
        read_imatrix(tmp_path)


def test_a_matrix_of_another_model(tmp_path: Path) -> None:
    found = read_imatrix(write_gguf(tmp_path / "m.gguf"))
    other = [*TENSORS[:2], Tensor("down", DOWN, (64, 128))]
    with pytest.raises(ModelError, match=rf"made for another model: {DOWN} has 96 columns there and 128 here"):
        found.check_fits(other)
    with pytest.raises(ModelError, match="holds no tensor of this model"):
        found.check_fits(TENSORS[:1])
