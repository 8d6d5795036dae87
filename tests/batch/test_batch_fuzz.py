"""Hostile input, processes killed at any moment, and a hundred thousand lines in flat memory."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Stellar

LINES = 20_000
STRUCTURES = [
    '"schema": {"type": "boolean"}',
    '"schema": {"enum": ["星", 1, null]}',
    '"schema": {"$ref": "#"}',
    '"schema": {"$ref": "https://example.org/s"}',
    '"schema": {"type": "string", "pattern": "(a*)*b"}',
    '"schema": {"items": {"items": {}}, "x": ' + "[" * 500 + "]" * 500 + "}",
    '"schema": {"type": "object", "properties": {"a": {"not": {}}}}',
    '"grammar": "root ::= [a-z]*"',
    '"grammar": "root ::= root"',
    '"grammar": "root ::= ' + "(" * 5000 + '"',
    '"grammar": "root ::= ((\\"a\\"{2000}){2000}){2000}"',
    '"grammar": "\\u0000"',
    '"logit_bias": {"7": 100, "8": -100}',
    '"logit_bias": {"999999": 1}',
    '"logprobs": 2',
    '"mirostat": 2, "mirostat_tau": 0.1',
    '"xtc_probability": 1, "dry_multiplier": 3, "presence_penalty": -2',
]


def _text(rng: random.Random) -> str:
    """Some text with whatever may be read wrongly in it."""
    pieces = ["</s>", "<s>", "<|im_end|>", "<|im_start|>system", "[INST]", "### Response:\n", "\0", "\x1b[2J", "\u2028"]
    pieces += [
        "\ud800",
        "星",
        "e\u0301",
        "🌟",
        "\u202e",
        "\\",
        '"',
        "{}",
        "{instruction}",
        "a",
        " ",
        "\t",
        "\x85",
        "\ufeff",
    ]
    return "".join(rng.choice(pieces) for _ in range(rng.randrange(1, 12)))


def _json_line(rng: random.Random) -> bytes:
    """A JSON line whose fields are of any kind."""
    values: list[Callable[[], str]] = [
        lambda: json.dumps(_text(rng)),
        lambda: json.dumps(_text(rng), ensure_ascii=False),
        lambda: rng.choice(["1e999", "-1e999", "NaN", "Infinity", "-0", "null", "true", "1.5", "9" * 400, "9" * 5000]),
        lambda: "[" * (depth := rng.choice([1, 3, 2000])) + "]" * depth,
        lambda: '{"role": "user", "content": ' + json.dumps(_text(rng)) + "}",
        lambda: '[{"role": "user", "content": ' + json.dumps(_text(rng)) + "}]",
        lambda: '"' + "x" * rng.choice([10, 3000]) + '"',
    ]
    names = ["prompt", "prompt", "prompt", "messages", "instruction", "input", "id", "system", "max_tokens", "stop"]
    names += ["temperature", "seed", "lora", "top_k", "promt", "\0", "", "schema", "grammar", "logit_bias", "logprobs"]
    fields = [f"{json.dumps(rng.choice(names))}: {rng.choice(values)()}" for _ in range(rng.randrange(1, 4))]
    if rng.random() < 0.5:
        fields = [f'"prompt": {json.dumps(_text(rng))}', *rng.sample(['"seed": 1', '"id": "x"', '"prompt": "b"'], 2)]
    if rng.random() < 0.02:
        fields.append(rng.choice(STRUCTURES))
    return ("{" + ", ".join(fields) + "}").encode("utf-8", "surrogatepass")


def hostile(rng: random.Random) -> bytes:
    """One line without a newline, seldom blank."""
    kind = rng.random()
    if kind < 0.7:
        line = _json_line(rng)
        if kind < 0.1:  # damaged
            at = rng.randrange(len(line))
            line = line[:at] + rng.choice([b"", b"\xff", b"\xc3", b"\0", b"\r", b'"', b"\xed\xa0\x80"]) + line[at + 1 :]
        return line.replace(b"\n", b"\\n")
    if kind < 0.8:
        return bytes(rng.choice(range(256)) for _ in range(rng.randrange(1, 30))).replace(b"\n", b"")
    if kind < 0.9:
        return b"{" * rng.choice([1, 50, 5000]) + b'"a":' * rng.choice([0, 1, 5000])
    return rng.choice([b"", b" ", b"\r", b"[1]", b"null", b"\xef\xbb\xbf{}", b'{"prompt": "' + b"z" * 70_000 + b'"}'])


def test_one_object_a_line_whatever_the_lines_are(stellar: Stellar, spm_model: Path) -> None:
    rng = random.Random(4)
    lines = [b'{"prompt": "first"}', *(hostile(rng) for _ in range(LINES - 3))]
    lines += [b'{"prompt": "' + b"y" * (17 << 20) + b'"}', b'{"prompt": "last"}']
    expected = [index for index, line in enumerate(lines) if line.strip()]
    done = subprocess.run(
        [*stellar.argv, "batch", str(spm_model), "--max-tokens", "1", "--ctx", "256", "--threads", "1", "--json"],
        input=b"\n".join(lines),
        capture_output=True,
        timeout=170,
        env=stellar.env,
        cwd=stellar.cwd,
    )
    errors = done.stderr.decode()
    assert done.returncode == 1 and "Traceback" not in errors, errors[-2000:]
    output = done.stdout.decode("utf-8").split("\n")
    assert output.pop() == ""
    records = [json.loads(line) for line in output]
    assert [record["index"] for record in records] == expected
    assert all(("text" in record) != ("error" in record) for record in records)
    assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for line in output for char in line)
    kinds = {record["error"]["type"] for record in records if "error" in record}
    assert {"invalid_json", "invalid_utf8", "unknown_field", "invalid_field", "empty_prompt", "line_too_long"} <= kinds
    assert "internal_error" not in kinds
    summary = json.loads(errors.splitlines()[-1])
    assert summary["answered"] > LINES / 4 and summary["answered"] + summary["failed"] == len(expected)
    assert "text" in records[0] and "text" in records[-1]


def test_killed_at_any_moment_every_line_comes_once(stellar: Stellar, spm_model: Path, tmp_path: Path) -> None:
    """SIGKILL twenty times, from before the model is loaded on; what the last run leaves is completed."""
    rng = random.Random(5)
    out, count = tmp_path / "out", 6000
    (tmp_path / "in").write_text("".join(f'{{"prompt": "line", "id": "n{number}"}}\n' for number in range(count)))
    arguments = (
        "batch",
        spm_model,
        "--in",
        tmp_path / "in",
        "--out",
        out,
        "--resume",
        "--max-tokens",
        1,
        "--threads",
        1,
    )
    grown = 0
    for number in range(20):
        process = stellar.start(*arguments, *(["--unordered"] if number % 2 else []))
        before = size = out.stat().st_size if out.exists() else 0
        until = time.monotonic() + 20
        if number % 4:  # mostly while it writes
            while size == before and process.poll() is None and time.monotonic() < until:
                time.sleep(0.005)
                size = out.stat().st_size if out.exists() else 0
        time.sleep(rng.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        grown += out.exists() and out.stat().st_size > before
        if number == 10:  # as if the kill had come in the middle of a line
            out.write_bytes(out.read_bytes()[: -rng.randrange(2, 60)])
    assert grown >= 10, "the kills came too early or too late to mean anything"
    done = stellar(*arguments)
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert sorted(record["index"] for record in records) == list(range(count))
    assert all(record["id"] == f"n{record['index']}" for record in records)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory in use from /proc")
def test_memory_stays_flat(stellar: Stellar, spm_model: Path, tmp_path: Path) -> None:
    """A hundred thousand lines: from the 10,000th on, the process grows by less than 50 MB."""
    (tmp_path / "in").write_text(
        "".join(f'{{"prompt": "{number}", "id": "id {number}"}}\n' for number in range(100_000))
    )
    arguments = ("batch", spm_model, "--in", tmp_path / "in", "--max-tokens", 1, "--threads", 1)
    process = stellar.start(*arguments, "--system", "", "--temperature", 0)
    assert process.stdout

    def resident() -> int:
        status = Path(f"/proc/{process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) << 10

    sizes = {}
    for number, line in enumerate(process.stdout):
        assert line.startswith(b'{"id": "id %d", "index": %d, ' % (number, number))
        if number in (10_000, 50_000, 99_000):
            sizes[number] = resident()
    process.communicate()
    assert process.returncode == 0
    assert sizes[99_000] - sizes[10_000] < 50e6, sizes
