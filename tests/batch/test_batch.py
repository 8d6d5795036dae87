"""`stellar batch` as its users run it: pipes, order, errors on their line, closed pipes, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import Stellar


def test_answers_in_order_and_errors_on_their_line(stellar: Stellar, spm_model: Path) -> None:
    lines = ['{"prompt": "one", "id": "a"}', "{broken", '{"prompt": "' + "x" * 5000 + '"}', '{"prompt": "四"}']
    done = stellar("batch", spm_model, "--temperature", 0, "--max-tokens", 4, input="\n".join(lines))
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["index"] for record in records] == [0, 1, 2, 3]
    assert [record["id"] for record in records] == ["a", 1, 2, 3]
    assert [record.get("error", {}).get("type") for record in records] == [
        None,
        "invalid_json",
        "context_length_exceeded",
        None,
    ]
    assert set(records[0]) == {"id", "index", "text", "finish_reason", "usage", "seed", "timing"}
    assert records[0]["usage"]["completion_tokens"] <= 4
    assert done.returncode == 1
    assert "2 answered, 2 failed" in done.stderr


def test_plain_lines_and_success(stellar: Stellar, spm_model: Path) -> None:
    done = stellar("batch", spm_model, "--max-tokens", 2, input="什么是黑洞？\nWhat is a star?\n")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 2


def test_no_input_is_no_error(stellar: Stellar, spm_model: Path) -> None:
    done = stellar("batch", spm_model)
    assert (done.returncode, done.stdout) == (0, "")


def test_a_template_that_refuses_a_line_fails_that_line_only(stellar: Stellar, spm_model: Path) -> None:
    lines = '{"instruction": "a", "input": "b", "system": "S"}\n{"instruction": "a", "input": "b"}\n'
    done = stellar("batch", spm_model, "--template", "alpaca", "--max-tokens", 2, input=lines)
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert first["error"]["type"] == "invalid_request"
    assert "text" in second


def test_greedy_runs_repeat_byte_for_byte_but_for_times(stellar: Stellar, spm_model: Path) -> None:
    def texts() -> list[str]:
        done = stellar("batch", spm_model, "--temperature", 0, "--max-tokens", 8, input="a\nb\na\n")
        return [json.loads(line)["text"] for line in done.stdout.splitlines()]

    first = texts()
    assert first == texts()
    assert first[0] == first[2]


def test_each_line_is_flushed_when_due(stellar: Stellar, spm_model: Path) -> None:
    process = stellar.start("batch", spm_model, "--max-tokens", 2)
    assert process.stdin and process.stdout
    for number in range(3):
        process.stdin.write(b"hello\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["index"] == number  # before the next line is sent
    process.communicate()
    assert process.returncode == 0


def test_a_closed_pipe_ends_it_quietly(stellar: Stellar, spm_model: Path) -> None:
    process = stellar.start("batch", spm_model, "--max-tokens", 2)
    assert process.stdin and process.stdout and process.stderr
    process.stdin.write(b"hello\n" * 50)
    process.stdin.close()
    process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait(60) == 0
    assert errors == ""


def test_ctrl_c_exits_130_without_a_traceback(stellar: Stellar, spm_model: Path) -> None:
    process = stellar.start("batch", spm_model)
    assert process.stdin and process.stdout
    process.stdin.write(b"hello\n")
    process.stdin.flush()
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.decode().strip() == "interrupted"


@pytest.mark.real
def test_ctrl_c_within_a_long_answer_is_quick(stellar: Stellar, real_model: Path) -> None:
    process = stellar.start("batch", real_model, "--temperature", 0)
    assert process.stdin and process.stdout
    story = b'{"prompt": "Write a long story about the stars.", "max_tokens": 1000}\n'
    process.stdin.write(b'{"prompt": "Hi", "max_tokens": 1}\n' + story * 50)
    process.stdin.flush()
    process.stdout.readline()
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)  # all the stories would take many minutes
    assert process.returncode == 130
    assert len(output.splitlines()) < 50
    assert b"Traceback" not in errors


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_one_sentence(stellar: Stellar, spm_model: Path) -> None:
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        done = subprocess.run(
            [*stellar.argv, "batch", str(spm_model), "--max-tokens", "2"],
            input=b"hello\n",
            stdout=full,
            stderr=subprocess.PIPE,
            env={**os.environ, **stellar.env},
            cwd=stellar.cwd,
        )
    assert done.returncode == 1
    assert done.stderr.decode().splitlines()[0] == "stellar: error: cannot write the output: no space left on device"
