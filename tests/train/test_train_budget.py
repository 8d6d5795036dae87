"""Sizes as people write them, and what --memory allows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stellar_local.errors import UsageError
from train.budget import MARGIN, budget, parse_memory
from train.memory import CUDA_CONTEXT, GIB, PROGRAM


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8GiB", 8 << 30),
        ("8G", 8 << 30),
        ("12gib", 12 << 30),
        (" 7.5 GiB ", 15 << 29),
        ("8000MiB", 8000 << 20),
        ("512m", 512 << 20),
        ("8GB", 8_000_000_000),
        ("800 MB", 800_000_000),
        ("1T", 1 << 40),
        ("auto", None),
        ("AUTO", None),
    ],
)
def test_sizes(text: str, size: int | None) -> None:
    assert parse_memory(text) == size


@pytest.mark.parametrize(
    "text", ["", "8", "GiB", "-8GiB", "8 GiBs", "1e3G", "8,5G", "nan G", "八G", "9" * 400 + "G", "all"]
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="not a size of memory") as caught:
        parse_memory(text)
    assert "--memory 8GiB" in caught.value.hint


@pytest.mark.parametrize("text", ["0G", "0.0MiB", "0.000000001k"])
def test_nothing_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="greater than 0"):
        parse_memory(text)


@given(st.text(max_size=12))
def test_any_text_gives_a_size_or_one_sentence(text: str) -> None:
    try:
        size = parse_memory(text)
    except UsageError as error:
        assert "\n" not in error.message
    else:
        assert size is None or size > 0


def test_auto_leaves_a_margin_and_counts_what_the_process_has_already() -> None:
    assert budget("auto", 10 * GIB, "cuda") == int(10 * GIB * (1 - MARGIN["cuda"])) + CUDA_CONTEXT
    assert budget("auto", 10 * GIB, "cpu") == int(10 * GIB * (1 - MARGIN["cpu"])) + PROGRAM


def test_a_size_is_all_that_may_be_used_but_no_more_than_is_there() -> None:
    assert budget("8GiB", 70 * GIB, "cuda") == 8 * GIB
    assert budget("8GiB", 7 * GIB, "cuda") == 7 * GIB + CUDA_CONTEXT
    assert budget("8GiB", 0, "cuda") == 8 * GIB


def test_a_system_that_does_not_say() -> None:
    with pytest.raises(UsageError, match="does not say how much memory is free") as caught:
        budget("auto", 0, "cpu")
    assert "--memory 8GiB" in caught.value.hint
