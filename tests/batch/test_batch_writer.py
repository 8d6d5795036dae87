"""The three output forms, and records of answers with log-probabilities."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stellar_local.batch.fields import Item
from stellar_local.batch.writer import Writer, record_of
from stellar_local.engine import Answer, Timing, Usage
from stellar_local.errors import RequestError

ITEM = Item(4, "a,b")


def answer(text: str) -> Answer:
    return Answer(text, "stop", Usage(5, 3, 1), Timing(0, 0, 0), 9)


def written(format: str, *outcomes: Answer | BaseException) -> str:
    out = io.BytesIO()
    writer = Writer(out, format)
    for outcome in outcomes:
        writer.write(record_of(ITEM, outcome))
    return out.getvalue().decode("utf-8")


def test_text_is_a_line_an_answer(capsys: pytest.CaptureFixture[str]) -> None:
    failed = RequestError("kind", "no\nroom", "cut it")
    out = written("text", answer("一\ntwo\r\n\x1b[2Jthree\u2028x"), failed, answer(""))
    assert out == "一\\ntwo\\n␛[2Jthree\\nx\n\n\n"
    assert capsys.readouterr().err == "line 5: no room (cut it)\n"


@given(st.text(st.characters()))
def test_text_is_one_line_whatever_it_holds(text: str) -> None:
    out = written("text", answer(text))
    assert out.endswith("\n") and len(out.splitlines()) == 1
    assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in out[:-1].replace("\t", ""))


def test_csv_has_a_header_and_is_read_back() -> None:
    out = written("csv", answer('say "yes",\nthen 中文\x1b'), RequestError("kind", "no"))
    first, second = csv.DictReader(io.StringIO(out))
    assert first == {
        "id": "a,b",
        "index": "4",
        "text": 'say "yes",\nthen 中文␛',
        "finish_reason": "stop",
        "prompt_tokens": "5",
        "completion_tokens": "3",
        "error": "",
    }
    assert (second["text"], second["error"]) == ("", "no")


@dataclass(frozen=True)
class Token:
    """As the engine will give it."""

    token: int
    piece: bytes
    logprob: float
    top: tuple[tuple[int, bytes, float], ...]


def test_logprobs_are_in_openai_s_form_when_asked_for() -> None:
    half = "星".encode()[:2]
    tokens = (Token(1, b"a", -0.25, ((1, b"a", -0.25), (2, half, -math.inf))), Token(2, half, -1.0, ()))
    outcome: Any = SimpleNamespace(**{**vars(answer("x")), "logprobs": tokens})
    asked: Any = SimpleNamespace(logprobs=2)
    found = record_of(Item(0, 0, sampling=asked), outcome)["logprobs"]
    assert found == {
        "content": [
            {
                "token": "a",
                "logprob": -0.25,
                "bytes": [97],
                "top_logprobs": [
                    {"token": "a", "logprob": -0.25, "bytes": [97]},
                    {"token": "\ufffd", "logprob": -9999.0, "bytes": [0xE6, 0x98]},
                ],
            },
            {"token": "\ufffd", "logprob": -1.0, "bytes": [0xE6, 0x98], "top_logprobs": []},
        ]
    }
    json.dumps(found, allow_nan=False)
    assert "logprobs" not in record_of(Item(0, 0), outcome)
