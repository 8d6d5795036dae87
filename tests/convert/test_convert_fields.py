"""Fields of foreign JSON: what fits a GGUF is taken as it is, anything else is refused by the field's name."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest

from convert.fields import Fields, shown
from stellar_local.errors import ModelError

LONG = "9" * 400


def fields(text: str) -> Fields:
    return Fields(json.loads(f'{{"x": {text}}}'), "config.json", "look again")


@pytest.mark.parametrize("text", ["1", "32000", "4294967295"])
def test_whole_numbers_that_a_gguf_holds(text: str) -> None:
    found = fields(text).count("x")
    assert struct.unpack("<I", struct.pack("<I", found)) == (int(text),)
    assert fields(f'{{"a": {text}}}').counts("x") == {"a": int(text)}


@pytest.mark.parametrize("text", ["0", "-1", "4294967296", LONG, "1.0", "1e3", "true", '"1"', "[1]", "{}", "NaN"])
def test_whole_numbers_of_no_use(text: str) -> None:
    with pytest.raises(ModelError, match=r"^config\.json has no usable x: ") as caught:
        fields(text).count("x")
    assert caught.value.hint == "look again" and len(caught.value.message) < 120
    with pytest.raises(ModelError, match="no usable x"):
        fields(f'{{"a": {text}}}').counts("x")


@pytest.mark.parametrize("text", ["1", "1e-05", "10000.0", "3.4028234663852886e38", "1.1754943508222875e-38"])
def test_numbers_that_a_gguf_holds(text: str) -> None:
    found = fields(text).number("x")
    assert type(found) is float and found == float(text)
    assert 0 < np.float32(found) < np.inf
    assert fields(f'{{"a": {text}}}').numbers("x") == {"a": float(text)}


@pytest.mark.parametrize("text", ["0", "-1", LONG, "1e39", "1e999", "1e-300", "Infinity", "-Infinity", "NaN", "true"])
def test_numbers_of_no_use(text: str) -> None:
    with pytest.raises(ModelError, match="no usable x"):
        fields(text).number("x")
    with pytest.raises(ModelError, match="no usable x"):
        fields(f'{{"a": {text}}}').numbers("x")


def test_what_is_absent() -> None:
    empty = fields("null")
    assert (empty.count("x", 7), empty.number("x", 0.5)) == (7, 0.5)
    assert (empty.counts("x"), empty.numbers("x"), empty.names("x")) == ({}, {}, ())
    for read in (empty.count, empty.number):
        with pytest.raises(ModelError, match="no usable x: None"):
            read("x")
    with pytest.raises(ModelError, match="no usable x: 11"):
        fields("11").count("x", most=10)


def test_values_are_shown_in_one_short_line() -> None:
    assert shown("星\n") == r"'星\n'"
    assert shown(int(LONG)) == "9" * 79 + "…"
