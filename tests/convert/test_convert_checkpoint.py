"""Opening a base: every form that users have reads to the same values, and what only looks like one is refused."""

from __future__ import annotations

import gc
import json
import os
import shutil
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from exporting import export
from gguf_facts import tensors
from safetensors.torch import load_file, save_file
from tiny import write_plain_base

from convert.checkpoint import Checkpoint, load_bin, read_json
from convert.leftovers import check_leftover
from convert.levels import LEVELS
from convert.llama import Shape
from convert.safetensors import from_float32, read_table
from stellar_local.errors import ModelError

MODEL, BIN = "model.safetensors", "pytorch_model.bin"
INDEX = "{}.index.json"
FIRST = "model.layers.0.self_attn.q_proj.weight"
State = dict[str, torch.Tensor]


@pytest.fixture
def base(bases: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy of the small base."""
    return Path(shutil.copytree(bases("spm-gqa-64"), tmp_path / "base"))


def edit(path: Path, **changes: object) -> None:
    data = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))


def store(folder: Path, state: State, files: int = 1, kind: str = MODEL, index: bool = True) -> None:
    """Replace the weights of a folder: one file, or shards of equal numbers of tensors, with an index or without."""
    for path in (*folder.glob("*.safetensors*"), *folder.glob("pytorch_model*")):
        path.unlink()
    stem, _, ending = kind.rpartition(".")
    names, where = list(state), {}
    for number in range(files):
        path = folder / (kind if files == 1 else f"{stem}-{number + 1:05}-of-{files:05}.{ending}")
        part = {name: state[name] for name in names[number::files]}
        where |= dict.fromkeys(part, path.name)
        if kind == BIN:
            torch.save(part, path)
        else:
            save_file(part, path, {"format": "pt"})
    if files > 1 and index:
        (folder / INDEX.format(kind)).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))


def state_of(folder: Path) -> State:
    return dict(load_file(folder / MODEL))


def check(checkpoint: Checkpoint, expected: State) -> None:
    """The checkpoint holds exactly these tensors, as float32."""
    assert set(checkpoint.tensors) == set(expected)
    for name, tensor in expected.items():
        values = checkpoint.source(name).read(0, tensor.shape[0])
        assert (
            values.dtype == np.float32
            and values.flags.c_contiguous
            and values.flags.owndata | (values.base is not None)
        )
        assert np.array_equal(values, tensor.float().numpy()), name


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", [MODEL, BIN])
@pytest.mark.parametrize(("files", "index"), [(1, False), (3, True), (3, False)])
def test_every_form_reads_the_same(base: Path, kind: str, files: int, index: bool, dtype: torch.dtype) -> None:
    state = {name: tensor.to(dtype) for name, tensor in state_of(base).items()}
    store(base, state, files, kind, index)
    checkpoint = Checkpoint.open(base)
    check(checkpoint, state)
    rows = checkpoint.source(FIRST).read(5, 9)
    assert np.array_equal(rows, state[FIRST][5:9].float().numpy())
    rows += 1  # the caller's own: a merge adds to it
    assert np.array_equal(checkpoint.source(FIRST).read(5, 9), state[FIRST][5:9].float().numpy())


def test_the_first_pickles(base: Path) -> None:
    """PyTorch's form of before 1.6, which cannot be mapped, and a tensor that is stored transposed."""
    state = state_of(base)
    torch.save(state, base / BIN, _use_new_zipfile_serialization=False)
    (base / MODEL).unlink()
    check(Checkpoint.open(base), state)
    turned = {**state, FIRST: state[FIRST].T.contiguous().T}
    assert not turned[FIRST].is_contiguous()
    torch.save(turned, base / BIN)
    check(Checkpoint.open(base), state)


def test_a_pickle_of_parameters(base: Path) -> None:
    """What torch.save(dict(model.named_parameters())) leaves: tensors that want gradients."""
    state = state_of(base)
    torch.save({name: torch.nn.Parameter(tensor) for name, tensor in state.items()}, base / BIN)
    (base / MODEL).unlink()
    check(Checkpoint.open(base), state)


def test_safetensors_are_taken_first(base: Path) -> None:
    state = state_of(base)
    torch.save({name: tensor + 1 for name, tensor in state.items()}, base / BIN)
    check(Checkpoint.open(base), state)


def test_constants_of_old_exports_are_dropped(base: Path) -> None:
    state = state_of(base)
    old = {
        **state,
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8),
        "model.layers.0.attention.bias": torch.ones(8, 8, dtype=torch.uint8),
    }
    for kind in (MODEL, BIN):
        store(base, old, 2, kind)
        check(Checkpoint.open(base), state)
    index = base / INDEX.format(BIN)
    listed = json.loads(index.read_text())["weight_map"]
    edit(
        index, weight_map={**listed, "model.layers.1.self_attn.rotary_emb.inv_freq": "pytorch_model-00001-of-00002.bin"}
    )
    check(Checkpoint.open(base), state)


