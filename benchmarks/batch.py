"""Generation and batch speed: our engine against llama.cpp driven by bare ctypes, `Llama`, and llama.cpp's programs.

Four cases, each with its peers in the same run, in turns; the fastest of some rounds counts, since other work on the
machine only ever makes a round slower. All decode greedily, with the same threads and the same prompts as token ids.

single    one sequence; peers: bare ctypes (aim 0.95), `Llama`, and llama-bench, which reads no logits
parallel  16 distinct questions at once; peer: `Llama`, one after another (aim 1.5)
prefix    32 questions under one long prefix, a fresh process each, loading included; peers: `Llama`, which keeps the
          last prompt's prefix (aim 1.3), and llama-server with as many slots as we have sequences (aim 2.5)
wide      many sequences of random tokens, speed once all of them generate; peers: bare ctypes with one memory for all
          sequences and with a share for each, llama-batched-bench likewise (aim 0.9)

llama.cpp's programs take part where they are on the PATH; leave LD_LIBRARY_PATH alone, or it decides our library too.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from batch_engine import fresh_process, run_engine
from batch_prompts import PREFIX, PREFIX_QUESTIONS, QUESTIONS, STORY
from machine import describe
from peers import (
    WARM_UP,
    LlamaLoop,
    Machine,
    Prompts,
    Raw,
    Run,
    batched_bench,
    context_cells,
    foreign_libraries,
    program_version,
    server_seconds,
    single_bench,
)

from stellar_local.config import RuntimeOptions
from stellar_local.native.cores import physical_cores
from stellar_local.native.library import api
from stellar_local.native.model import ALL_LAYERS
from stellar_local.prompts import Turn
from stellar_local.quickstart import bundled_model
from stellar_local.runtime import DEFAULT_CONTEXT, Runtime

SEQUENCES = 16  # of the engine in the cases parallel and prefix, and slots of llama-server
TOKENS = {"single": 128, "parallel": 64, "prefix": 32, "wide": 128}
WIDE_PROMPT = 128  # tokens
TOKENIZER_CELLS = 256  # the runtime that renders the prompts generates nothing

Row = tuple[str, str, float, float, float | None]  # case, peer, our tokens/s, the peer's, the ratio to reach


class Bench:
    """One loaded model, the machine's settings, and the rows of the table at the end."""

    def __init__(self, runtime: Runtime, machine: Machine, rounds: int, tokens: int | None, parallel: int) -> None:
        self.runtime, self.model, self.machine = runtime, runtime.model, machine
        self.rounds, self.tokens, self.parallel = rounds, tokens, parallel
        self.rows: list[Row] = []
        self.others = 0.0  # the largest share of the processors that other work took before a round

    def each_round(self) -> Iterator[None]:
        for _ in range(self.rounds):
            self.others = max(self.others, busy_share())
            yield

    def count(self, case: str) -> int:
        return self.tokens or TOKENS[case]

    def chat(self, questions: Sequence[str], system: str | None = None) -> list[tuple[int, ...]]:
        """Questions as prompts of the model's chat template."""
        return [self.runtime.tokens([Turn(question)], system) for question in questions]

    def raw(self, prompts: Prompts, count: int, n_ctx: int, unified: bool = True) -> Run:
        with Raw(api(), self.model.handle, self.machine, n_ctx, len(prompts), unified) as raw:
            raw.run([prompt[:2] for prompt in prompts], WARM_UP)
            return raw.run(prompts, count)

    def row(self, case: str, peer: str, ours: float, theirs: float | None, aim: float | None) -> None:
        if theirs is not None:
            self.rows.append((case, peer, ours, theirs, aim))
            print(f"  {peer:44}{ours:9.1f}{theirs:9.1f}{ours / theirs:8.2f}", flush=True)

    # The cases.

    def single(self) -> None:
        """One sequence: after the first token, and all in all."""
        count = self.count("single")
        prompts = self.chat([STORY])
        llama = LlamaLoop(self.machine, DEFAULT_CONTEXT)
        runs: dict[str, list[Run]] = {"ours": [], "raw": [], "llama": []}
        bench: list[float] = []
        for _ in self.each_round():
            runs["ours"].append(run_engine(self.model, self.machine, prompts, 1, DEFAULT_CONTEXT, count))
            made = runs["ours"][-1].count
            runs["raw"].append(self.raw(prompts, made, DEFAULT_CONTEXT))
            llama.forget()
            runs["llama"].append(llama.run(prompts, [made]))
            if speed := single_bench(self.machine, count):
                bench.append(speed)
        llama.close()
        mine = runs["ours"]
        same = [name for name in ("raw", "llama") if all(run.tokens == mine[0].tokens for run in [*mine, *runs[name]])]
        print(f"  {len(prompts[0])} + {mine[0].count} tokens; the same as ours from: {', '.join(same) or 'nobody'}")
        for name, title, aim in (("raw", "bare ctypes", 0.95), ("llama", "Llama", None)):
            self.row("single", f"{title}, after the first token", *best(mine, runs[name], "generation_speed"), aim)
            self.row("single", f"{title}, reading the prompt included", *best(mine, runs[name], "speed"), None)
        self.row("single", "llama-bench", max(run.generation_speed for run in mine), max(bench, default=None), None)

    def parallel_case(self) -> None:
        """Distinct questions, submitted at once."""
        count = self.count("parallel")
        prompts = self.chat(QUESTIONS)
        n_ctx = max(DEFAULT_CONTEXT, context_cells(SEQUENCES, max(map(len, prompts)) + count))
        llama = LlamaLoop(self.machine, DEFAULT_CONTEXT)
        mine: list[Run] = []
        theirs: list[Run] = []
        for _ in self.each_round():
            mine.append(run_engine(self.model, self.machine, prompts, SEQUENCES, n_ctx, count))
            llama.forget()
            theirs.append(llama.run(prompts, [max(1, len(answer)) for answer in mine[-1].tokens]))
        llama.close()
        same = sum(one == other for one, other in zip(mine[-1].tokens, theirs[-1].tokens, strict=True))
        print(
            f"  {len(prompts)} prompts of {spread(prompts)} tokens, {mine[-1].count} generated; "
            f"the same tokens as Llama's in {same}"
        )
        self.row("parallel", "Llama, one after another", *best(mine, theirs, "speed"), 1.5)

    def prefix(self) -> None:
        """Many questions under one prefix, from the start of a process to its last answer."""
        count = self.count("prefix")
        prompts = self.chat(PREFIX_QUESTIONS, PREFIX)
        shared = next(at for at in range(len(prompts[0])) if len({prompt[at] for prompt in prompts}) > 1)
        mine, llama, server = [], [], []
        for _ in self.each_round():
            seconds, tokens = in_process("ours", self.machine, prompts, [count] * len(prompts))
            mine.append(sum(map(len, tokens)) / seconds)
            counts = [max(1, len(answer)) for answer in tokens]
            seconds, tokens = in_process("llama", self.machine, prompts, counts)
            llama.append(sum(map(len, tokens)) / seconds)
            if served := server_seconds(self.machine, SEQUENCES, prompts, counts):
                server.append(served[1] / served[0])
        print(f"  {len(prompts)} prompts of {spread(prompts)} tokens, {shared} shared, {sum(counts)} tokens generated")
        self.row("prefix", "Llama, one after another", max(mine), max(llama), 1.3)
        self.row("prefix", f"llama-server, {SEQUENCES} slots", max(mine), max(server, default=None), 2.5)

    def wide(self) -> None:
        """Many sequences of random tokens: tokens/s once all of them generate, and all in all."""
        count, n = self.count("wide"), self.parallel
        n_ctx = context_cells(n, WIDE_PROMPT + count)
        prompts = self.lasting(n, count, n_ctx)
        memories = {True: "one memory", False: "a share each"}
        mine: dict[bool, list[Run]] = {True: [], False: []}
        raw: dict[bool, list[Run]] = {True: [], False: []}
        programs: dict[bool, list[float]] = {True: [], False: []}
        for _ in self.each_round():
            for unified in memories:
                mine[unified].append(run_engine(self.model, self.machine, prompts, n, n_ctx, count, unified))
                raw[unified].append(self.raw(prompts, count, n_ctx, unified))
                if speed := batched_bench(self.machine, n, WIDE_PROMPT, count, unified):
                    programs[unified].append(speed)
        print(f"  {n} prompts of {WIDE_PROMPT} random tokens, {mine[True][-1].count} of {n * count} tokens generated")
        for unified, memory in memories.items():
            self.row("wide", f"bare ctypes, {memory}", *best(mine[unified], raw[unified], "generation_speed"), None)
            title = f"bare ctypes, {memory}, prompts included"
            self.row("wide", title, *best(mine[unified], raw[unified], "speed"), None)
            speed = max(run.generation_speed for run in mine[unified])
            peer = max(programs[unified], default=None)
            self.row("wide", f"llama-batched-bench, {memory}", speed, peer, None if unified else 0.9)

    def lasting(self, n: int, count: int, n_ctx: int) -> list[list[int]]:
        """Random prompts after which the model does not end early, as far as three tries find enough; not timed."""
        generator = np.random.default_rng(0)
        kept: list[list[int]] = []
        others: list[list[int]] = []
        for _ in range(3):
            drawn = [[self.plain(generator) for _ in range(WIDE_PROMPT)] for _ in range(n)]
            run = run_engine(self.model, self.machine, drawn, n, n_ctx, count)
            for prompt, answer in zip(drawn, run.tokens, strict=True):
                (kept if len(answer) == count else others).append(prompt)
            if len(kept) >= n:
                break
        return (kept + others)[:n]

    def plain(self, generator: np.random.Generator) -> int:
        """A random token that stands for text."""
        while self.model.is_special(token := int(generator.integers(self.model.n_vocab))):
            pass
        return token


