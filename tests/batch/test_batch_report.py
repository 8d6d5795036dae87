"""Progress and summaries, by a clock that the test winds."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from stellar_local.batch.report import Progress, Summary, duration


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def answer(tokens: int) -> dict[str, Any]:
    return {"text": "x", "usage": {"prompt_tokens": 7, "completion_tokens": tokens, "cached_tokens": 2}}


def test_summary_counts_what_was_written() -> None:
    clock = Clock()
    summary = Summary(clock)
    for record in (answer(10), answer(20), *({"error": {"type": kind, "message": ""}} for kind in "aab")):
        summary.add(record)
    summary.skipped = 4
    clock.now += 2
    assert summary.values() == {
        "answered": 2,
        "failed": 3,
        "skipped": 4,
        "failed_before": 0,
        "prompt_tokens": 14,
        "cached_tokens": 4,
        "completion_tokens": 30,
        "seconds": 2,
        "tokens_per_second": 15,
        "errors": {"a": 2, "b": 1},
    }
    assert summary.sentence() == (
        "2 answered, 3 failed, 4 skipped, 14 prompt and 30 completion tokens, 15.0 tokens/s in 2.0 s"
    )
    summary.failed_before = 1
    assert "4 skipped (1 of them had failed: --retry-errors runs them again), 14" in summary.sentence()


def test_a_log_gets_a_line_every_ten_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    summary = Summary(clock)
    progress = Progress(summary, 1000, clock)
    progress.skip(200)  # done by an earlier run, at once
    for second in range(25):
        summary.add(answer(5))
        progress.advance(200 + 10 * second)
        progress.tick()
        clock.now += 1
    assert capsys.readouterr().err.splitlines() == [
        "30%, 11 lines, 5.5 tokens/s, 1 min 10 s left",
        "40%, 21 lines, 5.2 tokens/s, 1 min 0 s left",
    ]


def test_a_terminal_gets_one_line_that_is_wiped_out(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "20")
    clock = Clock()
    progress = Progress(Summary(clock), None, clock)
    clock.now += 1
    progress.tick()
    progress.tick()
    progress.close()
    progress.close()
    assert capsys.readouterr().err == "\r\x1b[K0 lines, 0.0 tokens\r\x1b[K"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0.0 s"), (9.94, "9.9 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (3725, "1 h 2 min"), (4e6, "1,111 h 6 min")],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words
