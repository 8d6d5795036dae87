"""The sums behind an importance matrix: of each column of what weights are multiplied with, over all tokens.

As llama.cpp's llama-imatrix collects them (tools/imatrix/imatrix.cpp): for each product with a weight of a block, the
squares of the other factor, which is float32, by column, and how many rows there were; for the experts of a mixture,
of each expert apart. It adds in float32, we in float64. Knows tensors of a graph; knows no text and no file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stellar_local.errors import ModelError
from stellar_local.native.observe import F32, Node

FEWEST_ROWS = 16  # llama-imatrix leaves out what is computed for fewer tokens at once
_DENSE, _ROUTED = "MUL_MAT", "MUL_MAT_ID"
_OUTPUT = "output.weight"
_BLOCK = 64  # rows added up in float32, which is fast, before they are added to the rest in float64


@dataclass
class Sums:
    """Of one weight: `squares`, float64 [matrices, columns], and `counts`, int64 [matrices], or [1] for all of them."""

    squares: NDArray[np.float64]
    counts: NDArray[np.int64]


class Collector:
    """Adds up what a model's weights are multiplied with: an observer's two functions, and the sums by weight.

    `output` also takes the last matrix, which makes the vocabulary's logits. Call `begin` before each batch, and hand
    in the `sums` of an earlier run to go on with them.
    """

    def __init__(self, output: bool = False, sums: Mapping[str, Sums] | None = None) -> None:
        self.sums: dict[str, Sums] = dict(sums or {})
        self._output = output
        self._known: dict[int, NDArray[np.float64]] = {}  # of this batch, by the address of the other factor
        self._met: set[str] = set()  # the weights of this batch
        self._room = np.empty(0, np.uint8)  # for what comes from a GPU

    def begin(self) -> None:
        """A new batch: what was computed before is gone."""
        self._known.clear()
        self._met.clear()

    def wants(self, node: Node) -> bool:
        """Whether `take` must see a tensor when it is computed.

        Where several weights are multiplied with the same, as query, key and value are, only the first of them must:
        the others are done here, and llama.cpp need not stop again.
        """
        operation = node.operation
        if operation == _ROUTED:
            return True
        if operation != _DENSE:
            return False
        factor = node.source(1)
        if factor.shape[1] < FEWEST_ROWS or factor.type != F32:
            return False
        name = node.source(0).name
        if not (name.startswith("blk.") or (self._output and name == _OUTPUT)):
            return False
        if name in self._met:  # llama.cpp cut the batch in two: other values are at the same address
            self.begin()
        self._met.add(name)
        if factor.address not in self._known or math.prod(node.source(0).shape[2:]) > 1:
            return True
        self._add_dense(name, 1, self._known[factor.address], math.prod(factor.shape[1:]))
        return False

    def take(self, node: Node) -> None:
        """Add a product's other factor to its weight's sums. Raises ModelError for values that are no numbers."""
        weight, factor = node.source(0), node.source(1)
        if self._room.nbytes < factor.span:
            self._room = np.empty(factor.span, np.uint8)
        values = factor.read(self._room)
        if node.operation == _ROUTED:
            self._add_routed(weight, values, node.source(2).read())
            return
        matrices = math.prod(weight.shape[2:])
        rows = math.prod(factor.shape[1:]) // matrices
        if matrices == 1:
            squares = self._known[factor.address] = squares_of(values.reshape(-1, values.shape[-1]))
        else:  # parts of the factor go to the matrices in turn
            squares = np.zeros((matrices, values.shape[-1]))
            for (outer, inner), part in zip(
                np.ndindex(*values.shape[:2]), values.reshape(-1, *values.shape[2:]), strict=True
            ):
                squares[outer % weight.shape[3] * weight.shape[2] + inner % weight.shape[2]] += squares_of(part)
        self._add_dense(weight.name, matrices, squares, rows)

    def _add_dense(self, name: str, matrices: int, squares: NDArray[np.float64], rows: int) -> None:
        sums = self._sums(name, matrices, squares.shape[-1], 1)
        sums.squares += squares
        sums.counts += rows
        _check(name, sums)

    def _add_routed(self, weight: Node, values: NDArray[np.float32], experts: NDArray[np.int32]) -> None:
        """`values` [1, tokens, experts a token or 1, columns], `experts` [1, 1, tokens, experts a token]."""
        chosen, values = experts[0, 0], values[0]
        if chosen.min() < 0 or chosen.max() >= weight.shape[2]:
            raise ModelError(f"{weight.name}: llama.cpp chose an expert that does not exist", "the file is damaged")
        sums = self._sums(weight.name, weight.shape[2], values.shape[-1], weight.shape[2])
        for expert in np.unique(chosen):
            token, place = np.nonzero(chosen == expert)
            sums.squares[expert] += squares_of(values[token, place % values.shape[1]])
            sums.counts[expert] += len(token)
        _check(weight.name, sums)

    def _sums(self, name: str, matrices: int, columns: int, counts: int) -> Sums:
        """A weight's sums, which begin at nothing. Raises ModelError where they are of another shape."""
        sums = self.sums.get(name)
        if sums is None:
            sums = self.sums[name] = Sums(np.zeros((matrices, columns)), np.zeros(counts, np.int64))
        if sums.squares.shape != (matrices, columns) or len(sums.counts) < counts:
            raise ModelError(f"{name} is used in two ways, which an importance matrix cannot hold")
        return sums


def squares_of(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """The sum of squares of each column, float64 [columns], of float32 [rows, columns]."""
    total = np.zeros(rows.shape[1])
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        total += np.einsum("ij,ij->j", block, block)
    return total


def _check(name: str, sums: Sums) -> None:
    if not np.isfinite(sums.squares).all():
        raise ModelError(
            f"{name} is multiplied with NaN or infinite values",
            "the model's weights are damaged, or too large for half precision: convert again, at F32 or BF16",
        )