def busy_share() -> float:
    """The share of the processors in use while this process sleeps for a moment. Linux; 0 elsewhere."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    before = [int(field) for field in stat.read_text().split("\n", 1)[0].split()[1:9]]
    time.sleep(0.3)
    after = [int(field) for field in stat.read_text().split("\n", 1)[0].split()[1:9]]
    ticks = [late - early for early, late in zip(before, after, strict=True)]
    return 1 - (ticks[3] + ticks[4]) / max(1, sum(ticks))  # idle, waiting for a disk


def best(mine: list[Run], theirs: list[Run], speed: str) -> tuple[float, float]:
    """The fastest round of each, by one of Run's speeds."""
    return max(getattr(run, speed) for run in mine), max(getattr(run, speed) for run in theirs)


def spread(prompts: Prompts) -> str:
    sizes = sorted(map(len, prompts))
    return f"{sizes[0]} to {sizes[-1]}"


def child(name: str, machine: Machine) -> None:
    """One contestant of the case prefix: prompts on stdin, the answers' tokens on stdout."""
    work = json.load(sys.stdin)
    prompts, counts = work["prompts"], work["counts"]
    if name == "ours":
        tokens = fresh_process(machine, prompts, counts, DEFAULT_CONTEXT, SEQUENCES)
    else:
        tokens = LlamaLoop(machine, DEFAULT_CONTEXT).run(prompts, counts).tokens
    print(json.dumps(tokens), flush=True)


