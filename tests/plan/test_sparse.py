"""Sparse files that hold a header alone: read by gguf's reader, loaded by llama.cpp without allocating."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from stellar_local.errors import ModelError, StellarError
from stellar_local.native.header import Header, read_header
from stellar_local.plan.shapes import SHAPES, shape_header
from stellar_local.plan.sparse import header_bytes, write_sparse

MIB = 1 << 20
KV_BYTES = {"f16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}

# As a program that plans does it, and in a process of its own: llama.cpp aborts where it is displeased.
PROBE = """
import ctypes, sys
import llama_cpp.llama_cpp as api
path, n_ctx, kv = sys.argv[1], int(sys.argv[2]), {"f16": 1, "q8_0": 8, "q4_0": 2}[sys.argv[3]]
log = api.llama_log_callback(lambda level, text, data: sys.stdout.write(text.decode("utf-8", "replace")) and None)
api.llama_log_set(log, ctypes.c_void_p(0))
api.llama_backend_init()
params = api.llama_model_default_params()
params.no_alloc, params.load_mode = True, api.LLAMA_LOAD_MODE_NONE
model = api.llama_model_load_from_file(path.encode(), params)
if not model:
    raise SystemExit("refused")
params = api.llama_context_default_params()
params.n_ctx, params.n_seq_max, params.type_k, params.type_v = n_ctx, 1, kv, kv
params.flash_attn_type = 1
if not api.llama_init_from_model(model, params):
    raise SystemExit("no context")
print("VOCABULARY", api.llama_vocab_n_tokens(api.llama_model_get_vocab(model)))
print("SIZE", api.llama_model_size(model))
"""


def probe(path: Path, n_ctx: int, kv: str = "f16") -> str:
    """llama.cpp's log of a load without allocation."""
    arguments = [sys.executable, "-c", PROBE, str(path), str(n_ctx), kv]
    done = subprocess.run(arguments, capture_output=True, text=True, encoding="utf-8", timeout=120)
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-2000:]
    return done.stdout


def stated(log: str, pattern: str) -> float:
    found = re.search(pattern, log)
    assert found, log[-3000:]
    return float(found[1])


def kv_size(header: Header, n_ctx: int, kv: str) -> float:
    """MiB of keys and values: 2 · layers · tokens · key-value heads · head size · bytes."""
    heads = header.value("attention.head_count")
    width = header.value("embedding_length") // heads * header.value("attention.head_count_kv")
    return 2 * header.value("block_count") * n_ctx * width * KV_BYTES[kv] / MIB


def is_header_only(path: Path, header: Header) -> bool:
    """Whether the disk holds no data of it; True where the system does not say."""
    return getattr(path.stat(), "st_blocks", 0) * 512 <= header.data_start + 64 * 1024


@pytest.mark.parametrize(
    ("name", "level", "n_ctx", "kv"),
    [("7b", "Q4_K_M", 4096, "f16"), ("13b", "IQ2_XS", 2048, "q8_0"), ("8b", "Q3_K_M", 8192, "q4_0")],
)
def test_llama_cpp_loads_a_model_that_nobody_has(name: str, level: str, n_ctx: int, kv: str, tmp_path: Path) -> None:
    header, path = shape_header(name, level), tmp_path / "made.gguf"
    write_sparse(header, None, path)
    assert path.stat().st_size == header.full_size
    assert is_header_only(path, header)
    log = probe(path, n_ctx, kv)
    assert stated(log, r"kv_cache: size = +([\d.]+) MiB") == pytest.approx(kv_size(header, n_ctx, kv), abs=0.006)
    assert stated(log, r"compute buffer size = +([\d.]+) MiB") > 0
    assert stated(log, r"VOCABULARY (\d+)") == header.value("vocab_size")
    assert stated(log, r"SIZE (\d+)") == sum(tensor.nbytes for tensor in header.tensors)


def test_what_7b_needs_is_what_was_measured(tmp_path: Path) -> None:
    """2,048 MiB of KV at 4,096 tokens: not by our formula."""
    write_sparse(shape_header("7b", "Q4_K_M"), None, tmp_path / "made.gguf")
    assert stated(probe(tmp_path / "made.gguf", 4096), r"kv_cache: size = +([\d.]+) MiB") == 2048