def test_an_output_that_only_seems_shared(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As Transformers does: two tensors that differ are not shared, whatever config.json says."""
    from transformers import AutoModelForCausalLM

    edit(base / "config.json", tie_word_embeddings=True)
    state = state_of(base)
    peer = AutoModelForCausalLM.from_pretrained(base)
    assert not torch.equal(peer.lm_head.weight, peer.model.embed_tokens.weight)
    checkpoint = Checkpoint.open(base)
    assert "output of its own" in capsys.readouterr().err
    assert not Shape.from_config(checkpoint.config).tied
    check(checkpoint, state)
    export(base, out=tmp_path, levels=[LEVELS["F32"]], name="m")
    assert tensors(tmp_path / "m-F32.gguf")["output.weight"][2] == state["lm_head.weight"].numpy().tobytes()
    state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
    store(base, state)
    checkpoint = Checkpoint.open(base)
    assert Shape.from_config(checkpoint.config).tied
    assert "lm_head.weight" not in checkpoint.tensors


def test_an_architecture_as_a_text(base: Path) -> None:
    found = Shape.from_config(Checkpoint.open(base).config)
    edit(base / "config.json", architectures="LlamaForCausalLM")
    assert Shape.from_config(Checkpoint.open(base).config) == found


def test_escapes_of_whole_characters(tmp_path: Path) -> None:
    """Python writes what lies beyond the first plane as a pair of halves; a backslash before a u is no escape."""
    data = {"🌟": ["𠮷", "\\ud800"]}
    (tmp_path / "x.json").write_text(json.dumps(data))
    assert "\\ud83c\\udf1f" in (tmp_path / "x.json").read_text()
    assert read_json(tmp_path / "x.json", "x.json") == data


def test_first_exports_config(base: Path) -> None:
    """The config.json of the first LLaMA exports: other names, and what has defaults left out."""
    config = json.loads((base / "config.json").read_text())
    plain = Shape.from_config(config)
    for key in ("num_key_value_heads", "head_dim", "rope_parameters", "max_position_embeddings", "tie_word_embeddings"):
        config.pop(key)
    config |= {"architectures": ["LLaMAForCausalLM"], "max_sequence_length": 4096, "pad_token_id": -1}
    shape = Shape.from_config(config)
    assert (shape.kv_heads, shape.context, shape.head_dim, shape.rope_theta) == (4, 4096, 16, 10000.0)
    assert (shape.width, shape.heads, shape.tied) == (plain.width, plain.heads, False)


# --- reading ---


def test_many_threads_read_at_once(base: Path) -> None:
    expected = state_of(base)["model.embed_tokens.weight"].numpy()
    checkpoint = Checkpoint.open(base)
    spans = [(start, start + 3) for start in range(477)] * 4
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda span: checkpoint.source("model.embed_tokens.weight").read(*span), spans))
    assert all(np.array_equal(rows, expected[start:stop]) for rows, (start, stop) in zip(found, spans, strict=True))


def test_reading_without_preadv(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows: the threads share one position in the file."""
    monkeypatch.delattr(os, "preadv", raising=False)
    test_many_threads_read_at_once(base)


def test_a_file_that_shrinks_while_it_is_read(base: Path) -> None:
    checkpoint = Checkpoint.open(base)
    (base / MODEL).write_bytes((base / MODEL).read_bytes()[:20000])
    with pytest.raises(ModelError, match="ended early, within lm_head.weight: it was changed"):
        checkpoint.source("lm_head.weight").read(0, 480)


def test_a_file_that_is_removed_while_it_is_read(base: Path) -> None:
    state = state_of(base)
    checkpoint = Checkpoint.open(base)
    (base / MODEL).unlink()
    check(checkpoint, state)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="this system does not list open files")
