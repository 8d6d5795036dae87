"""Documents under a schema are valid by jsonschema's judgement, and end within the limit; what cannot be is refused."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from stellar_local.config import SamplingOptions
from stellar_local.engine.schema import judge_of
from stellar_local.engine.structure import Constraint, Grammar, Structures
from stellar_local.errors import RequestError
from stellar_local.native.context import Chunk, Context
from stellar_local.native.model import Model
from stellar_local.native.sampler import Sampler

STAR: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "why": {"type": "string"},
        "where": {"type": "string"},
        "kind": {"enum": ["star", "galaxy", "黑洞"]},
        "count": {"type": "integer"},
        "sizes": {"type": "array", "items": {"type": "number"}},
        "note": {"type": "string"},
    },
    "required": ["name", "why", "where", "kind", "count", "sizes"],
    "additionalProperties": False,
}
SCHEMAS: list[Any] = [
    STAR,
    {},
    True,
    {"type": "string"},
    {"type": ["integer", "null"]},
    {"enum": ["a", 1, None, {"x": [1, 2]}, '"q\\', "中文", "é\n"]},
    {"const": {"b": 1, "a": 2}},
    {"type": "string", "minLength": 5, "maxLength": 9},
    {"type": "string", "minLength": 60},
    {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}$"},
    {"type": "string", "pattern": "^[A-Z][a-z]+ [A-Z][a-z]+$"},
    {"type": "string", "format": "date"},
    {"type": "string", "format": "email"},
    {"type": "integer", "minimum": 100, "maximum": 105},
    {"type": "integer", "exclusiveMinimum": 100000},
    {"type": "integer", "multipleOf": 7},
    {"type": "number", "minimum": -1.5, "maximum": 2.25},
    {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 4},
    {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "boolean"}], "items": False, "minItems": 2},
    {"type": "object", "properties": {"a/b": {"type": "integer"}, "é": {"type": "null"}, "x\ny": {"type": "integer"}}},
    {"type": "object", "properties": {"a": {}}, "required": ["a", "z"], "additionalProperties": {"type": "boolean"}},
    {"patternProperties": {"^x": {"type": "integer"}}, "additionalProperties": False},
    {"type": "object", "maxProperties": 2},
    {"type": "object", "minProperties": 1, "properties": {"a": {}}, "required": ["a"]},
    {"allOf": [{"properties": {"a": {"type": "integer"}}, "required": ["a"]}, {"type": "object", "required": ["b"]}]},
    {"anyOf": [{"type": "string", "maxLength": 2}, {"type": "object", "required": ["a"]}]},
    {
        "$defs": {
            "node": {
                "type": "object",
                "properties": {"v": {"type": "string"}, "c": {"type": "array", "items": {"$ref": "#/$defs/node"}}},
                "required": ["v", "c"],
                "additionalProperties": False,
            }
        },
        "$ref": "#/$defs/node",
    },
]


@pytest.fixture(scope="module")
def bytes_model(bpe_model: Path) -> Iterator[Model]:
    with Model(bpe_model) as model:
        yield model


@pytest.fixture(scope="module")
def structures(model: Model) -> Structures:
    return Structures(model)


def write(model: Model, grammar: Grammar, limit: int, seed: int, spread: float = 1.0) -> tuple[str, bool]:
    """A text of random tokens under a grammar, and whether it is whole."""
    random, constraint, tokens = np.random.default_rng(seed), grammar.start(limit), list[int]()
    while len(tokens) < limit and not constraint.stopped:
        row = (random.gumbel(size=model.n_vocab) * spread).astype(np.float32)
        before = row.copy()
        token = int(constraint.masked(row).argmax())
        assert (row == before).all()
        if model.is_eog(token):
            break
        assert not model.is_special(token)
        constraint.accept(token)
        tokens.append(token)
    return b"".join(map(model.piece, tokens)).decode(), constraint.complete


def shortest(model: Model, grammar: Grammar) -> int:
    """The fewest tokens at which a text of the grammar comes out whole, by trying."""
    return next(limit for limit in range(1, 300) if write(model, grammar, limit, 0)[1])


@pytest.mark.parametrize("number", range(len(SCHEMAS)))
def test_documents_are_valid_and_end_in_time(number: int, structures: Structures, model: Model) -> None:
    schema = SCHEMAS[number]
    grammar = structures.schema(schema)
    assert grammar.document
    judge = jsonschema.Draft202012Validator(schema)
    least = shortest(model, grammar)
    for limit in (least, 3 * least, 200):
        for seed in range(6):
            text, complete = write(model, grammar, limit, seed)
            assert complete, (limit, text)
            judge.validate(json.loads(text))


@pytest.mark.parametrize("kind", ["model", "bytes_model"])
def test_many_documents_at_a_tight_limit(kind: str, request: pytest.FixtureRequest) -> None:
    """Three strings without end, an enum, an integer and an array: all valid at 3 times the shortest document."""
    model = request.getfixturevalue(kind)
    grammar = Structures(model).schema(STAR)
    least = shortest(model, grammar)
    texts = [write(model, grammar, 3 * least, seed, spread) for seed in range(25) for spread in (0.5, 4.0)]
    for text, complete in texts:
        assert complete, text
        jsonschema.validate(json.loads(text), STAR)
    assert len({text for text, _ in texts}) > 45  # led to the end, not through one and the same
    assert {json.loads(text)["kind"] for text, _ in texts} == {"star", "galaxy", "黑洞"}


def test_a_limit_too_small_is_not_passed_off_as_done(structures: Structures, model: Model) -> None:
    grammar = structures.schema(STAR)
    text, complete = write(model, grammar, 10, 0)
    assert not complete
    with pytest.raises(json.JSONDecodeError):
        json.loads(text)


def accepts(structures: Structures, model: Model, schema: Any, text: str) -> bool:
    by_byte = {model.piece(token): token for token in range(model.n_vocab) if len(model.piece(token)) == 1}
    constraint = structures.schema(schema).start(1000)
    try:
        for byte in text.encode():
            constraint.accept(by_byte[bytes([byte])])
    except RequestError as error:
        assert error.kind == "grammar_failed"
        return False
    return constraint.complete


def test_whitespace_is_at_most_a_space_after_a_comma_or_colon(structures: Structures, model: Model) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "array"}, "b": {"type": "integer"}}}
    for text in ('{"a":[1,2],"b":1}', '{"a": [1, 2], "b": 1}'):
        assert accepts(structures, model, schema, text)
    for text in (' {"b":1}', '{ "b":1}', '{"b" :1}', '{"b":  1}', '{"b":\n1}', '{"b":1 }', '{"b":1}\n'):
        assert not accepts(structures, model, schema, text)


def test_no_other_spelling_of_a_name_evades_its_schema(structures: Structures, model: Model) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}, "b/c": {"type": "integer"}}}
    assert accepts(structures, model, schema, '{"a":1,"z":"x"}')
    for text in ('{"\\u0061":"x"}', '{"b\\/c":"x"}', '{"a":1,"a":"x"}', '{"z":1,"a":"x"}'):
        assert not accepts(structures, model, schema, text)


def test_stopped_and_complete(structures: Structures, model: Model) -> None:
    constraint = structures.schema({"enum": ["1", "12", 12]}).start(10)
    tokens = {piece: next(t for t in range(model.n_vocab) if model.piece(t) == piece) for piece in (b"1", b"2", b'"')}
    for piece in (b'"', b"1"):
        constraint.accept(tokens[piece])
        assert (constraint.complete, constraint.stopped) == (False, False)
    allowed = np.isfinite(constraint.masked(np.zeros(model.n_vocab, np.float32))).nonzero()[0]
    assert {model.piece(int(token)) for token in allowed} == {b"2", b'"'}
    constraint.accept(tokens[b'"'])
    assert (constraint.complete, constraint.stopped) == (True, True)
    ends = np.isfinite(constraint.masked(np.zeros(model.n_vocab, np.float32))).nonzero()[0]
    assert len(ends) and all(model.is_eog(int(token)) for token in ends)
    with pytest.raises(RequestError) as caught:
        constraint.accept(tokens[b"1"])
    assert caught.value.kind == "grammar_failed"


def test_a_grammar_prefers_its_end_near_the_limit(structures: Structures, model: Model) -> None:
    grammar = structures.gbnf('root ::= "a"*')
    assert not grammar.document
    constraint = grammar.start(40)
    letter = next(t for t in range(model.n_vocab) if model.piece(t) == b"a")
    row = np.zeros(model.n_vocab, np.float32)
    row[letter] = 5
    chosen = []
    while True:
        token = int(constraint.masked(row).argmax())
        if model.is_eog(token):
            break
        constraint.accept(token)
        chosen.append(token)
    assert 20 < len(chosen) < 40


def nested(depth: int) -> Any:
    schema: Any = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (False, "allows nothing"),
        ([], "not a JSON object"),
        ("true", "not a JSON object"),
        ({"uniqueItems": True}, "/uniqueItems is not supported"),
        ({"properties": {"a": {"minLenght": 1}}}, "/properties/a/minLenght is not supported"),
        ({"anyOf": [{"type": "string"}, {"not": {}}]}, "/anyOf/1/not is not supported"),
        ({"additionalItems": False}, "/additionalItems is not supported"),
        ({"items": [{"type": "string"}]}, "/items is not supported"),
        ({"minimum": 3, "exclusiveMinimum": True}, "/exclusiveMinimum is not supported"),
        ({"minProperties": 2, "required": ["a"]}, "/minProperties is not supported"),
        ({"minProperties": "a", "required": 3}, "/minProperties is not supported"),
        ({"type": "strin"}, "Invalid type: strin"),
        ({"type": "string", "format": "telepathy"}, "Unknown format"),
        ({"type": "string", "pattern": "(?=a)a"}, "look-around"),
        ({"type": "string", "minLength": 5, "maxLength": 3}, "Unsatisfiable"),
        ({"oneOf": [{"type": "string"}, {"minLength": 3}]}, "oneOf"),
        ({"$ref": "http://example.com/x.json"}, "does not fetch"),
        ({"$ref": "file:///etc/passwd"}, "not present"),
        ({"$ref": "#/$defs/x"}, "does not exist"),
        ({"$ref": "#"}, "cannot be used"),
        ({"x-guidance": {"lenient": True}, "not": {}}, "/not is not supported"),
        ({"const": float("nan")}, "cannot be used"),
        ({"const": "\ud800"}, "cannot be used"),
        ({"const": b"x"}, "is not JSON"),
        (nested(5000), "nested more than 100 deep"),
        ({"const": [[]] * 3, "default": json.loads("[" * 500 + "]" * 500)}, "cannot be used"),
        ({"description": "x" * 300_000}, "more than 262,144"),
        ({"type": "string", "pattern": "((([a-z]{1,100}){1,100}){1,100}){1,100}"}, "cannot be used"),
        ({"type": "object", "properties": {f"k{number}": {} for number in range(5000)}}, "cannot be used"),
    ],
)
def test_what_cannot_be_followed_is_refused_at_once(schema: Any, message: str, structures: Structures) -> None:
    start = time.process_time()
    with pytest.raises(RequestError) as caught:
        structures.schema(schema)
    assert caught.value.kind == "invalid_schema"
    assert message in caught.value.message
    assert "\n" not in caught.value.message and len(caught.value.message) < 400
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "(a|b)*a(a|b){20}"},
        {"type": "string", "pattern": "(x{1,1000}){1,1000}"},
        {"type": "string", "maxLength": 10**9},
        {"type": "array", "items": {"type": "integer"}, "minItems": 10**9},
        {"enum": [f"value {number}" for number in range(5000)]},
        {
            "$defs": {"n": {"type": "object", "properties": {"c": {"$ref": "#/$defs/n"}}, "required": ["c"]}},
            "$ref": "#/$defs/n",
        },
    ],
    ids=["automaton", "repetition", "longest", "items", "enum", "endless"],
)
def test_hostile_schemas_cost_little(schema: Any, structures: Structures, model: Model) -> None:
    start = time.process_time()
    text, complete = write(model, structures.schema(schema), 60, 1)
    if complete:
        jsonschema.validate(json.loads(text), schema)
    assert time.process_time() - start < 5


def test_grammars_are_kept_and_answers_do_not_mix(structures: Structures, model: Model) -> None:
    grammar = structures.schema(STAR)
    assert structures.schema(json.loads(json.dumps(STAR))) is grammar
    first, second = grammar.start(100), grammar.start(100)
    row = np.zeros(model.n_vocab, np.float32)
    first.accept(int(first.masked(row).argmax()))
    assert (first.masked(row) != second.masked(row)).any()


def test_a_grammar_that_failed_is_made_anew(structures: Structures) -> None:
    grammar = structures.schema({"type": "boolean"})
    grammar.failed = True
    assert structures.schema({"type": "boolean"}) is not grammar


@pytest.mark.real
def test_a_chinese_document_of_the_real_model(real_model: Path) -> None:
    """Its characters are split over tokens; names, values and free text come out whole."""
    schema = {
        "type": "object",
        "properties": {
            "名称": {"type": "string", "minLength": 1},
            "类型": {"enum": ["恒星", "黑洞"]},
            "已知": {"type": "boolean"},
        },
        "required": ["名称", "类型", "已知"],
        "additionalProperties": False,
    }
    with Model(real_model) as model, Context(model, 512, threads=1) as context:
        grammar = Structures(model).schema(schema)
        for seed in range(2):
            context.truncate(0, 0)
            constraint, sampler = grammar.start(60), Sampler(SamplingOptions(seed=seed), model)
            answer = loop(model, context, constraint, sampler, "用JSON描述天鹅座X-1：", 60)
            assert any(not _whole(piece) for piece in map(model.piece, answer))
            document = json.loads(b"".join(map(model.piece, answer)).decode())
            jsonschema.validate(document, schema)
            sampler.close()


def _whole(piece: bytes) -> bool:
    return "\ufffd" not in piece.decode("utf-8", "replace")


def loop(
    model: Model, context: Context, constraint: Constraint, sampler: Sampler, prompt: str, limit: int
) -> list[int]:
    tokens, answer = model.tokenize(prompt), list[int]()
    context.decode([Chunk(0, 0, tokens, 1)])
    while len(answer) < limit and not constraint.stopped:
        token = sampler.sample(constraint.masked(context.logits[0]))
        if model.is_eog(token):
            break
        constraint.accept(token)
        answer.append(token)
        context.decode([Chunk(0, context.length(0), [token], 1)])
    assert constraint.complete
    return answer


@pytest.mark.parametrize(
    "schema",
    [
        {"const": "a\u0007"},
        {"enum": ["x", {"y": ["\x7f"]}]},
        {"properties": {"a\u0001": {}}, "required": ["a\u0001"]},
        {"type": "integer", "minimum": 10**25, "maximum": 10**25 + 5},
        {"const": 12345678901234567890},
    ],
)
def test_what_would_come_out_as_something_else_is_refused(schema: dict[str, Any], structures: Structures) -> None:
    with pytest.raises(RequestError, match="is not supported") as caught:
        structures.schema(schema)
    assert caught.value.kind == "invalid_schema"


def test_a_second_opinion_on_documents() -> None:
    judge = judge_of({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.001})
    assert (judge("0.0005"), judge("0"), judge("{")) == (
        "",
        "0 is less than or equal to the minimum of 0",
        "it is no JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
    )
    assert judge_of({"type": "string", "pattern": "\\p{Han}"})('"x"') == ""  # no opinion on what Python lacks
    assert judge_of({"$ref": "https://example.org/never-fetched"})("1") == ""
