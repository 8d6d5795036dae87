"""Saved memory: restored, it answers as before; a file of any other content is refused and harms nothing."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from state_cases import KV_TYPES

from stellar_local.errors import StellarError
from stellar_local.native import state
from stellar_local.native.context import Chunk, Context, Decoded
from stellar_local.native.model import Model

TEXT = [1, *(3 + at * 37 % 400 for at in range(60))]
HEAD = 12 + 4 * len(TEXT)  # bytes before the memory itself


def filled(context: Context, sequence: int = 0, tokens: list[int] = TEXT) -> Context:
    assert context.decode([Chunk(sequence, 0, tokens)]) is Decoded.DONE
    return context


def rows(context: Context, sequence: int = 0, count: int = 12) -> np.ndarray:
    """The logits of greedy decoding from here, of shape (count, n_vocab)."""
    token, out = 9, []
    for _ in range(count):
        assert context.decode([Chunk(sequence, context.length(sequence), [token], 1)]) is Decoded.DONE
        out.append(context.logits[0].copy())
        token = int(out[-1].argmax())
    return np.array(out)


@pytest.fixture(scope="module")
def saved(wide_model: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("state") / "state"
    with Model(wide_model) as model, Context(model, 256, flash_attn="on") as context:
        state.save(filled(context), 0, path, TEXT)
    return path.read_bytes()


@pytest.fixture
def wide(wide_model: Path) -> Iterator[Context]:
    with Model(wide_model) as model, Context(model, 256, flash_attn="on") as context:
        yield context


@pytest.mark.parametrize("unified", [True, False], ids=["unified", "separate"])
@pytest.mark.parametrize("kv", KV_TYPES)
def test_restored_memory_gives_the_same_logits(kv: str, unified: bool, wide_model: Path, tmp_path: Path) -> None:
    """To the last bit, in another sequence; in a context of another size but for rounding."""
    path = tmp_path / "记忆.kv"
    with Model(wide_model) as model:
        with Context(model, 512, 2, kv_type=kv, unified=unified) as context:
            filled(context, 1)
            expected_size = state.size(context, 1)
            assert state.save(context, 1, path, TEXT) == expected_size == path.stat().st_size
            expected = rows(context, 1)
        for cells, tolerance in ((512, 0), (1024, 0.02)):
            with Context(model, cells, 2, kv_type=kv, unified=unified) as context:
                assert state.read_tokens(context, path) == TEXT
                assert state.load(context, 0, path, 256) == TEXT
                assert context.length(0) == len(TEXT)
                np.testing.assert_allclose(rows(context), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("unified", [True, False], ids=["unified", "separate"])
def test_values_lie_otherwise_without_flash_attention(unified: bool, wide_model: Path, tmp_path: Path) -> None:
    """A state of such a context is restored into another, and refused, before llama.cpp sees it, by one with it."""
    path = tmp_path / "state"
    with Model(wide_model) as model:
        with Context(model, 512, 2, unified=unified, flash_attn="off") as context:
            assert state.save(filled(context, 1), 1, path, TEXT) == path.stat().st_size
            expected = rows(context, 1)
        with Context(model, 512, 2, unified=unified, flash_attn="off") as context:
            assert state.load(context, 0, path, 256) == TEXT
            np.testing.assert_array_equal(rows(context), expected)
        for flash, kv in (("auto", "f16"), ("on", "f16")):
            with Context(model, 512, 2, kv_type=kv, unified=unified, flash_attn=flash) as context:
                with pytest.raises(state.StateError, match="values in the layout of another --flash-attn"):
                    state.load(context, 0, path, 256)
                state.save(filled(context, 1), 1, path.with_name(flash), TEXT)
        with Context(model, 512, 2, unified=unified, flash_attn="off") as context:
            with pytest.raises(state.StateError, match="values in the layout of another --flash-attn"):
                state.load(context, 0, path.with_name("auto"), 256)
            assert context.length(0) == 0
        with Context(model, 512, 2, unified=unified, flash_attn="on") as context:
            assert state.load(context, 0, path.with_name("auto"), 256) == TEXT  # "auto" is "on" here


def test_saving_and_restoring_touch_no_other_sequence(wide_model: Path, tmp_path: Path) -> None:
    with Model(wide_model) as model, Context(model, 512, 3) as context:
        filled(context, 0, TEXT[:20])
        filled(context, 1)
        context.copy(1, 2, 40)
        state.save(context, 2, tmp_path / "two", TEXT[:40])
        context.truncate(2, 0)
        assert state.load(context, 2, tmp_path / "two", 256) == TEXT[:40]
        found = [rows(context, at) for at in range(3)]
        for at, tokens in enumerate((TEXT[:20], TEXT, TEXT[:40])):
            context.truncate(at, 0)
            filled(context, at, tokens)
            np.testing.assert_allclose(rows(context, at), found[at], atol=2e-2)


def test_memory_whose_cells_are_out_of_order_is_restored(wide_model: Path, tmp_path: Path) -> None:
    """After a shift, new tokens take the cells that became free."""
    left = [*TEXT[:10], *TEXT[30:]]
    with Model(wide_model) as model:
        with Context(model, 256) as context:
            filled(context)
            context.shift(0, 10, 20)
            with pytest.raises(StellarError, match="cells to move or copy first"):
                state.save(context, 0, tmp_path / "state", left)
            context.decode([Chunk(0, len(left), [9, 8, 7])])
            state.save(context, 0, tmp_path / "state", [*left, 9, 8, 7])
            expected = rows(context)
        cells = np.frombuffer((tmp_path / "state").read_bytes(), "=i4", 3 * 44, 12 + 4 * 44 + 8).reshape(-1, 3)
        assert sorted(cells[:, 0]) == list(range(44)) != list(cells[:, 0])
        with Context(model, 256) as context:
            assert state.load(context, 0, tmp_path / "state", 256) == [*left, 9, 8, 7]
            np.testing.assert_allclose(rows(context), expected, atol=0.02)
            context.truncate(0, 0)
            filled(context, 0, [*left, 9, 8, 7])  # what was forgotten had left its mark: this is not the same
            assert np.abs(rows(context) - expected).max() > 0.1


def test_what_follows_the_state_is_left_alone(saved: bytes, wide: Context, tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_bytes(saved + b"more" * 1000)
    assert state.load(wide, 0, path, 256) == TEXT
    restored = rows(wide)
    wide.truncate(0, 0)
    np.testing.assert_array_equal(rows(filled(wide)), restored)


def _put(offset: int, value: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data[:offset] + value + data[offset + len(value) :]


def _int(offset: int, value: int) -> Callable[[bytes], bytes]:
    return _put(offset, struct.pack("=q" if value >= 1 << 31 else "=i", value))


CELLS = HEAD + 8
LAYERS = CELLS + 12 * len(TEXT)
DAMAGE: list[tuple[Callable[[bytes], bytes], str]] = [
    (lambda data: b"", "truncated"),
    (lambda data: data[:7], "truncated"),
    (lambda data: data[:HEAD], "truncated"),
    (lambda data: data[: CELLS + 5], "truncated"),
    (lambda data: data[: LAYERS + 8], "truncated"),
    (lambda data: data[:-1], "truncated"),
    (_put(0, b"GGUF"), "another kind or version"),
    (_int(4, 2), "another kind or version"),
    (_int(8, 0), "0 tokens"),
    (_int(8, 257), "257 tokens for a context of 256"),
    (_int(8, -1), "4294967295 tokens"),
    (_int(8, len(TEXT) - 1), "separate memories"),
    (_int(12, -1), "tokens that the model lacks"),
    (_int(12, 480), "tokens that the model lacks"),
    (_int(HEAD, 2), "2 separate memories"),
    (_int(HEAD, 0), "0 separate memories"),
    (_int(HEAD + 4, 0), "no cells"),
    (_int(HEAD + 4, -1), "4294967295 cells for 61 tokens"),
    (_int(HEAD + 4, 60), "60 cells"),
    (_int(CELLS, -1), "cells out of place"),
    (_int(CELLS, 5), "cells out of place"),
    (_int(CELLS, 1 << 30), "cells out of place"),
    (_int(CELLS + 4, 0), "cells out of place"),
    (_int(CELLS + 4, -1), "cells out of place"),
    (_int(LAYERS, 7), "2 layers"),
    (_int(LAYERS, 1), "values in the layout of another --flash-attn"),
    (_int(LAYERS + 4, 0), "0 layers"),
    (_int(LAYERS + 4, -1), "4294967295 layers"),
    (_int(LAYERS + 8, 8), "a KV cache of type 8"),
    (_int(LAYERS + 12, 2), "KV cache of type|truncated"),
    (_int(LAYERS + 12, (1 << 62)), "truncated"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE, ids=range(len(DAMAGE)))
def test_a_damaged_file_is_refused(
    damage: Callable[[bytes], bytes], message: str, saved: bytes, wide: Context, tmp_path: Path
) -> None:
    path = tmp_path / "state"
    path.write_bytes(damage(saved))
    with pytest.raises(StellarError, match=message):
        state.load(wide, 0, path, 256)
    assert wide.length(0) == 0
    path.write_bytes(saved)
    assert state.load(wide, 0, path, 256) == TEXT


def test_states_of_other_shapes_are_refused(saved: bytes, wide_model: Path, spm_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_bytes(saved)
    with Model(spm_model) as other, Context(other, 256, flash_attn="on") as context:
        with pytest.raises(StellarError, match="llama.cpp cannot restore .* mismatched key row size"):
            state.load(context, 0, path, 256)
        assert context.length(0) == 0
    with Model(wide_model) as model:
        with Context(model, 256, kv_type="q8_0") as context, pytest.raises(StellarError, match="KV cache of type 1"):
            state.load(context, 0, path, 256)
        with Context(model, 512, 2, unified=False) as context, pytest.raises(StellarError, match="1 separate"):
            state.load(context, 0, path, 256)
        with Context(model, 256, 2) as context:
            filled(context, 1, [5] * 200)
            with pytest.raises(StellarError, match="llama.cpp cannot restore"):  # no room
                state.load(context, 0, path, 256)
            assert (context.length(0), context.length(1)) == (0, 200)
            with pytest.raises(StellarError, match="61 tokens, more than 60"):
                state.load(context, 0, path, 60)
            with pytest.raises(StellarError, match="sequence 1 is not empty"):
                state.load(context, 1, path, 256)
            with pytest.raises(StellarError, match="sequence 2 does not exist"):
                state.load(context, 2, path, 256)


def test_what_is_no_file_is_neither_read_nor_written(wide: Context, saved: bytes, tmp_path: Path) -> None:
    filled(wide)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "pipe", tmp_path / "folder", Path("/dev/full")):
        with pytest.raises(StellarError, match="is not a file"):
            state.read_tokens(wide, path)
        with pytest.raises(StellarError, match="it is no file"):
            state.save(wide, 0, path, TEXT)
    with pytest.raises(StellarError, match="not found"):
        state.read_tokens(wide, tmp_path / "none")
    with pytest.raises(StellarError, match="cannot write .*No such file"):
        state.save(wide, 0, tmp_path / "none" / "none", TEXT)
    with pytest.raises(StellarError, match="holds 61 tokens, not 60"):
        state.save(wide, 0, tmp_path / "state", TEXT[:-1])
    assert state.save(wide, 0, tmp_path / "state", TEXT) == len(saved)
    assert (tmp_path / "state").read_bytes() == saved


def test_the_memory_of_sliding_windows_is_left_alone(
    wide: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(wide)
    monkeypatch.setattr(wide._api, "llama_model_n_swa", lambda model: 1024)
    with pytest.raises(StellarError, match="sliding windows"):
        state.save(wide, 0, tmp_path / "state", TEXT)
    with pytest.raises(StellarError, match="sliding windows"):
        state.read_tokens(wide, tmp_path / "state")
    assert not (tmp_path / "state").exists()


BEGINNING = """
import random, resource, struct, sys
from pathlib import Path
import numpy as np
from stellar_local.errors import StellarError
from stellar_local.native import state
from stellar_local.native.context import Chunk, Context
from stellar_local.native.model import Model
TEXT = [1, *(3 + at * 37 % 400 for at in range(60))]
path = Path(sys.argv[2])
context = Context(Model(Path(sys.argv[1])), 256, flash_attn=sys.argv[3])