def test_files_are_open_once_and_then_closed(base: Path) -> None:
    def opened() -> int:
        return sum(path.readlink().is_relative_to(base) for path in Path("/proc/self/fd").iterdir() if path.exists())

    store(base, state_of(base), 3)
    assert opened() == 0
    checkpoint = Checkpoint.open(base)
    for name, source in checkpoint.tensors.items():
        checkpoint.source(name).read(0, source.shape[0])
    assert opened() == 3
    del checkpoint, source
    gc.collect()
    assert opened() == 0


def test_what_is_read_is_not_memory_in_use(tmp_path: Path) -> None:
    """64 MiB are read in pieces of 1 MiB; resident memory must not grow by what was read, as it does with a map."""
    status = Path("/proc/self/statm")
    if not status.is_file():
        pytest.skip("this system does not tell resident memory")
    save_file({"a": torch.zeros(1 << 16, 256)}, tmp_path / MODEL)
    tensor = read_table(tmp_path / MODEL)["a"]
    before = int(status.read_text().split()[1])
    for start in range(0, 1 << 16, 1024):
        assert not tensor.read(start, start + 1024).any()
    assert (int(status.read_text().split()[1]) - before) * os.sysconf("SC_PAGE_SIZE") < 16 << 20


def test_rounding_to_bfloat16_is_torchs() -> None:
    values = np.random.default_rng(0).normal(size=4096).astype(np.float32)
    assert np.array_equal(from_float32(values, "BF16"), torch.from_numpy(values).bfloat16().view(torch.uint16).numpy())
    for bad in (np.nan, -np.nan, np.inf, 3.4e38):
        with pytest.raises(ModelError, match="beyond what bfloat16 can hold"):
            from_float32(np.array([bad], np.float32), "BF16")


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_not_written(bad: float, dtype: str) -> None:
    with pytest.raises(ModelError, match="NaN|infinite|beyond"):
        from_float32(np.array([[1.0, bad]], np.float32), dtype)


def header(entries: object, data: bytes = b"") -> bytes:
    raw = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(raw)) + raw + data


ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    "data",
    [
        header([]),
        header({"a": 1}),
        header({"a": {**ONE, "shape": [1.0]}}, bytes(4)),
        header({"a": {**ONE, "shape": [True]}}, bytes(4)),
        header({"a": {**ONE, "shape": [-1]}}, bytes(4)),
        header({"a": {**ONE, "data_offsets": [4, 0]}}, bytes(4)),
        header({"a": {**ONE, "data_offsets": [0, 8]}}, bytes(8)),
        header({"a": {**ONE, "dtype": []}}, bytes(4)),
        header(b'{"a": %s, "a": %s}' % (json.dumps(ONE).encode(), json.dumps(ONE).encode()), bytes(4)),
        header(b"[" * 100_000),
        header(b"\xff\xfe"),
        struct.pack("<Q", 1 << 62) + b"{}",
    ],
    ids=str,
)
def test_damaged_headers(data: bytes, tmp_path: Path) -> None:
    (tmp_path / MODEL).write_bytes(data)
    with pytest.raises(ModelError, match="damaged safetensors"):
        read_table(tmp_path / MODEL)


# --- what only looks like a base ---

