"""Weights published as differences from a base, as BayLing 1.0 and the first Vicunas are: target = base + difference.

Source: the apply_delta.py of FastChat and of BayLing, which add tensor by tensor, with the tokenizer and the
configuration of the difference. They add in float16; here the sum is float32 and rounded once, when a level is
written, so an F16 file has the very values of theirs. A difference with more rows than its base is refused: the
published scripts disagree on what the base's new rows are (zeros in one, the mean of the others in another).
Knows sums and how to tell a difference from a model; knows no files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stellar_local.errors import ModelError

from .llama import FINAL_NORM
from .safetensors import RowSource

# The mean size of the final norm's weights: 1 where training began and above it in every published LLaMA, while
# fine-tuning moves it by a hundredth or so. Names tell less: a model made from a difference often keeps its README.
_LEAST_NORM = 0.1


@dataclass(frozen=True)
class SummedTensor:
    """A difference and its base's tensor, read as their sum."""

    difference: RowSource
    base: RowSource

    @property
    def shape(self) -> tuple[int, ...]:
        """The dimensions, which both share."""
        return self.difference.shape

    @property
    def dtype(self) -> str:
        """The type in which the difference is stored, and so the one that its authors had in mind."""
        return self.difference.dtype

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows `start` to `stop` of the sum as float32. Raises ModelError, StellarError."""
        rows = self.difference.read(start, stop)
        rows += self.base.read(start, stop)
        return rows


def is_difference(tensors: Mapping[str, RowSource]) -> bool:
    """Whether these weights are a difference, told by the final norm; False where there is none."""
    norm = tensors.get(FINAL_NORM)
    if norm is None or len(norm.shape) != 1:
        return False
    values = np.abs(norm.read(0, norm.shape[0]))
    return bool(values.size) and bool(values.mean(dtype=np.float64) < _LEAST_NORM)


def check_whole(folder: Path, tensors: Mapping[str, RowSource]) -> None:
    """Raise ModelError if the weights are a difference, which no base was given for."""
    if is_difference(tensors):
        raise ModelError(
            f"{folder} holds the difference from a base, not a model: the weights of its final norm are near zero",
            "give the base that it was made from with --delta-base",
        )


def add_base(
    folder: Path, difference: Mapping[str, RowSource], base_folder: Path, base: Mapping[str, RowSource]
) -> dict[str, RowSource]:
    """The sums of all tensors. Raises ModelError if this is no difference, or not one from this base."""
    if not is_difference(difference):
        raise ModelError(
            f"{folder} is a whole model, not a difference from a base", "leave --delta-base out, or exchange the two"
        )
    for one, other, names in ((folder, base_folder, base), (base_folder, folder, difference)):
        mine = difference if one is folder else base
        if lacking := next((name for name in names if name not in mine), None):
            raise ModelError(
                f"{one} lacks the tensor {lacking}, which {other} holds", "give the base that it was made from"
            )
    for name, tensor in difference.items():
        if tensor.shape != base[name].shape:
            raise ModelError(
                f"{name} is {list(tensor.shape)} in {folder}, but {list(base[name].shape)} in {base_folder}",
                "give the base that it was made from, with the same vocabulary",
            )
    return {name: SummedTensor(tensor, base[name]) for name, tensor in difference.items()}
