"""Tokens a second in `stellar chat`, as a person at a terminal gets them, against the engine alone, on SmolLM2-135M.

The chat runs in a pseudo-terminal of 80 by 24 that is read as fast as it writes. Counted is the time from Enter to the
end of the whole answer; for the engine, from the request to its answer. Both answer the same questions greedily with
the same number of tokens, after one that warms up, in turns; the fastest of the rounds counts.
"""

from __future__ import annotations

import argparse
import os
import pty
import select
import sys
import tempfile
import time
from pathlib import Path

from machine import describe

from stellar_local.config import RuntimeOptions, SamplingOptions
from stellar_local.prompts import Turn
from stellar_local.quickstart import bundled_model
from stellar_local.runtime import Runtime

QUESTIONS = ["Write a long story about the stars, with headings and lists.", "请写一个关于月亮的长故事。"]
TOKENS = 256
ROUNDS = 3
READY, DONE = b"/help", b"the answer was cut"  # what is shown when the prompt is there, and below an answer


def _other(question: str) -> str:
    """A question to warm up with."""
    return QUESTIONS[1 - QUESTIONS.index(question)]


def read_until(terminal: int, mark: bytes) -> None:
    """Read a terminal until it shows a text."""
    seen = b""
    deadline = time.monotonic() + 120
    while mark not in seen:
        if time.monotonic() > deadline:
            raise SystemExit(f"the chat never showed {mark!r}: {seen[-500:]!r}")
        if select.select([terminal], [], [], 1)[0]:
            seen = seen[-200:] + os.read(terminal, 65536)


def chat(path: Path, question: str, style: str, folder: str) -> float:
    """Seconds from Enter to the answer's end."""
    options = ["--style", style, "--temperature", "0", "--max-tokens", str(TOKENS), "--private", "--ui-lang", "en"]
    argv = [sys.executable, "-m", "stellar_local.cli", "chat", str(path), *options]
    pid, terminal = pty.fork()
    if not pid:
        os.execvpe(argv[0], argv, {**os.environ, "TERM": "xterm-256color", "STELLAR_DATA": folder})
    read_until(terminal, READY)
    time.sleep(0.5)  # until what is imported in the background is there, as for a person who types
    for text in (_other(question), "/clear", question):
        os.write(terminal, text.encode())
        time.sleep(0.3)
        started = time.perf_counter()
        os.write(terminal, b"\r")
        read_until(terminal, b"is cleared" if text == "/clear" else DONE)
        seconds = time.perf_counter() - started
        time.sleep(0.3)
    os.write(terminal, b"\x04")
    os.waitpid(pid, 0)
    os.close(terminal)
    return seconds


def engine(path: Path, question: str) -> float:
    """Seconds from the request to the answer."""
    with Runtime(path, RuntimeOptions()) as runtime:
        for text in (_other(question), question):
            started = time.perf_counter()
            request = runtime.request([Turn(text)], SamplingOptions(temperature=0, max_tokens=TOKENS))
            answer = runtime.engine.submit(request).answer
            seconds = time.perf_counter() - started
        assert answer.usage.completion_tokens == TOKENS, "choose a question with a longer answer"
        return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path, help="another model [default: SmolLM2-135M]")
    path = parser.parse_args().model or bundled_model()
    print(describe("stellar-local", "llama-cpp-python", "prompt_toolkit", "rich"))
    best = dict.fromkeys(("engine alone", "chat, simple", "chat, rich"), float("inf"))
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(ROUNDS):
            seconds = {"engine alone": sum(engine(path, question) for question in QUESTIONS)}
            for style in ("simple", "rich"):
                seconds[f"chat, {style}"] = sum(chat(path, question, style, folder) for question in QUESTIONS)
            best = {name: min(best[name], seconds[name]) for name in best}
    print(f"{len(QUESTIONS)} questions of {TOKENS} tokens each, prompts included")
    print(f"{'':16}tokens/s   ratio to the engine")
    for name, value in best.items():
        print(f"{name:16}{len(QUESTIONS) * TOKENS / value:8.1f}   {best['engine alone'] / value:.2f}")


if __name__ == "__main__":
    main()