LEFTOVERS: dict[str, tuple[State, str]] = {
    "8 bits": ({FIRST: torch.ones(64, 64, dtype=torch.int8), "a.SCB": torch.ones(64)}, "loaded in 8 bits"),
    "8 bits, newer": ({"a.weight_format": torch.zeros((), dtype=torch.uint8)}, "loaded in 8 bits"),
    "4 bits": ({"a.weight.absmax": torch.ones(8)}, "loaded in 4 bits"),
    "4 bits, nested": ({"a.weight.nested_absmax": torch.ones(8)}, "loaded in 4 bits"),
    "4 bits, code": ({"a.weight.quant_map": torch.ones(16)}, "loaded in 4 bits"),
    "4 bits, state": (
        {"a.weight.quant_state.bitsandbytes__nf4": torch.zeros(9, dtype=torch.uint8)},
        "loaded in 4 bits",
    ),
    "scales": ({"lm_head.scales": torch.ones(8)}, "is quantized"),
    "GPTQ": ({"a.qweight": torch.ones(8, 8, dtype=torch.int32), "a.g_idx": torch.ones(8)}, "GPTQ or AWQ"),
    "AWQ": ({"a.qzeros": torch.ones(8, 8, dtype=torch.int32)}, "GPTQ or AWQ"),
    "compressed": ({"a.weight_packed": torch.ones(8, 8, dtype=torch.int32)}, "compressed-tensors"),
    "8-bit floats": ({"a.weight_scale_inv": torch.ones(8)}, "8-bit floats"),
    "integers alone": ({FIRST: torch.ones(64, 64, dtype=torch.int8)}, "as I8: quantized"),
    "LoRA beside": ({"model.layers.0.q.lora_B.default.weight": torch.ones(8, 8)}, "unmerged LoRA"),
    "LoRA around": ({"model.layers.0.q.base_layer.weight": torch.ones(8, 8)}, "unmerged LoRA"),
}


@pytest.mark.parametrize("kind", [MODEL, BIN])
@pytest.mark.parametrize("case", LEFTOVERS)
def test_leftovers_of_other_tools(case: str, kind: str, base: Path) -> None:
    more, expected = LEFTOVERS[case]
    store(base, {**state_of(base), **more}, kind=kind)
    with pytest.raises(ModelError) as caught:
        Checkpoint.open(base)
    assert expected in caught.value.message
    assert "original" in caught.value.hint


def test_bitsandbytes_own_tensors_are_known() -> None:
    """What the library itself saves of a layer in 8 and in 4 bits."""
    bitsandbytes = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    for layer, expected in (
        (bitsandbytes.nn.Linear8bitLt(64, 64, has_fp16_weights=False), "8 bits"),
        (bitsandbytes.nn.Linear4bit(64, 64, compress_statistics=True, quant_type="nf4"), "4 bits"),
    ):
        names = set(layer.to("cpu").state_dict()) - {"weight", "bias"}
        assert names
        for name in names:
            with pytest.raises(ModelError, match=expected):
                check_leftover(f"model.layers.0.mlp.up_proj.{name}", Path("here"))


