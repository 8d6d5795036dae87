"""The GGUF header reader against the gguf package, and on files that are broken."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from stellar_local.errors import ModelError
from stellar_local.native.header import check_runnable, check_vocabulary, read_header


def test_agrees_with_the_gguf_package(spm_model: Path, bpe_model: Path) -> None:
    for path in (spm_model, bpe_model):
        header, reader = read_header(path), gguf.GGUFReader(path)
        assert header.architecture == "llama"
        assert header.data_start == reader.data_offset
        assert header.full_size <= header.file_size == path.stat().st_size
        theirs = {t.name: (tuple(int(n) for n in t.shape), int(t.tensor_type), int(t.n_bytes)) for t in reader.tensors}
        assert {t.name: (t.shape, t.type, t.nbytes) for t in header.tensors} == theirs
        offsets = {t.name: int(t.data_offset) for t in reader.tensors}
        assert {t.name: t.offset + header.data_start for t in header.tensors} == offsets
        for key, field in reader.fields.items():
            if not key.startswith("GGUF."):
                assert header.metadata[key] == field.contents(), key


def test_long_arrays_are_lengths(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_array("many.texts", [str(number) for number in range(2000)])
    writer.add_array("many.numbers", list(range(2000)))
    writer.add_array("few", [1, 2])
    writer.add_string("after", "星")
    writer.add_tensor("t", np.zeros((2, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    metadata = read_header(path).metadata
    assert metadata["many.texts"] == metadata["many.numbers"] == 2000
    assert metadata["few"] == [1, 2]
    assert metadata["after"] == "星"
    whole = read_header(path, whole=True).metadata
    assert whole["many.texts"][1999] == "1999"
    assert whole["many.numbers"] == list(range(2000))


def test_every_cut_of_the_header_is_a_sentence(spm_model: Path, tmp_path: Path) -> None:
    data, whole = spm_model.read_bytes(), read_header(spm_model)
    cut = tmp_path / "cut.gguf"
    for size in [0, 3, 4, 7, 8, 12, 23, 24, 40, *range(100, whole.data_start - 64, 997)]:
        cut.write_bytes(data[:size])
        with pytest.raises(ModelError, match="truncated GGUF|not a GGUF"):
            read_header(cut)


def test_a_file_cut_after_the_table_has_a_header_but_does_not_run(spm_model: Path, tmp_path: Path) -> None:
    cut, whole = tmp_path / "cut.gguf", read_header(spm_model)
    cut.write_bytes(spm_model.read_bytes()[: whole.data_start])
    header = read_header(cut)
    assert header.tensors == whole.tensors
    with pytest.raises(ModelError, match="truncated GGUF file: .* bytes"):
        check_runnable(header)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [(0, b"GGML", "not a GGUF"), (4, b"\x09\0\0\0", "unsupported GGUF version 9"), (8, b"\xff" * 8, "GGUF")],
)
def test_damaged_headers(place: int, value: bytes, message: str, spm_model: Path, tmp_path: Path) -> None:
    data = bytearray(spm_model.read_bytes())
    data[place : place + len(value)] = value
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=message):
        read_header(path)


def test_adapters_and_vocabularies_are_no_models(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelError, match="LoRA adapter"):
        check_runnable(read_header(path))


@pytest.mark.parametrize("layers", [0, 1, 3, 513, 2**32 - 1])
def test_a_wrong_number_of_layers_is_refused_before_llama_cpp_asserts(
    layers: int, spm_model: Path, tmp_path: Path
) -> None:
    data = bytearray(spm_model.read_bytes())
    at = data.index(b"llama.block_count") + len(b"llama.block_count") + 4
    data[at : at + 4] = layers.to_bytes(4, "little")
    path = tmp_path / "odd.gguf"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=f"states {layers} layers and holds 2"):
        check_runnable(read_header(path))


@pytest.mark.parametrize(
    ("old", "new", "message"), [(b"<0x41>", b"<0x42>", "repeats a token"), (b"<0x41>", b"<0xZZ>", "lacks byte tokens")]
)
def test_a_vocabulary_on_which_llama_cpp_aborts(
    old: bytes, new: bytes, message: str, spm_model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "odd.gguf"
    path.write_bytes(spm_model.read_bytes().replace(old, new))
    with pytest.raises(ModelError, match=message):
        check_vocabulary(read_header(path, whole=True))
    check_vocabulary(read_header(spm_model, whole=True))
