"""The frozen split: a question's own hash says on which side it is, so that other rows never move it.

What a row asks is what its file names as `asks`, as `stellar data import` does of a question sheet: so a question comes
to one side in all its phrasings. Of other rows it is instruction and input. Both are compared in normal form.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from stellar_local.errors import UsageError

from .recipe import Recipe
from .rows import Row


@dataclass(frozen=True)
class Split:
    """The two sides, in the order of the rows; `cut` is where the hashes were parted, from 0 to 1."""

    train: list[Row]
    validation: list[Row]
    cut: float


def position(question: str, salt: str) -> float:
    """Where a normalised question stands between 0 and 1: the first 53 bits of the SHA-256 of `salt NUL question`."""
    digest = hashlib.sha256(f"{salt}\0{question}".encode("utf-8", "replace")).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def divide(rows: Sequence[Row], recipe: Recipe) -> Split:
    """Part rows into training and validation. All rows of one question come to the same side.

    With a share, everything below it is validation; with a number of rows, as many questions as that, lowest first.
    A source may be kept out of validation. Raises UsageError where training would get nothing.
    """
    positions = {row.question: position(row.question, recipe.split) for row in rows if row.source.validation}
    cut = recipe.share
    if recipe.rows:
        if recipe.rows >= len(positions):
            raise UsageError(
                f"[validation] rows = {recipe.rows} takes all {len(positions)} questions", "leave some for training"
            )
        cut = sorted(positions.values())[recipe.rows]
    train: list[Row] = []
    validation: list[Row] = []
    for row in rows:
        held_out = row.source.validation and positions[row.question] < cut
        (validation if held_out else train).append(row)
    if rows and not train:
        raise UsageError("validation takes every row", "lower share or rows in [validation]")
    return Split(train, sorted(validation, key=lambda row: positions[row.question]), cut)
