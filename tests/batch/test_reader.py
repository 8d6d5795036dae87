"""Input lines: every form, and every way to be wrong, on its own line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stellar_local.batch.fields import Defaults, Item
from stellar_local.batch.reader import Shard, Source, read_items
from stellar_local.config import SamplingOptions
from stellar_local.errors import RequestError
from stellar_local.prompts import Turn


def read(
    *lines: str | bytes | dict[str, Any],
    format: str = "auto",
    defaults: Defaults = Defaults(),  # noqa: B008
) -> list[Item]:
    raw = [json.dumps(line).encode() if isinstance(line, dict) else line for line in lines]
    data = [(line.encode() if isinstance(line, str) else line, 0) for line in raw]
    return list(read_items(data, format, defaults))


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


def test_null_is_as_if_a_field_were_not_there() -> None:
    (item,) = read({"prompt": "a", "max_tokens": None, "seed": None, "temperature": None, "lora": None})
    assert (item.error, item.sampling, item.extra) == (None, SamplingOptions(), {"lora": {}})


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
        ({"prompt": "a", "schema": 3}, "invalid_field", "schema must be"),
        ({"prompt": "a", "schema": "{}"}, "invalid_field", "schema must be"),
        ({"prompt": "a", "grammar": {}}, "invalid_field", "grammar must be"),
        ({"prompt": "a", "grammar": "root ::= 'a'", "schema": {}}, "invalid_field", "not both"),
        ({"prompt": "a", "lora": 3}, "invalid_field", "lora must be"),
        ({"prompt": "a", "lora": [3]}, "invalid_field", "lora must be"),
        ('{"prompt": "a", "temperature": NaN}', "invalid_field", "temperature must be"),
        ('{"prompt": "a", "max_tokens": 1e999}', "invalid_field", "max_tokens must be"),
        ('{"prompt": "a", "prompt": 3}', "invalid_field", "prompt must be"),
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


def test_structure_and_adapters_of_a_line() -> None:
    defaults = Defaults(schema={"type": "string"})
    lines: list[dict[str, Any]] = [
        {"prompt": "a"},
        {"prompt": "a", "schema": False},
        {"prompt": "a", "grammar": 'root ::= "x"'},
        {"prompt": "a", "schema": None, "lora": "moon"},
        {"prompt": "a", "lora": ["star", "moon"]},
        {"prompt": "a", "lora": {"star": 2}},
        {"prompt": "a", "lora": None},
    ]
    schema = {"schema": {"type": "string"}}
    assert [item.extra for item in read(*lines, defaults=defaults)] == [
        schema,
        {"schema": False},
        {"grammar": 'root ::= "x"'},
        {"lora": {"moon": None}},
        {**schema, "lora": {"star": None, "moon": None}},
        {**schema, "lora": {"star": 2}},
        {**schema, "lora": {}},
    ]
    assert read("plain", format="lines", defaults=defaults)[0].extra == schema
    for scale in ("true", '"1"'):
        (item,) = read('{"prompt": "a", "lora": {"star": ' + scale + "}}", defaults=defaults)
        assert item.error and item.error.message == "lora: the scale of star must be a number"


def test_the_format_is_as_told_or_by_the_first_line() -> None:
    assert read('{"prompt": "a"}', format="lines")[0].turns == (Turn('{"prompt": "a"}'),)
    assert read("plain", format="jsonl")[0].error
    first, second = read("", "plain", '{"prompt": "a"}')
    assert (first.turns, second.turns) == ((Turn("plain"),), (Turn('{"prompt": "a"}'),))


def test_the_format_of_a_file_is_by_its_extension(tmp_path: Path) -> None:
    for name in ("a.JSONL", "a.ndjson", "a.txt", "a.csv", "a.tsv", "a"):
        (tmp_path / name).write_text("prompt\n")
    items = {path.name: list(Source(path).items(Defaults())) for path in tmp_path.iterdir()}
    assert {name for name, found in items.items() if found and found[0].error} == {"a.JSONL", "a.ndjson"}
    assert {name for name, found in items.items() if not found} == {"a.csv", "a.tsv"}
    assert {name for name, found in items.items() if found and not found[0].error} == {"a.txt", "a"}


def test_shards_are_disjoint_and_whole(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("".join(f"{number}\n" for number in range(10)))
    shards = [list(Source(tmp_path / "in", shard=Shard(number, 3)).items(Defaults())) for number in (1, 2, 3)]
    assert [[item.index for item in items] for items in shards] == [[0, 3, 6, 9], [1, 4, 7], [2, 5, 8]]
    assert all(item.turns == (Turn(str(item.index)),) for items in shards for item in items)


def test_a_line_that_is_too_long_is_an_error_of_its_own() -> None:
    lines = [(b"a", 2), (None, 99), (b"b", 101)]
    items = list(read_items(lines, "auto", Defaults()))
    assert [(item.index, item.end) for item in items] == [(0, 2), (1, 99), (2, 101)]
    assert isinstance(items[1].error, RequestError)
    assert items[1].error.kind == "line_too_long"