def answer(tokens):
    context.truncate(0, 0)
    context.decode([Chunk(0, 0, tokens, 1)])
    return context.logits[0].copy()
"""


def in_a_process(program: str, model: Path, path: Path, flash_attn: str = "on") -> str:
    """Run it apart: what aborts takes its process with it."""
    done = subprocess.run(
        [sys.executable, "-c", BEGINNING + program, str(model), str(path), flash_attn],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    return done.stdout


@pytest.mark.parametrize("flash_attn", ["on", "off"])
def test_no_damage_ends_the_process_or_spoils_later_answers(flash_attn: str, wide_model: Path, tmp_path: Path) -> None:
    """Bytes changed anywhere, most of them in the structure; a changed tensor alone is for a checksum to notice."""
    path = tmp_path / "state"
    with Model(wide_model) as model, Context(model, 256, flash_attn=flash_attn) as context:
        state.save(filled(context), 0, path, TEXT)
    told = in_a_process(
        """
draw, whole, refused = random.Random(1), path.read_bytes(), 0
expected = answer(TEXT[:30])
for number in range(400):
    data = bytearray(whole)
    for _ in range(draw.choice([1, 1, 3])):
        at = draw.randrange(len(data)) if number % 4 == 0 else draw.randrange(1200)
        data[at] = draw.choice([0, 255, data[at] ^ 1 << draw.randrange(8)])
    if number % 5 == 0:
        del data[draw.randrange(len(data)):]
    path.write_bytes(data)
    context.truncate(0, 0)
    try:
        state.load(context, 0, path, 256)
    except StellarError:
        refused += 1
        assert context.length(0) == 0
    assert np.array_equal(answer(TEXT[:30]), expected), number
