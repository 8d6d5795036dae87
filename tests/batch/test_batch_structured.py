"""Answers of a given form through the command line: every one validates, or is an error; jsonschema is the judge."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
from conftest import Stellar
from jsonschema import Draft202012Validator

STAR = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "类型": {"enum": ["恒星", "行星", "星系"]},
        "magnitude": {"type": "integer", "minimum": -30, "maximum": 30},
        "visible": {"type": "boolean"},
        "moons": {"type": "array", "items": {"type": "string"}, "maxItems": 3},
        "note": {"type": "string"},
    },
    "required": ["name", "类型", "magnitude", "visible", "moons"],
    "additionalProperties": False,
}


def ask(stellar: Stellar, model: Path, count: int, *options: object) -> list[dict[str, object]]:
    """Random prompts in both languages, and the records that answer them."""
    rng = random.Random(count)
    words = ["star", "galaxy", "moon", "light", "year", "a", "of", "恒星", "星系", "月球", "光年", "为什么", "什么"]
    lines = [json.dumps({"prompt": " ".join(rng.choices(words, k=rng.randrange(1, 9)))}) for _ in range(count)]
    done = stellar("batch", model, "--threads", 1, "--seed", 7, *options, input="\n".join(lines), timeout=300)
    assert "Traceback" not in done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["index"] for record in records] == list(range(count))
    return records


@pytest.fixture
def schema(tmp_path: Path) -> Path:
    path = tmp_path / "star.json"
    path.write_text(json.dumps(STAR), encoding="utf-8")
    return path


@pytest.mark.parametrize("limit", [90, 200])
def test_200_random_prompts_give_200_valid_documents(
    limit: int, stellar: Stellar, spm_model: Path, schema: Path
) -> None:
    """Of a model that knows no JSON and does not stop by itself, hot, at a limit that it would run over."""
    records = ask(stellar, spm_model, 200, "--schema", schema, "--max-tokens", limit, "--temperature", 1.5)
    validator = Draft202012Validator(STAR)
    for record in records:
        assert "error" not in record, record
        validator.validate(json.loads(str(record["text"])))
        assert record["usage"]["completion_tokens"] <= limit  # type: ignore[index]
    assert len({record["text"] for record in records}) > 100


def test_a_limit_too_small_for_any_document_is_an_error_on_each_line(
    stellar: Stellar, spm_model: Path, schema: Path
) -> None:
    for record in ask(stellar, spm_model, 5, "--schema", schema, "--max-tokens", 10):
        assert record["error"]["type"] == "incomplete_document"  # type: ignore[index]
        assert "text" not in record


def test_a_line_has_its_own_form_or_none(stellar: Stellar, spm_model: Path, schema: Path) -> None:
    lines = [
        {"prompt": "a"},
        {"prompt": "b", "schema": {"enum": ["yes", "no"]}},
        {"prompt": "c", "grammar": 'root ::= "星" [0-9]{3}'},
        {"prompt": "d", "schema": None, "max_tokens": 3},
        {"prompt": "e", "schema": {"type": "nonsense"}},
        {"prompt": "f", "grammar": "root ::= ("},
        {"prompt": "g", "schema": {"type": "string", "maxLength": 3}, "stop": ['"']},
    ]
    text = "\n".join(map(json.dumps, lines))
    done = stellar("batch", spm_model, "--schema", schema, "--max-tokens", 200, "--threads", 1, input=text)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1
    Draft202012Validator(STAR).validate(json.loads(records[0]["text"]))
    assert records[1]["text"] in ('"yes"', '"no"')
    assert re.fullmatch("星[0-9]{3}", records[2]["text"])
    assert records[3]["usage"]["completion_tokens"] <= 3
    assert [records[at]["error"]["type"] for at in (4, 5)] == ["invalid_schema", "invalid_grammar"]
    assert len(json.loads(records[6]["text"])) <= 3  # a document is not cut by a stop text


@pytest.mark.parametrize(
    ("option", "content", "message"),
    [
        ("--schema", "{", "is not JSON"),
        ("--schema", "[1]", "must be an object"),
        ("--schema", '{"type": "nonsense"}', "the schema cannot be used"),
        ("--schema", '{"not": {}}', "keyword /not is not supported"),
        ("--grammar", "root ::= root", "never comes to an end"),
        ("--grammar", "leaf ::= [a]", "no rule named root"),
    ],
)
def test_a_form_that_no_line_could_follow_ends_the_run_at_once(
    option: str, content: str, message: str, stellar: Stellar, spm_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "form").write_text(content)
    done = stellar("batch", spm_model, option, tmp_path / "form", input="a\nb\n")
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr.splitlines()[0]
    assert len(done.stderr.splitlines()) <= 2


@pytest.mark.real
def test_the_real_model_fills_it_in(stellar: Stellar, real_model: Path, schema: Path) -> None:
    records = ask(stellar, real_model, 12, "--schema", schema, "--max-tokens", 80, "--temperature", 0.7)
    for record in records:
        Draft202012Validator(STAR).validate(json.loads(str(record["text"])))
