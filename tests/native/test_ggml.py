"""ggml's quantizers through ctypes, against gguf's own NumPy versions of the exact ones."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from stellar_local.errors import ModelError
from stellar_local.native import ggml
from stellar_local.native.ggml import GgmlType

ROWS = np.random.default_rng(0).standard_normal((6, 512)).astype(np.float32)


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
    back = gguf.dequantize(ggml.quantize(kind, ROWS), gguf.GGMLQuantizationType(int(kind)))
    assert np.sqrt(np.mean((back - ROWS) ** 2)) < 0.35


def test_rows_are_independent() -> None:
    whole = ggml.quantize(GgmlType.Q4_K, ROWS)
    pieces = [ggml.quantize(GgmlType.Q4_K, ROWS[start : start + 1]) for start in range(len(ROWS))]
    assert np.concatenate(pieces).tobytes() == whole.tobytes()


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
