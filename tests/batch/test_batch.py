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


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_with_nothing_in_hand_ends_at_once(
    number: signal.Signals, code: int, word: str, stellar: Stellar, spm_model: Path
) -> None:
    process = stellar.start("batch", spm_model, "--max-tokens", 2)
    assert process.stdin and process.stdout
    process.stdin.write(b"hello\n")
    process.stdin.flush()
    process.stdout.readline()
    process.send_signal(number)
    process.wait(30)  # though the input is still open
    _, errors = process.communicate()
    assert process.returncode == code
    assert errors.decode().startswith(f"{word}: 1 answered, 0 failed, ")
    assert len(errors.splitlines()) == 1


def story_tellers(stellar: Stellar, model: Path) -> subprocess.Popen[bytes]:
    """A process with a long story in hand and fifty that wait; a short answer has come."""
    process = stellar.start("batch", model, "--temperature", 0, "--parallel", 1, "--threads", 1)
    assert process.stdin and process.stdout
    story = b'{"prompt": "Write a long story about the stars.", "max_tokens": %d}\n'
    process.stdin.write(b'{"prompt": "Hi", "max_tokens": 1}\n' + story % 60 + story % 1000 * 50)
    process.stdin.flush()
    process.stdout.readline()
    time.sleep(0.5)
    return process


@pytest.mark.real
def test_the_first_ctrl_c_finishes_the_lines_in_hand(stellar: Stellar, real_model: Path) -> None:
    process = story_tellers(stellar, real_model)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)  # all the stories would take many minutes
    assert process.returncode == 130
    (record,) = map(json.loads, output.splitlines())
    assert (record["index"], record["usage"]["completion_tokens"]) == (1, 60)
    assert errors.splitlines()[0] == b"finishing 1 line; press Ctrl-C again to stop at once"
    assert errors.splitlines()[-1].startswith(b"interrupted: 2 answered, 0 failed, ")


@pytest.mark.real
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_stops_at_once(number: signal.Signals, stellar: Stellar, real_model: Path) -> None:
    process = story_tellers(stellar, real_model)
    assert process.stderr
    process.send_signal(number)
    assert process.stderr.readline().startswith(b"finishing 1 line")
    began = time.monotonic()
    process.send_signal(number)
    output, errors = process.communicate(timeout=30)
    assert time.monotonic() - began < 3
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
    assert output == b""  # what was cut short is not passed off as an answer
    assert b"1 answered, 0 failed" in errors and b"Traceback" not in errors


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


def test_an_output_file_is_gone_on_with(stellar: Stellar, spm_model: Path, tmp_path: Path) -> None:
    lines = ['{"prompt": "one", "id": "a"}', '{"prompt": 2}', "", '{"prompt": "三", "id": "c"}', '{"prompt": "4"}']
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    out = tmp_path / "out.jsonl"
    command = ("batch", spm_model, "--in", tmp_path / "in.jsonl", "--out", out, "--max-tokens", 2, "--temperature", 0)
    done = stellar(*command, "--json")
    assert done.returncode == 1
    whole = out.read_text().splitlines()
    assert [json.loads(line)["index"] for line in whole] == [0, 1, 3, 4]
    summary = json.loads(done.stdout)
    assert (summary["answered"], summary["failed"], summary["errors"]) == (3, 1, {"invalid_field": 1})

    assert "exists and is not empty" in stellar(*command).stderr
    out.write_text(whole[0] + "\n" + whole[3][:20])
    done = stellar(*command, "--resume")
    assert "the last line was cut" in done.stderr and "2 answered, 1 failed, 1 skipped" in done.stderr
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(record["index"], record["id"]) for record in records] == [(0, "a"), (1, 1), (3, "c"), (4, 4)]
    assert [record.get("text") for record in records] == [json.loads(line).get("text") for line in whole]

    (tmp_path / "in.jsonl").write_text("\n".join([*lines[:3], '{"prompt": "三", "id": "d"}', lines[4]]))
    before = out.read_bytes()
    done = stellar(*command, "--resume")
    assert "made from another input: line 4 has another id there" in done.stderr
    assert (done.returncode, out.read_bytes()) == (1, before)
    assert not (tmp_path / "out.jsonl.lock").exists()