print(refused)
""",
        wide_model,
        path,
        flash_attn,
    )
    assert 100 < int(told) < 400


def test_a_restore_that_fails_within_llama_cpp_leaves_no_trace(wide_model: Path, saved: bytes, tmp_path: Path) -> None:
    """llama.cpp issue 27052. The keys are not numbers; that the last tensors are not what they should be comes out
    when those are in the cells already.
    """
    path = tmp_path / "state"
    path.write_bytes(saved)
    in_a_process(
        """
whole, rows = path.read_bytes(), 61 * 64 * 2  # one layer's keys, float16
tensor = 4 + 8 + rows
first = len(whole) - 4 * tensor
nothing = b"\\xff\\x7f" * (rows // 2)
state.read_tokens = lambda context, path: TEXT
expected = answer(TEXT)
for layer in (1, 2, 3):  # the second layer's keys, the first's values, the second's
    for at in (0, 4):  # type, size of a row
        data = bytearray(whole)
        data[first + 12 : first + tensor] = nothing
        place = first + layer * tensor + at
        data[place] ^= 3
        path.write_bytes(data)
        context.truncate(0, 0)
        try:
            state.load(context, 0, path, 256)
            raise SystemExit(f"{layer}, {at}: restored")
        except StellarError as error:
            assert "llama.cpp cannot restore" in error.message and "mismatched" in error.message, error
        assert context.length(0) == 0
        assert np.array_equal(answer(TEXT), expected), (layer, at)
path.write_bytes(whole)
context.truncate(0, 0)
assert state.load(context, 0, path, 256) == TEXT
""",
        wide_model,
        path,
    )


def test_a_full_disk_is_an_error(wide_model: Path, saved: bytes, tmp_path: Path) -> None:
    """At every size, also where the last bytes are still buffered when llama.cpp closes the file."""
    told = in_a_process(
        f"""
expected = answer(TEXT)
for size in (0, 1, 100, 5000, {len(saved)} - 1, {len(saved)}):
    answer(TEXT)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        print(size, state.save(context, 0, path, TEXT))
    except StellarError as error:
        print(size, error.message.replace(str(path), "FILE"), "|", error.hint)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert np.array_equal(answer(TEXT), expected), size
""",
        wide_model,
        tmp_path / "state",
    )
    lines = told.splitlines()
    assert lines[-1] == f"{len(saved)} {len(saved)}"
    assert len(lines) == 6
    assert all("cannot write FILE" in line and line.endswith("| see that there is space") for line in lines[:-1])
    assert any("bytes are there" in line for line in lines)


@pytest.mark.real
@pytest.mark.parametrize("kv", KV_TYPES)
def test_the_real_model_goes_on_as_before(kv: str, real_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "state"
    with Model(real_model) as model:
        text = model.tokenize("The Moon orbits the Earth. 月亮绕着地球转。" * 8)
        with Context(model, 512, kv_type=kv) as context:
            filled(context, 0, text)
            state.save(context, 0, path, text)
            expected = rows(context)
        with Context(model, 512, kv_type=kv) as context:
            assert state.load(context, 0, path, 512) == text
            np.testing.assert_array_equal(rows(context), expected)
