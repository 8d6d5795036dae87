"""How long a resumed chat takes to its first token, with what was computed of it restored from a file and without.

One process holds a conversation in Chinese and English with the real model until its history has 3,000 tokens, and
saves what it has computed. Then fresh processes go on with it, in turns with and without that file; the model and the
file are in the system's page cache for all of them. The median counts, from when the model and its context are there,
and from when the process was started.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from machine import describe

from stellar_local.chat.kv_cache import KVCache
from stellar_local.config import RuntimeOptions, SamplingOptions
from stellar_local.prompts import Turn
from stellar_local.quickstart import bundled_model
from stellar_local.runtime import Runtime

QUESTIONS = [
    "What is a star made of?",
    "太阳为什么会发光？",
    "How do astronomers measure the distance of a galaxy?",
    "请介绍一下月球的形成。",
    "Explain what a black hole is to a child.",
    "什么是光年？它有多远？",
    "Why do the planets keep to their orbits?",
    "望远镜是谁发明的？它怎么工作？",
]
LAST = "Thank you. 最后一个问题：地球的年龄是多少？"
FILE_LIMIT = 1 << 32


def hold(model: Path, folder: Path, size: int, ctx: int) -> None:
    """Talk until the history has `size` tokens; leave the turns and the cache in the folder, and say what they are."""
    turns: list[Turn] = []
    tokens: tuple[int, ...] = ()
    read = seconds = 0.0
    with Runtime(model, RuntimeOptions(ctx=ctx)) as runtime:
        while len(tokens) < size:
            turn = Turn(QUESTIONS[len(turns) % len(QUESTIONS)])
            sampling = SamplingOptions(max_tokens=160, repeat_penalty=1.1, seed=len(turns))
            request = runtime.request([*turns, turn], sampling)
            answer = runtime.engine.submit(request).answer
            read += answer.usage.prompt_tokens - answer.usage.cached_tokens
            seconds += answer.timing.prompt
            turns.append(replace(turn, response=answer.text, tokens=answer.tokens))
            tokens = request.tokens + answer.tokens
        said = [[turn.instruction, turn.response, turn.tokens] for turn in turns]
        (folder / "turns.json").write_text(json.dumps([said, tokens]), encoding="utf-8")
        started = time.perf_counter()
        written = KVCache(folder / "kv", runtime, FILE_LIMIT).save(tokens, prompt_speed=read / seconds)
        took = time.perf_counter() - started
    print(f"{len(turns)} turns, {len(tokens)} tokens; {written:,} bytes written in {took:.2f} s")


def resume(model: Path, folder: Path, ctx: int, cached: bool, started: float) -> None:
    """Go on with it; print the seconds since loading and since the start, the tokens restored, the answer's tokens."""
    said, tokens = json.loads((folder / "turns.json").read_text(encoding="utf-8"))
    turns = [Turn(question, response, tokens=tuple(ids)) for question, response, ids in said]
    with Runtime(model, RuntimeOptions(ctx=ctx)) as runtime:
        loaded = time.time()
        if cached:
            KVCache(folder / "kv", runtime, FILE_LIMIT).restore(tokens)
        request = runtime.request([*turns, Turn(LAST)], SamplingOptions(temperature=0, max_tokens=8))
        stream = runtime.engine.submit(request)
        next(iter(stream))
        first = time.time()
        answer = stream.answer
    print(json.dumps([first - loaded, first - started, answer.usage.cached_tokens, answer.tokens]))


def run(model: Path, folder: Path, ctx: int, cached: bool) -> tuple[float, float, int, list[int]]:
    """One resumed chat in a fresh process."""
    argv = [sys.executable, __file__, "--model", str(model), "--ctx", str(ctx), "--folder", str(folder)]
    argv += ["--cached"] if cached else []
    done = subprocess.run([*argv, "--started", str(time.time())], check=True, capture_output=True, text=True)
    loaded, started, restored, tokens = json.loads(done.stdout)
    return loaded, started, restored, tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a GGUF [default: the bundled SmolLM2]")
    parser.add_argument("--tokens", type=int, default=3000, help="of history, at least [default: %(default)s]")
    parser.add_argument("--ctx", type=int, default=4096, help="[default: %(default)s]")
    parser.add_argument("--rounds", type=int, default=5, help="[default: %(default)s]")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--cached", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    model = options.model or bundled_model()
    if options.folder:
        resume(model, options.folder, options.ctx, options.cached, options.started)
        return
    print(describe("stellar-local", "llama-cpp-python"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        hold(model, folder, options.tokens, options.ctx)
        runs: dict[bool, list[tuple[float, float, int, list[int]]]] = {False: [], True: []}
        for number in range(options.rounds + 1):
            for cached, found in runs.items():
                result = run(model, folder, options.ctx, cached)
                found += [result] if number else []  # the first round warms up
    answers = {tuple(tokens) for found in runs.values() for _, _, _, tokens in found}
    alike = "the same answer in all runs" if len(answers) == 1 else f"{len(answers)} different answers"
    print(f"{runs[True][0][2]} tokens restored; {alike}")
    print(f"{'first token after':24}{'computed':>10}{'restored':>10}   ratio   (median of {options.rounds}; range)")
    for place, title in ((0, "the model is loaded"), (1, "the process starts")):
        times = {cached: [result[place] for result in found] for cached, found in runs.items()}
        computed, restored = (statistics.median(times[cached]) for cached in (False, True))
        ranges = "; ".join(f"{min(times[cached]):.2f} to {max(times[cached]):.2f} s" for cached in (False, True))
        print(f"{title:24}{computed:8.2f} s{restored:8.2f} s{computed / restored:8.1f}   ({ranges})")


if __name__ == "__main__":
    main()