def test_resume_compares_what_comes_through_a_pipe(stellar: Stellar, spm_model: Path, tmp_path: Path) -> None:
    command = ("batch", spm_model, "--out", tmp_path / "out", "--max-tokens", 1)
    assert stellar(*command, input='{"prompt": "a", "id": "x"}\n').returncode == 0
    done = stellar(*command, "--resume", input='{"prompt": "a", "id": "y"}\n')
    assert (done.returncode, "another id there" in done.stderr) == (1, True)
    done = stellar(*command, "--resume", input='{"prompt": "a", "id": "x"}\n{"prompt": "b"}\n')
    assert (done.returncode, "1 answered, 0 failed, 1 skipped" in done.stderr) == (0, True)
    done = stellar(*command, "--resume", input='{"prompt": "a", "id": "x"}\n')
    assert "has 1 lines that this input lacks" in done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_pipe_that_does_not_block_loses_nothing(unbuffered: str, stellar: Stellar, spm_model: Path) -> None:
    """As some programs start their children: a write then takes what there is room for, or nothing."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    lines = b"".join(b'{"prompt": "hello", "logprobs": 20, "max_tokens": 2}\n' for _ in range(120))
    process = subprocess.Popen(
        [*stellar.argv, "batch", str(spm_model), "--threads", "1"],
        stdin=subprocess.PIPE,
        stdout=writer,
        stderr=subprocess.PIPE,
        env={**stellar.env, "PYTHONUNBUFFERED": unbuffered},
        cwd=stellar.cwd,
    )
    os.close(writer)
    assert process.stdin
    process.stdin.write(lines)
    process.stdin.close()
    time.sleep(3)  # the pipe is full by now
    with os.fdopen(reader, "rb") as stream:
        records = [json.loads(line) for line in stream]
    assert [record["index"] for record in records] == list(range(120))
    assert process.wait(60) == 0
    assert process.stderr
    process.stderr.close()


def test_ctrl_c_leaves_a_file_to_go_on_with(stellar: Stellar, spm_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "in").write_text("hello\n" * 3000)
    command = ("batch", spm_model, "--in", tmp_path / "in", "--out", out, "--max-tokens", 2)
    process = stellar.start(*command)
    while not out.exists() or not out.stat().st_size:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.decode().splitlines()[-1] == "to go on, run the same command with --resume"
    had = len(out.read_bytes().splitlines())
    assert 0 < had < 3000
    done = stellar(*command, "--resume", "--unordered")
    assert f"{3000 - had} answered, 0 failed, {had} skipped" in done.stderr
    assert sorted(json.loads(line)["index"] for line in out.read_bytes().splitlines()) == list(range(3000))


def test_shards_and_parts_of_a_table(stellar: Stellar, spm_model: Path, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("lang,text,id\n中文,a,x\nEnglish,b,\nFrench,c,z\nragged\n", encoding="utf-8")
    command = ("batch", spm_model, "--in", tmp_path / "in.csv", "--prompt-template", "Into {lang}: {text}")
    shards = [stellar(*command, "--shard", f"{number}/2", "--max-tokens", 1) for number in (1, 2)]
    records = [[json.loads(line) for line in done.stdout.splitlines()] for done in shards]
    assert [[(record["index"], record["id"]) for record in part] for part in records] == [
        [(0, "x"), (2, "z")],
        [(1, 1), (3, 3)],
    ]
    assert "error" in records[1][1]
    plain = stellar("batch", spm_model, "--max-tokens", 1, input="Into 中文: a\n")
    assert json.loads(plain.stdout)["usage"]["prompt_tokens"] == records[0][0]["usage"]["prompt_tokens"]


def test_text_and_csv_output(stellar: Stellar, spm_model: Path) -> None:
    options = ("--max-tokens", 2, "--input-format", "jsonl", "--json")
    done = stellar("batch", spm_model, "--format", "text", *options, input='{"prompt": "a"}\n{"promt": 1}\n')
    assert done.stdout.count("\n") == 2 and done.stdout.endswith("\n\n")
    assert done.stderr.splitlines()[0].startswith("line 2: unknown field: promt")
    assert json.loads(done.stderr.splitlines()[-1])["failed"] == 1
    done = stellar("batch", spm_model, "--format", "csv", *options, input='{"prompt": "a", "id": "x"}\n')
    assert done.stdout.splitlines()[0] == "id,index,text,finish_reason,prompt_tokens,completion_tokens,error"


def test_special_tokens_in_a_question_are_text(stellar: Stellar, spm_model: Path) -> None:
    """`</s>` typed by a user takes as many tokens as its characters need, in a prompt as long as any other."""
    done = stellar("batch", spm_model, "--max-tokens", 1, input="a</s>a\naa\n")
    typed, plain = (json.loads(line)["usage"]["prompt_tokens"] for line in done.stdout.splitlines())
    assert typed - plain >= 3


def test_dry_run_counts_and_answers_nothing(stellar: Stellar, spm_model: Path) -> None:
    lines = '{"prompt": "one", "max_tokens": 5}\n{broken\n{"prompt": "one", "max_tokens": 7}\n'
    real = stellar("batch", spm_model, input=lines)
    usages = [json.loads(line)["usage"]["prompt_tokens"] for line in real.stdout.splitlines() if "usage" in line]
    done = stellar("batch", spm_model, "--dry-run", "--json", input=lines)
    assert done.returncode == 0
    found = json.loads(done.stdout)
    assert (found["lines"], found["errors"]) == (3, {"invalid_json": 1})
    assert (found["prompt_tokens"], found["longest_prompt"]) == (sum(usages), max(usages))
    assert found["shared_tokens"] == usages[0] - 1  # the last token is computed again, for its logits
    assert found["most_completion_tokens"] == 12
    predicted = found["predicted"]
    assert predicted["memory"]["total"] == sum(predicted["memory"].values()) - predicted["memory"]["total"]
    plan = json.loads(stellar("plan", spm_model, "--for", "batch", "--json").stdout)["batch"]["plans"][0]
    ram = plan["memory"]["RAM"]  # the first plan is what runs without options
    assert predicted["memory"]["weights"] == ram["weights"]
    assert predicted["memory"]["KV"] == ram["kv"]
    assert predicted["memory"]["program"] == ram["runtime"]
    assert predicted["memory"]["compute"] == pytest.approx(ram["compute"], rel=0.05)  # which llama.cpp was asked for
    assert predicted["tokens_per_second"] > 0 and predicted["most_seconds"] >= predicted["prompt_seconds"] > 0
    table = stellar("batch", spm_model, "--dry-run", input=lines)
    assert table.stdout == ""
    assert plan["parallel"] == 16 and "16 at once, nothing is answered" in table.stderr
    assert "predicted memory" in table.stderr and "predicted time" in table.stderr and "1 invalid_json" in table.stderr
