"""ggml's quantizers, called by ctypes: what llama.cpp itself uses to write each level, on rows of float32.

Knows ggml's types, their block sizes, on which values ggml aborts the process, and how to find the library; knows no
file format and no model. Loads only ggml's base library, not llama.cpp: converting needs no model code.
"""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from enum import IntEnum
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError, StellarError

_TYPE_COUNT = 43  # GGML_TYPE_COUNT in ggml.h of the pinned release: ggml does not check the range itself


class GgmlType(IntEnum):
    """The tensor types that we write, by ggml's own numbers (enum ggml_type in ggml.h)."""

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q4_1 = 3
    Q5_0 = 6
    Q5_1 = 7
    Q8_0 = 8
    Q2_K = 10
    Q3_K = 11
    Q4_K = 12
    Q5_K = 13
    Q6_K = 14
    IQ2_XXS = 16
    IQ2_XS = 17
    IQ3_XXS = 18
    IQ1_S = 19
    IQ4_NL = 20
    IQ3_S = 21
    IQ2_S = 22
    IQ4_XS = 23
    IQ1_M = 29
    BF16 = 30


# Without an importance ggml aborts on some of these (ggml_quantize_requires_imatrix) and makes garbage of the others,
# which llama.cpp refuses (tensor_requires_imatrix in src/llama-quant.cpp).
NEED_IMPORTANCE = frozenset(
    {GgmlType.IQ3_XXS, GgmlType.IQ2_XXS, GgmlType.IQ2_XS, GgmlType.IQ2_S, GgmlType.IQ1_S, GgmlType.IQ1_M}
)
# The quantizers sum cubes of weights, times importance, in float32. Where that overflows, those that look for the
# nearest point of a grid (IQ1 to IQ3) abort, and others write zeros; no type can hold such weights. Four digits are
# left for the sums over a block and its largest steps.
_LARGEST_CUBE = float(np.finfo(np.float32).max) / 1e4


def library_folder() -> Path:
    """Where llama-cpp-python keeps its native libraries, found without importing it. Raises StellarError."""
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        raise StellarError("llama-cpp-python is not installed", "pip install llama-cpp-python")
    return Path(spec.origin).parent / "lib"


@lru_cache(maxsize=1)
def base_library() -> ctypes.CDLL:
    """The loaded ggml base library with its functions typed. Raises StellarError."""
    folder = library_folder()
    names = {
        "win32": ["ggml-base.dll", "libggml-base.dll"],
        "darwin": ["libggml-base.0.dylib", "libggml-base.dylib", "libggml-base.so"],
        # The name that libllama asks for comes first: one file loaded once, not a copy of it beside it.
    }.get(sys.platform, ["libggml-base.so.0", "libggml-base.so"])
    hint = "reinstall it: pip install --force-reinstall --no-cache-dir llama-cpp-python"
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None:
        raise StellarError(f"llama-cpp-python is incomplete: no {names[-1]} in {folder}", hint)
    try:
        library = ctypes.CDLL(str(found))
        signatures = {
            "ggml_blck_size": (ctypes.c_int64, [ctypes.c_int]),
            "ggml_type_size": (ctypes.c_size_t, [ctypes.c_int]),
            "ggml_quantize_chunk": (
                ctypes.c_size_t,
                [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p],
            ),
            "ggml_validate_row_data": (ctypes.c_bool, [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]),
        }
        for name, (result, arguments) in signatures.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise StellarError(f"ggml's library cannot be loaded: {error}", hint) from error
    return library


def block_size(type: int) -> int:
    """How many weights of a row share one block (1 for plain types); 0 for a type ggml does not know."""
    return int(base_library().ggml_blck_size(type)) if 0 <= type < _TYPE_COUNT else 0


def type_size(type: int) -> int:
    """The bytes of one block; 0 for a type ggml does not know."""
    return int(base_library().ggml_type_size(type)) if 0 <= type < _TYPE_COUNT else 0


def row_size(type: int, columns: int) -> int:
    """The bytes of a row of `columns` weights; 0 for an unknown type or a row that is no whole number of blocks."""
    block = block_size(type)
    return columns // block * type_size(type) if block and columns % block == 0 else 0


def quantize(
    type: GgmlType, rows: NDArray[np.float32], importance: NDArray[np.float32] | None = None
) -> NDArray[np.uint8]:
    """Quantize `rows`, float32 [n, columns], to uint8 [n, row bytes], as llama.cpp's quantizer does.

    `importance`, float32 [columns], says how much an error in each column costs: the mean square of what the column is
    multiplied with. The types in NEED_IMPORTANCE cannot do without; F32, F16, BF16 and Q8_0 do not look at it.

    Rows are independent, so any cut into blocks gives the same bytes. Callable from many threads: the GIL is free
    meanwhile, and ggml fills the tables of a type once, at its first call (seconds for IQ2 and IQ1; other calls wait).

    Raises ValueError for an array or a row length that ggml cannot take and for an importance that is needed and not
    given; ModelError for values that the type cannot hold and for an importance that is negative or not finite.
    """
    if rows.ndim != 2 or rows.dtype != np.float32 or not rows.flags.c_contiguous:
        raise ValueError(f"quantize takes contiguous float32 rows, not {rows.dtype} {rows.shape}")
    size = row_size(type, rows.shape[1])
    if not size:
        raise ValueError(f"{type.name} does not fit rows of {rows.shape[1]}")
    scale = _checked(importance, rows.shape[1])
    if importance is None and type in NEED_IMPORTANCE:
        raise ValueError(f"{type.name} needs the importance of each column")
    largest = float(np.maximum(rows.max(initial=0.0), -rows.min(initial=0.0)))
    if not np.isfinite(largest):  # ggml would print its own complaint, or abort
        raise ModelError("the weights hold NaN or infinite values", "the checkpoint or the adapter is damaged")
    if type is GgmlType.F16 and largest >= 65520.0:  # what rounds beyond float16's largest, 65504
        raise ModelError(f"a weight of {largest:g} is beyond what F16 can hold", "choose BF16 or F32")
    if block_size(type) > 1 and max(scale, 1.0) * largest**3 > _LARGEST_CUBE:
        raise ModelError(f"the weights are beyond what {type.name} can hold", "choose BF16 or F32")
    out = np.empty((rows.shape[0], size), np.uint8)
    library = base_library()
    if rows.size:
        library.ggml_quantize_chunk(
            type,
            rows.ctypes.data,
            out.ctypes.data,
            0,
            rows.shape[0],
            rows.shape[1],
            None if importance is None else importance.ctypes.data,
        )
        if not library.ggml_validate_row_data(type, out.ctypes.data, out.nbytes):
            raise ModelError(f"the weights are beyond what {type.name} can hold", "choose BF16 or F32")
    return out


def _checked(importance: NDArray[np.float32] | None, columns: int) -> float:
    """The largest value of a usable importance, 0 without one. Raises ValueError and ModelError as `quantize` does."""
    if importance is None:
        return 0.0
    if importance.shape != (columns,) or importance.dtype != np.float32 or not importance.flags.c_contiguous:
        raise ValueError(f"rows of {columns} need as many float32, not {importance.dtype} {importance.shape}")
    lowest, highest = float(importance.min()), float(importance.max())
    if not 0.0 <= lowest <= highest < np.inf:  # false for NaN too
        raise ModelError(
            "the importance matrix holds negative, infinite or NaN values", "make it again, or download it again"
        )
    return highest
