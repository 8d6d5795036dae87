"""Output lines: valid JSON, one line each, harmless to terminals."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from stellar_local.errors import RequestError, StellarError
from stellar_local.records import error_record, to_line


@given(st.text(st.characters()))
def test_a_line_round_trips_and_drives_nothing(text: str) -> None:
    line = to_line({"text": text})
    assert json.loads(line)["text"] == text
    assert len(line.splitlines()) == 1
    assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in line)
    line.encode("utf-8")


def test_chinese_stays_readable() -> None:
    assert to_line({"text": "星语者"}) == '{"text": "星语者"}'


def test_error_records_carry_kind_and_hint() -> None:
    assert error_record("a", 3, RequestError("too_long", "no", "cut it")) == {
        "id": "a",
        "index": 3,
        "error": {"type": "too_long", "message": "no (cut it)"},
    }
    assert error_record(0, 0, StellarError("x"))["error"] == {"type": "error", "message": "x"}


def test_a_message_that_quotes_a_whole_line_is_cut() -> None:
    message = error_record(0, 0, RequestError("invalid_field", "x" * 1_000_000))["error"]["message"]
    assert 500 < len(message) < 2000 and message.endswith("…")
