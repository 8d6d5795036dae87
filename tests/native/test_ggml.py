"""ggml's quantizers through ctypes, against gguf's own NumPy versions of the exact ones."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import gguf
import numpy as np
import pytest
from conftest import ROOT

from stellar_local.errors import ModelError
from stellar_local.native import ggml
from stellar_local.native.ggml import GgmlType

ROWS = np.random.default_rng(0).standard_normal((6, 512)).astype(np.float32)
IMPORTANCE = np.random.default_rng(1).chisquare(1, 512).astype(np.float32)
# How far rows of variance 1 may be off, root mean square, where it is more than a third.
LOSS = {GgmlType.IQ2_S: 0.4, GgmlType.IQ2_XS: 0.4, GgmlType.IQ2_XXS: 0.45, GgmlType.IQ1_M: 0.6, GgmlType.IQ1_S: 0.65}


@pytest.mark.parametrize("kind", list(GgmlType))
def test_sizes_are_ggufs(kind: GgmlType) -> None:
    size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(int(kind))]
    assert (ggml.block_size(kind), ggml.type_size(kind)) == size
    assert ggml.row_size(kind, 512) == 512 // size[0] * size[1]


@pytest.mark.parametrize("kind", [GgmlType.F32, GgmlType.F16, GgmlType.BF16, GgmlType.Q8_0])
def test_exact_types_equal_gguf(kind: GgmlType) -> None:
    expected = gguf.quantize(ROWS, gguf.GGMLQuantizationType(int(kind)))
    assert ggml.quantize(kind, ROWS).tobytes() == expected.tobytes()


@pytest.mark.parametrize("kind", list(GgmlType))
def test_what_is_read_back_is_near(kind: GgmlType) -> None:
    same = np.ones(512, np.float32)
    back = gguf.dequantize(ggml.quantize(kind, ROWS, same), gguf.GGMLQuantizationType(int(kind)))
    assert np.sqrt(np.mean((back - ROWS) ** 2)) < LOSS.get(kind, 0.35)


@pytest.mark.parametrize("kind", sorted(set(GgmlType) - {GgmlType.F32, GgmlType.F16, GgmlType.BF16, GgmlType.Q8_0}))
def test_importance_lessens_the_error_that_counts(kind: GgmlType) -> None:
    def loss(importance: np.ndarray) -> float:
        back = gguf.dequantize(ggml.quantize(kind, ROWS, importance), gguf.GGMLQuantizationType(int(kind)))
        return float(np.mean(uneven * (back - ROWS) ** 2))

    uneven = np.where(np.arange(512) % 8 < 2, 4.0, 0.5).astype(np.float32)
    assert loss(uneven) < loss(np.ones(512, np.float32))


@pytest.mark.parametrize("kind", list(GgmlType))
def test_rows_are_independent(kind: GgmlType) -> None:
    whole = ggml.quantize(kind, ROWS, IMPORTANCE)
    pieces = [ggml.quantize(kind, ROWS[start : start + 1], IMPORTANCE) for start in range(len(ROWS))]
    assert np.concatenate(pieces).tobytes() == whole.tobytes()


def test_the_first_calls_may_come_from_many_threads() -> None:
    """In a fresh process, where no table is filled yet: the same bytes as from one thread."""
    kinds = [GgmlType.IQ3_XXS, GgmlType.IQ3_S, GgmlType.IQ2_XXS]
    code = (
        "import hashlib, sys, threading, numpy as np\n"
        "from stellar_local.native import ggml\n"
        "rows = np.random.default_rng(0).standard_normal((6, 512)).astype(np.float32)\n"
        "importance = np.random.default_rng(1).chisquare(1, 512).astype(np.float32)\n"
        "kinds, start, found = [ggml.GgmlType(int(n)) for n in sys.argv[1:]] * 4, threading.Barrier(12), set()\n"
        "def run(kind):\n"
        "    start.wait()\n"
        "    found.add((kind.name, hashlib.sha256(ggml.quantize(kind, rows, importance)).hexdigest()))\n"
        "threads = [threading.Thread(target=run, args=(kind,)) for kind in kinds]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\n"
        "print(*sorted(f'{name} {digest}' for name, digest in found), sep='\\n')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *(str(int(kind)) for kind in kinds)], cwd=ROOT, capture_output=True, text=True
    )
    expected = {f"{kind.name} {hashlib.sha256(ggml.quantize(kind, ROWS, IMPORTANCE)).hexdigest()}" for kind in kinds}
    assert (done.returncode, set(done.stdout.splitlines())) == (0, expected), done.stderr


@pytest.mark.parametrize("kind", list(GgmlType))
def test_types_that_need_importance(kind: GgmlType) -> None:
    """At least those on which ggml would abort, by its own word."""
    if ggml.base_library().ggml_quantize_requires_imatrix(int(kind)) & 1:
        assert kind in ggml.NEED_IMPORTANCE
    if kind in ggml.NEED_IMPORTANCE:
        with pytest.raises(ValueError, match=f"{kind.name} needs the importance"):
            ggml.quantize(kind, ROWS)
    else:
        assert len(ggml.quantize(kind, ROWS)) == len(ROWS)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -1.0])
def test_importance_that_is_none(value: float) -> None:
    importance = IMPORTANCE.copy()
    importance[300] = value
    with pytest.raises(ModelError, match="negative, infinite or NaN"):
        ggml.quantize(GgmlType.IQ2_XXS, ROWS, importance)


@pytest.mark.parametrize(
    "importance",
    [IMPORTANCE[:256], IMPORTANCE.astype(np.float64), np.tile(IMPORTANCE, 2)[::2], IMPORTANCE[None]],
    ids=["short", "float64", "strided", "matrix"],
)
def test_importance_that_ggml_cannot_take(importance: np.ndarray) -> None:
    with pytest.raises(ValueError, match="512"):
        ggml.quantize(GgmlType.Q4_K, ROWS, importance)


@pytest.mark.parametrize("kind", sorted(set(GgmlType) - {GgmlType.F32, GgmlType.F16, GgmlType.BF16}))
@pytest.mark.parametrize("power", [10, 17, 30])
def test_weights_that_no_block_holds(kind: GgmlType, power: int) -> None:
    """On some ggml would abort the process."""
    with pytest.raises(ModelError, match=f"beyond what {kind.name} can hold"):
        ggml.quantize(kind, ROWS * np.float32(10.0**power), IMPORTANCE)


@pytest.mark.parametrize("kind", sorted(ggml.NEED_IMPORTANCE))
def test_columns_that_never_count(kind: GgmlType) -> None:
    """Zeros, a whole block of them too, and values near the smallest are what real matrices hold."""
    for importance in (np.zeros(512), np.repeat([0.0, 1.0], 256), IMPORTANCE * (IMPORTANCE > 1), IMPORTANCE * 1e-38):
        assert len(ggml.quantize(kind, ROWS, importance.astype(np.float32))) == len(ROWS)


def test_unknown_types_have_no_size() -> None:
    assert [ggml.row_size(kind, 256) for kind in (-1, 4, 5, 43, 1000)] == [0] * 5
    assert ggml.row_size(GgmlType.Q4_K, 576) == 0


@pytest.mark.parametrize(
    "rows",
    [ROWS[0], ROWS.astype(np.float64), ROWS[:, ::2], ROWS[:, :250].copy()],
    ids=["vector", "float64", "strided", "half a block"],
)
def test_arrays_that_ggml_cannot_take(rows: np.ndarray) -> None:
    with pytest.raises(ValueError, match="rows"):
        ggml.quantize(GgmlType.Q4_K, rows)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers(value: float) -> None:
    rows = ROWS.copy()
    rows[3, 7] = value
    with pytest.raises(ModelError, match="NaN or infinite"):
        ggml.quantize(GgmlType.F32, rows)


def test_a_weight_beyond_half_precision() -> None:
    rows = ROWS.copy()
    rows[0, 0] = 1e5
    with pytest.raises(ModelError, match="F16"):
        ggml.quantize(GgmlType.F16, rows)
    rows[0, 0] = 65519.0  # rounds to the largest half
    assert np.isfinite(ggml.quantize(GgmlType.F16, rows).view(np.float16)).all()


def test_no_rows() -> None:
    assert ggml.quantize(GgmlType.Q8_0, ROWS[:0]).shape == (0, 544)