@pytest.mark.parametrize("name", SHAPES)
def test_our_header_is_gguf(name: str, tmp_path: Path) -> None:
    header, path = shape_header(name, "Q4_K_M"), tmp_path / "made.gguf"
    path.write_bytes(header_bytes(header.metadata, header.tensors))
    assert read_header(path) == replace(header, path=path, file_size=header.data_start, changed=path.stat().st_mtime_ns)
    write_sparse(header, None, path)
    reader = gguf.GGUFReader(path)
    assert reader.data_offset == header.data_start
    types = {key: field.types[0].name for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert types["llama.block_count"] == types["general.file_type"] == types["llama.vocab_size"] == "UINT32"
    assert types["llama.rope.freq_base"] == types["llama.attention.layer_norm_rms_epsilon"] == "FLOAT32"
    found = {tensor.name: (int(tensor.tensor_type), int(tensor.data_offset)) for tensor in reader.tensors}
    assert found == {tensor.name: (tensor.type, header.data_start + tensor.offset) for tensor in header.tensors}


def test_truth_values_text_and_lists_are_gguf_too(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    metadata = {"general.architecture": "llama", "a.yes": True, "a.text": "星语者", "a.real": 0.5, "a.most": 2**32 - 1}
    metadata |= {"a.texts": ["星", "", "▁a"], "a.numbers": [-1, 2**31 - 1], "a.reals": [0.5, -2.0]}
    path.write_bytes(header_bytes(metadata, []))
    fields = gguf.GGUFReader(path).fields
    assert {key: field.contents() for key, field in fields.items() if not key.startswith("GGUF.")} == metadata
    for value, complaint in (
        ({}, "no GGUF value of ours: {}"),
        ([], r"no GGUF value of ours: \[\]"),
        ([1, 0.5], "holds values of one kind"),
        ([True], "no GGUF list of ours: bool"),
    ):
        with pytest.raises(TypeError, match=complaint):
            header_bytes({"a": value}, [])


def end_of_table(path: Path) -> int:
    """Where the tensor table ends: the padding up to the data is behind it."""
    reader = gguf.GGUFReader(path)
    last = max(reader.tensors, key=lambda tensor: tensor.data_offset).field
    return int(last.offset + sum(part.nbytes for part in last.parts))


@pytest.mark.parametrize("place", ["table", "data", "middle", "whole"])
@pytest.mark.parametrize("kind", ["spm_model", "bpe_model"])
def test_a_real_file_cut_after_its_table(place: str, kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    model: Path = request.getfixturevalue(kind)
    whole, data = read_header(model), model.read_bytes()
    table = end_of_table(model)
    assert whole.data_start - 32 < table <= whole.data_start
    size = {"table": table, "data": whole.data_start, "middle": (table + len(data)) // 2, "whole": len(data)}[place]
    cut, path = tmp_path / "cut.gguf", tmp_path / "sparse.gguf"
    cut.write_bytes(data[:size])
    header = read_header(cut)
    write_sparse(header, cut, path)
    made = path.read_bytes()
    assert len(made) == header.full_size
    assert made[:table] == data[:table]
    assert not any(made[table:])
    n_ctx = 8192  # 2 MiB: the log rounds to hundredths
    log = probe(path, n_ctx)
    assert stated(log, r"kv_cache: size = +([\d.]+) MiB") == pytest.approx(kv_size(header, n_ctx, "f16"), abs=0.006)
    assert stated(log, r"VOCABULARY (\d+)") == whole.metadata["llama.vocab_size"]
    assert stated(log, r"SIZE (\d+)") == sum(tensor.nbytes for tensor in whole.tensors)


def test_a_file_cut_inside_its_header_is_a_sentence(spm_model: Path, tmp_path: Path) -> None:
    data, cut = spm_model.read_bytes(), tmp_path / "cut.gguf"
    for size in (9, 1000, end_of_table(spm_model) - 1):
        cut.write_bytes(data[:size])
        with pytest.raises(ModelError, match="truncated GGUF file"):
            read_header(cut)


def test_a_download_that_goes_on_meanwhile(spm_model: Path, tmp_path: Path) -> None:
    data, cut, path = spm_model.read_bytes(), tmp_path / "cut.gguf", tmp_path / "sparse.gguf"
    cut.write_bytes(data[:-100])
    header = read_header(cut)
    cut.write_bytes(data[:100])
    with pytest.raises(ModelError, match="has changed since its header was read"):
        write_sparse(header, cut, path)
    cut.unlink()
    with pytest.raises(StellarError, match=f"cannot read {re.escape(str(cut))}"):
        write_sparse(header, cut, path)
    assert not path.exists()


def test_a_name_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(StellarError, match="cannot write"):
        write_sparse(shape_header("7b", "Q8_0"), None, tmp_path / "no" / "made.gguf")
    assert not list(tmp_path.iterdir())


def test_what_llama_cpp_would_not_take_is_refused_before(tmp_path: Path) -> None:
    header, path = shape_header("7b", "Q8_0"), tmp_path / "made.gguf"
    layers = {**header.metadata, "llama.block_count": 31}
    with pytest.raises(ModelError, match="states 31 layers and holds 32"):
        write_sparse(replace(header, metadata=layers), None, path)
    with pytest.raises(ModelError, match="one of several parts"):
        write_sparse(replace(header, metadata={**header.metadata, "split.count": 3}), None, path)
    unknown = [replace(header.tensors[0], type=42 + 1), *header.tensors[1:]]
    with pytest.raises(ModelError, match="has a type that this build of llama.cpp does not know"):
        write_sparse(replace(header, tensors=unknown), None, path)
    beyond = [*header.tensors[:-1], replace(header.tensors[-1], offset=2**63)]
    with pytest.raises(ModelError, match="damaged GGUF header"):
        write_sparse(replace(header, tensors=beyond), None, path)
    large = [*header.tensors[:-1], replace(header.tensors[-1], offset=2**62)]
    with pytest.raises(StellarError, match="cannot write"):
        write_sparse(replace(header, tensors=large), None, path)
    assert not list(tmp_path.iterdir())


def test_an_adapter_is_no_model(tmp_path: Path) -> None:
    source = tmp_path / "a.gguf"
    writer = gguf.GGUFWriter(source, "llama")
    writer.add_type("adapter")
    writer.add_tensor("blk.0.attn_q.weight.lora_a", np.zeros((2, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelError, match="LoRA adapter"):
        write_sparse(read_header(source), source, tmp_path / "sparse.gguf")
    assert os.listdir(tmp_path) == ["a.gguf"]  # noqa: PTH208