def in_process(name: str, machine: Machine, prompts: Prompts, counts: Sequence[int]) -> tuple[float, list[list[int]]]:
    """Seconds from the start of a process of this script to its last answer, and the answers' tokens."""
    command = [sys.executable, __file__, "--child", name, "--model", str(machine.model)]
    command += ["--threads", str(machine.threads), "--gpu-layers", str(machine.gpu_layers)]
    command += ["--batch", str(machine.batch)]
    work = json.dumps({"prompts": list(map(list, prompts)), "counts": list(counts)})
    pipe = subprocess.PIPE
    started = time.perf_counter()
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin and process.stdout
        process.stdin.write(work)
        process.stdin.close()
        line = process.stdout.readline()
        seconds = time.perf_counter() - started
    if process.returncode or not line:
        sys.exit(f"the process of {name} failed ({process.returncode})")
    return seconds, json.loads(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a GGUF [default: the bundled SmolLM2]")
    parser.add_argument("--cases", default=",".join(TOKENS), help="[default: %(default)s]")
    parser.add_argument("--rounds", type=int, default=3, help="[default: %(default)s]")
    parser.add_argument("--parallel", type=int, help="sequences of the case wide [default: 64 on a GPU, else 16]")
    parser.add_argument("--tokens", type=int, help="tokens to generate for each prompt [default: the case's own]")
    parser.add_argument("--threads", type=int, default=physical_cores(), help="[default: one per physical core]")
    parser.add_argument("--gpu-layers", type=int, default=ALL_LAYERS, help="[default: all]")
    parser.add_argument("--batch", type=int, default=512, help="tokens in one decode call [default: %(default)s]")
    parser.add_argument("--child", choices=("ours", "llama"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    machine = Machine(args.model or bundled_model(), args.threads, args.gpu_layers, args.batch)
    if args.child:
        child(args.child, machine)
        return
    cases = args.cases.split(",")
    if unknown := set(cases) - set(TOKENS):
        parser.error(f"unknown cases: {', '.join(sorted(unknown))}")
    print(describe("stellar-local", "llama-cpp-python", "numpy"))
    print("; ".join(map(program_version, ("llama-server", "llama-bench", "llama-batched-bench"))))
    if foreign := foreign_libraries(api()):
        sys.exit(f"this process loads another build's libraries: {', '.join(foreign)}; unset LD_LIBRARY_PATH")
    gpu = api().llama_supports_gpu_offload() and args.gpu_layers > 0
    print(f"{machine.model.name}, {args.threads} threads, {'on a GPU' if gpu else 'on the CPU'}, best of {args.rounds}")
    with Runtime(machine.model, RuntimeOptions(ctx=TOKENIZER_CELLS, gpu_layers=args.gpu_layers)) as runtime:
        bench = Bench(runtime, machine, args.rounds, args.tokens, args.parallel or (64 if gpu else 16))
        run: dict[str, Callable[[], None]] = {
            "single": bench.single,
            "parallel": bench.parallel_case,
            "prefix": bench.prefix,
            "wide": bench.wide,
        }
        for case in cases:
            print(f"{case:46}{'ours':>9}{'peer':>9}   ratio", flush=True)
            run[case]()
    report(bench.rows)
    print(
        f"other work took up to {bench.others:.0%} of the processors; above some 10% compare again on a quiet machine"
    )


def report(rows: Sequence[Row]) -> None:
    """All rows with their aims, short."""
    print(f"\n{'case':10}{'peer':44}{'ours':>9}{'peer':>9}   ratio   aim")
    for case, peer, mine, theirs, aim in rows:
        verdict = "" if aim is None else f"{aim:6.2f} {'met' if mine >= aim * theirs else 'MISSED'}"
        print(f"{case:10}{peer:44}{mine:9.1f}{theirs:9.1f}{mine / theirs:8.2f}{verdict}")


if __name__ == "__main__":
    main()