def test_a_tensor_in_two_shards(base: Path) -> None:
    state = state_of(base)
    store(base, state, 2)
    for number in (1, 2):
        path = base / f"model-{number:05}-of-00002.safetensors"
        save_file({**load_file(path), "model.norm.weight": state["model.norm.weight"]}, path)
    with pytest.raises(ModelError) as caught:
        Checkpoint.open(base)
    for part in ("model.norm.weight twice", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"):
        assert part in caught.value.message


def test_a_tensor_that_the_index_does_not_list(base: Path) -> None:
    store(base, state_of(base), 2)
    path = base / INDEX.format(MODEL)
    listed = json.loads(path.read_text())["weight_map"]
    edit(path, weight_map={name: file for name, file in listed.items() if name != "model.norm.weight"})
    with pytest.raises(ModelError, match=r"holds model\.norm\.weight, which the index"):
        Checkpoint.open(base)


@pytest.mark.parametrize("kind", [MODEL, BIN])
def test_a_lost_shard_without_an_index(kind: str, base: Path) -> None:
    store(base, state_of(base), 3, kind, index=False)
    lost = next(base.glob("*-00002-of-00003.*"))
    lost.unlink()
    with pytest.raises(ModelError, match=lost.name):
        Checkpoint.open(base)


def test_llamas_own_download(tmp_path: Path) -> None:
    (tmp_path / "consolidated.00.pth").touch()
    with pytest.raises(ModelError, match="in its first form"):
        Checkpoint.open(tmp_path)


def test_a_pickle_of_other_things(base: Path) -> None:
    torch.save({"epoch": 3, **state_of(base)}, base / BIN)
    with pytest.raises(ModelError, match="holds epoch, which is not a tensor"):
        load_bin(base / BIN)
    torch.save([1, 2], base / BIN)
    with pytest.raises(ModelError, match="no tensors by name"):
        load_bin(base / BIN)


# --- differences from a base ---


def difference(base: Path, folder: Path, dtype: torch.dtype = torch.float16) -> State:
    """A fine-tuned model of `base` in float16, published as a difference in `folder`; returns the fine-tuned one."""
    shutil.copytree(base, folder)
    start = {name: tensor.half() for name, tensor in state_of(base).items()}
    torch.manual_seed(3)
    target = {name: tensor + 0.01 * torch.randn(tensor.shape).half() for name, tensor in start.items()}
    store(base, start)
    store(folder, {name: (target[name] - start[name]).to(dtype) for name in start})
    return target


def test_a_difference_is_added_as_its_authors_add_it(base: Path, tmp_path: Path) -> None:
    """The F16 file holds the very bits of apply_delta.py, which adds in float16; the target up to its rounding."""
    target = difference(base, tmp_path / "diff")
    start, published = state_of(base), state_of(tmp_path / "diff")
    edit(tmp_path / "diff/config.json", max_position_embeddings=1024)
    checkpoint = Checkpoint.open(tmp_path / "diff", delta_base=base)
    assert checkpoint.config["max_position_embeddings"] == 1024
    for name, part in published.items():
        theirs = part + start[name]  # torch, in float16
        ours = checkpoint.source(name).read(0, part.shape[0])
        assert np.array_equal(ours, part.float().numpy() + start[name].float().numpy())
        assert np.array_equal(ours.astype(np.float16), theirs.numpy()), name
        assert torch.allclose(theirs, target[name], atol=2e-3)
        assert checkpoint.source(name).dtype == "F16"
    assert np.array_equal(checkpoint.source(FIRST).read(3, 7), checkpoint.source(FIRST).read(0, 64)[3:7])


def test_a_difference_without_its_base(base: Path, tmp_path: Path) -> None:
    difference(base, tmp_path / "diff")
    with pytest.raises(ModelError, match="the difference from a base, not a model") as caught:
        Checkpoint.open(tmp_path / "diff")
    assert "--delta-base" in caught.value.hint
    with pytest.raises(ModelError, match="the difference from a base"):  # a difference from a difference
        Checkpoint.open(tmp_path / "diff", delta_base=tmp_path / "diff")


def test_a_whole_model_is_no_difference(base: Path) -> None:
    with pytest.raises(ModelError, match="is a whole model, not a difference"):
        Checkpoint.open(base, delta_base=base)


def test_a_difference_from_another_base(base: Path, tmp_path: Path) -> None:
    difference(base, tmp_path / "diff")
    published = state_of(tmp_path / "diff")
    changes: list[tuple[Callable[[State], object], str]] = [
        (lambda state: state.pop(FIRST), "diff lacks the tensor model.layers.0.self_attn.q_proj.weight"),
        (lambda state: state.update({"model.x": torch.ones(1)}), "base lacks the tensor model.x"),
        (
            lambda state: state.update({"lm_head.weight": torch.zeros(481, 64).half()}),
            r"lm_head.weight is \[481, 64\] in .*diff, but \[480, 64\] in .*base",
        ),
    ]
    for change, expected in changes:
        state = dict(published)
        change(state)
        store(tmp_path / "diff", state)
        with pytest.raises(ModelError, match=expected):
            Checkpoint.open(tmp_path / "diff", delta_base=base)


def test_types_are_named_where_they_are_read(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2, dtype=torch.int64)}, tmp_path / MODEL)
    torch.save({"a": torch.ones(2, dtype=torch.int64)}, tmp_path / BIN)
    for table in (read_table(tmp_path / MODEL), load_bin(tmp_path / BIN)):
        with pytest.raises(ModelError, match="stores a as I64"):
            table["a"].read(0, 2)


def test_as_many_shards_as_a_70b_has(tmp_path: Path) -> None:
    base = write_plain_base(tmp_path / "base", 64, num_hidden_layers=20)
    state = state_of(base)
    store(base, state, 80)
    check(Checkpoint.open(base), state)
