"""Input lines: every form, and every way to be wrong, on its own line."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stellar_local.batch.reader import Item, read_items
from stellar_local.config import SamplingOptions
from stellar_local.errors import RequestError
from stellar_local.prompts import Turn


def read(*lines: str | bytes | dict[str, Any]) -> list[Item]:
    raw = [json.dumps(line).encode() if isinstance(line, dict) else line for line in lines]
    return list(read_items([line.encode() if isinstance(line, str) else line for line in raw], SamplingOptions()))


def test_plain_lines() -> None:
    items = read("What?\n", "\n", "你好\r\n", '{"not": json in a plain file\n')
    assert [(item.index, item.id, item.turns[0].instruction) for item in items] == [
        (0, 0, "What?"),
        (2, 2, "你好"),
        (3, 3, '{"not": json in a plain file'),
    ]


def test_forms_of_a_json_line() -> None:
    items = read(
        {"prompt": "a", "id": "x", "temperature": 0, "max_tokens": 3, "stop": "END", "system": "S"},
        {"instruction": "b", "input": "c", "seed": 4, "stop": ["1", "2"]},
        {"messages": [{"role": "system", "content": "T"}, {"role": "user", "content": "d"}]},
        {
            "messages": [
                {"role": "user", "content": "e"},
                {"role": "assistant", "content": "f"},
                {"role": "user", "content": "g"},
            ]
        },
    )
    assert [item.error for item in items] == [None] * 4
    assert items[0] == Item(0, "x", (Turn("a"),), "S", SamplingOptions(temperature=0, max_tokens=3, stop=("END",)))
    assert items[1].turns == (Turn("b", input="c"),)
    assert items[1].sampling == SamplingOptions(seed=4, stop=("1", "2"))
    assert (items[2].system, items[2].turns) == ("T", (Turn("d"),))
    assert items[3].turns == (Turn("e", "f"), Turn("g"))


USER = {"role": "user", "content": "x"}


@pytest.mark.parametrize(
    ("line", "kind", "message"),
    [
        ('{"prompt": ', "invalid_json", "not JSON"),
        ("[" * 100_000, "invalid_json", "not JSON"),
        ('{"seed": ' + "1" * 5000 + "}", "invalid_json", "too long"),
        ("[1]", "invalid_json", "not a JSON object"),
        (b'{"prompt": "\xff"}', "invalid_utf8", "not UTF-8 (byte 12)"),
        ({"prompt": "a", "promt": 1}, "unknown_field", "unknown field: promt"),
        ({"id": 1}, "invalid_field", "exactly one of"),
        ({"prompt": "a", "instruction": "b"}, "invalid_field", "exactly one of"),
        ({"prompt": "a", "input": "b"}, "invalid_field", "input goes with instruction"),
        ({"prompt": 3}, "invalid_field", "prompt must be a text"),
        ({"prompt": ""}, "empty_prompt", "the prompt is empty"),
        ({"prompt": "a", "id": [1]}, "invalid_field", "id must be"),
        ({"prompt": "a", "id": True}, "invalid_field", "id must be"),
        ({"prompt": "a", "system": 1}, "invalid_field", "system must be a text"),
        ({"prompt": "a", "temperature": "hot"}, "invalid_field", "temperature must be a number"),
        ({"prompt": "a", "temperature": -1}, "invalid_field", "temperature must be"),
        ({"prompt": "a", "max_tokens": 0}, "invalid_field", "max_tokens must be"),
        ({"prompt": "a", "stop": [1]}, "invalid_field", "stop must be a text"),
        ({"messages": []}, "invalid_field", "must alternate"),
        ({"messages": "x"}, "invalid_field", "must be a list"),
        ({"messages": [USER, USER]}, "invalid_field", "must alternate"),
        ({"messages": [USER, {"role": "assistant", "content": "x"}]}, "invalid_field", "end with the user's"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "invalid_field", "must alternate"),
        ({"messages": [{"role": "user"}]}, "invalid_field", "content must be a text"),
        ({"messages": [{"role": "user", "content": ""}]}, "empty_prompt", "empty"),
        ({"system": "a", "messages": [{"role": "system", "content": "b"}, USER]}, "invalid_field", "given twice"),
    ],
)
def test_a_wrong_line_is_an_error_and_the_rest_goes_on(
    line: str | bytes | dict[str, Any], kind: str, message: str
) -> None:
    first, wrong, last = read({"prompt": "first"}, line, {"prompt": "last"})
    assert (first.error, last.error, last.index) == (None, None, 2)
    assert isinstance(wrong.error, RequestError)
    assert wrong.error.kind == kind
    assert message in wrong.error.message


def test_an_error_keeps_the_id_where_it_can_be_read() -> None:
    assert read({"prompt": 1, "id": "mine"})[0].id == "mine"


def test_byte_order_mark() -> None:
    assert read(b'\xef\xbb\xbf{"prompt": "a"}')[0].turns == (Turn("a"),)


@given(st.lists(st.binary()))
def test_no_input_makes_it_fail(lines: list[bytes]) -> None:
    items = read(b'{"prompt": "x"}', *lines)
    assert [item.index for item in items] == [0, *(at for at, line in enumerate(lines, 1) if line.strip())]
