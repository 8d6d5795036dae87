"""CSV and TSV: rows as Python's csv reads them, the prompt template, and every way for a row to be wrong."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stellar_local.batch.fields import Defaults, Item
from stellar_local.batch.reader import read_items
from stellar_local.batch.table import PromptTemplate
from stellar_local.config import SamplingOptions
from stellar_local.errors import RequestError, UsageError
from stellar_local.prompts import Turn


def read(text: str | bytes, template: str | None = None, format: str = "csv") -> list[Item]:
    data = text.encode() if isinstance(text, str) else text
    lines = [(line, end) for end, line in enumerate(data.split(b"\n"))]
    return list(read_items(lines, format, Defaults(), PromptTemplate(template) if template is not None else None))


def prompts(items: list[Item]) -> list[str | None]:
    """Each item's prompt, None for an error."""
    return [None if item.error else item.turns[0].instruction for item in items]


def test_columns_named_like_fields_act_as_those() -> None:
    (first, second, third) = read(
        'id,prompt,system,temperature,max_tokens,remark\na,"What, is\nthis?",S,0.5,3,x\n,你好,,,,\n7,third,,,many,\n'
    )
    assert first == Item(0, "a", (Turn("What, is\nthis?"),), "S", SamplingOptions(temperature=0.5, max_tokens=3))
    assert second == Item(1, 1, (Turn("你好"),))
    assert third.id == "7"
    assert third.error and "max_tokens must be" in third.error.message


def test_instruction_with_input_and_a_schema() -> None:
    (item, wrong) = read('instruction,input,schema\nSum up,text,"{""type"": ""string""}"\nb,,{\n')
    assert item.turns == (Turn("Sum up", input="text"),)
    assert item.extra == {"schema": {"type": "string"}}
    assert wrong.error and "schema is not JSON" in wrong.error.message


def test_template_inserts_values_once() -> None:
    items = read("lang,text\nChinese,{lang} {{x}}\n中文,a\n", "Into {lang}: {text} {{as is}}")
    assert prompts(items) == ["Into Chinese: {lang} {{x}} {as is}", "Into 中文: a {as is}"]


def test_a_template_takes_the_place_of_the_content_columns_alone() -> None:
    (item,) = read("id,prompt,input,seed\nx,p,i,4\n", "{prompt}/{input}")
    assert item == Item(0, "x", (Turn("p/i"),), sampling=SamplingOptions(seed=4))


def test_a_column_of_the_prompt_is_text_though_an_option_has_its_name() -> None:
    one, two = read("id,temperature,top_k\nx,9602,3\ny,0.5,4\n", "{id}: {temperature} K")
    assert (one.id, one.turns, one.sampling) == ("x", (Turn("x: 9602 K"),), SamplingOptions(top_k=3))
    assert two.sampling == SamplingOptions(top_k=4)


@pytest.mark.parametrize("template", ["{", "a } b", "{a{b}", "}}}"])
def test_a_brace_alone_is_refused(template: str) -> None:
    with pytest.raises(UsageError, match="stands alone"):
        PromptTemplate(template)


@pytest.mark.parametrize(
    ("text", "template", "message", "hint"),
    [
        ("a,b\n1,2\n", "{c}", "names no column: c", "the columns are a, b"),
        ("a,b\n1,2\n", None, "no column named prompt or instruction", "(a, b)"),
        ("prompt,prompt\n1,2\n", None, "two columns of the same name", "rename"),
        ('"prompt\n', None, "header cannot be read", "--input-format"),
    ],
)
def test_a_wrong_header_is_a_usage_error(text: str, template: str | None, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as raised:
        read(text, template)
    assert message in raised.value.message
    assert hint in raised.value.hint


def test_no_input_and_a_header_alone() -> None:
    assert read("") == []
    assert read("\n\nprompt\n") == []


def test_byte_order_mark_and_crlf() -> None:
    assert prompts(read(b'\xef\xbb\xbf"prompt","x, y"\r\none,2\r\n"two\r\nlines",3\r\n')) == ["one", "two\r\nlines"]


def test_wrong_rows_are_errors_and_the_rest_goes_on() -> None:
    items = read(b"prompt,b\nfirst,1\nonly\na,b,c\n\xff,1\n,1\n\nlast,1\n")
    assert [(item.index, item.error.kind if isinstance(item.error, RequestError) else None) for item in items] == [
        (0, None),
        (1, "invalid_row"),
        (2, "invalid_row"),
        (3, "invalid_utf8"),
        (4, "empty_prompt"),
        (5, None),
    ]
    assert items[2].error and items[2].error.message == "the row has 3 fields, the header 2"


def test_a_quote_that_is_not_closed_costs_its_own_row_only() -> None:
    items = read('prompt,b\nfirst,1\n"open,1\nsecond,2\nthird,3\n')
    assert prompts(items) == ["first", None, "second", "third"]
    assert items[1].error and items[1].error.message == "a quoted field never ends, or not within 2,000 lines"


def test_a_quote_that_another_one_closes_is_told() -> None:
    items = read('prompt,b\n"open,1\nswallowed,2\n"third",3\nfourth,4\n')
    assert prompts(items) == [None, "fourth"]
    assert items[0].error and "spans 3 lines: is a quote missing?" in items[0].error.message


def test_a_quoted_field_without_end_takes_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stellar_local.batch.table.LONGEST", 10_000)
    drawn = 0

    def lines() -> object:
        nonlocal drawn
        yield b"prompt", 0
        yield b'"open', 0
        for number in range(100_000):
            drawn += 1
            yield b"row %d" % number, 0

    items = read_items(lines(), "csv", Defaults())  # type: ignore[arg-type]
    assert next(items).error
    assert drawn < 200
    assert [next(items).turns[0].instruction for _ in range(3)] == ["row 0", "row 1", "row 2"]


def test_a_long_line_within_a_table() -> None:
    lines = [(b"prompt", 7), (b"a", 9), (None, 50), (b"b", 52)]
    items = list(read_items(lines, "csv", Defaults()))
    assert prompts(items) == ["a", None, "b"]
    assert isinstance(items[1].error, RequestError) and items[1].error.kind == "line_too_long"


def test_tabs() -> None:
    assert prompts(read('prompt\tid\na, b\t1\n"c\td"\t2\n', format="tsv")) == ["a, b", "c\td"]


CELLS = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\r\0"))


@given(st.lists(st.lists(CELLS, min_size=2, max_size=2), max_size=8))
def test_what_python_writes_is_read_back(rows: list[list[str]]) -> None:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerows([["a", "b"], *rows])
    assert prompts(read(out.getvalue(), "{a}|{b}.")) == [f"{a}|{b}." for a, b in rows]


@given(st.binary())
def test_no_bytes_make_it_fail(data: bytes) -> None:
    items = read(b"prompt,b\n" + data)
    assert [item.index for item in items] == list(range(len(items)))
