"""Everything once on a GPU, by the command line: convert, plan, doctor, chat and batch, in one table.

A base of a real model's shape with random weights is converted to Q4_K_M; then it is planned for, examined, talked to
for one turn, and asked 64 questions at once, with a shared context and with one for each. Each step is a process of its
own; its GPU memory is what the driver says that it holds at its peak, or, where that is not told, how much more is in
use than before. Answers are noise, and never end by themselves. Where a step computed is what llama.cpp's log says.

7B takes 18 GB of disk and a few minutes. Exits with 1 if a step failed, or computed on the processor though there is a
GPU. With --cpu everything runs without one, and main memory is shown.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from machine import describe
from made_vocabulary import EOS
from nvml import Gpus, open_gpus
from random_base import SHAPES, base_size, write_base
from readings import Peak, Watch

ROOT = Path(__file__).resolve().parent.parent
MIB = 1 << 20
LEVEL, PER_REQUEST, PARALLEL = "Q4_K_M", 512, 16
ENDLESS = ("--logit-bias", f"{EOS}=-100", "--temperature", "1", "--seed", "1")
_ON_PROCESSOR = "it ran on the processor, though there is a GPU"
_TIMEOUT = 480  # seconds for one step


@dataclass
class Run:
    """A command that was run: its output, how long it took, the memory it took, and when it wrote."""

    code: int
    out: str
    log: str
    seconds: float
    peak: Peak
    writing: float  # seconds from its first output to its last

    @property
    def layers(self) -> tuple[int, int] | None:
        """How many layers llama.cpp put on a GPU, and of how many; None where it has none."""
        found = re.findall(r"offloaded (\d+)/(\d+) layers to GPU", self.log)
        return (int(found[-1][0]), int(found[-1][1])) if found else None

    @property
    def complaint(self) -> str:
        """Its error, or the last line of its log."""
        lines = [line for line in self.log.splitlines() if line.strip()] or [""]
        errors = [line for line in lines if line.startswith("stellar: error: ")]
        return (errors or lines)[-1].removeprefix("stellar: error: ")[:160]


@dataclass
class Step:
    """A row of the table."""

    name: str
    seconds: float
    speed: float | None = None  # tokens a second
    memory: int | None = None
    planned: int | None = None
    where: str = ""
    failed: str = ""


class Smoke:
    """The steps, in a folder; the plan's predictions are kept for those that follow it."""

    def __init__(self, folder: Path, options: argparse.Namespace, nvidia: Gpus | None) -> None:
        self._folder, self._options, self._nvidia = folder, options, nvidia
        self._base, self._model = folder / "base", folder / "model"
        self._judged = nvidia is not None and not options.cpu
        self._without = ("--gpu-layers", "0") if options.cpu else ()
        self._planned: dict[str, int] = {}

    def steps(self) -> Iterator[Step]:
        """Run one after another; those that need one that failed are left out."""
        if not (self._model / "manifest.json").exists():
            if not (self._base / "config.json").exists():
                yield self._write()
            step = self._convert()
            yield step
            if step.failed:
                return
        if not self._options.dir:
            shutil.rmtree(self._base, ignore_errors=True)
        yield self._plan("plan")
        yield self._plan("plan, a context each", "--per-request", str(PER_REQUEST))
        if (doctor := self._doctor()) is not None:
            yield doctor
        yield self._chat()
        yield self._batch("batch, shared context", "batch")
        yield self._batch("batch, a context each", "batch each", "--per-request", str(PER_REQUEST))

    def _write(self) -> Step:
        began = time.perf_counter()
        write_base(self._base, self._options.shape, self._options.tokenizer)
        return Step(f"write a random {self._options.shape} base", time.perf_counter() - began)

    def _convert(self) -> Step:
        command = ["--base", str(self._base), "--out", str(self._model), "--levels", LEVEL, "--name", "smoke"]
        run = self._run("convert", *command, "--template", "bayling")
        return Step(f"convert to {LEVEL}", run.seconds, failed=_failure(run))

    def _plan(self, name: str, *more: str) -> Step:
        run = self._run("plan", str(self._model), "--json", "--parallel", str(PARALLEL), *more, *self._without)
        step = Step(name, run.seconds, memory=self._memory(run), failed=_failure(run))
        try:
            found = json.loads(run.out)
            for use, plan in (("chat", found["chat"]), ("batch each" if more else "batch", found["batch"])):
                first = plan["plans"][0]
                places = {place: parts["total"] for place, parts in first["memory"].items()}
                on_gpu = sum(size for place, size in places.items() if place != "RAM")
                self._planned[use] = places["RAM"] if self._options.cpu else on_gpu
                if use != "chat":
                    step.where = f"{first['gpu_layers']} of {first['layers']} layers, {first['ctx']:,} {first['kv']}"
        except (ValueError, KeyError, IndexError) as error:
            step.failed = step.failed or f"no plan: {error!r}"
        return step

    def _doctor(self) -> Step | None:
        """None where there is no such command."""
        if self._run("doctor", "--help").code:
            return None
        run = self._run("doctor", str(self._model), "--json")
        step = Step("doctor", run.seconds, memory=self._memory(run), failed=_failure(run))
        try:
            checks = {check["id"]: check for check in json.loads(run.out)["checks"]}
        except (ValueError, KeyError, TypeError):
            return step
        details = checks.get("generation", {}).get("details", {})
        step.speed = details.get("tokens_per_second")
        step.where = ", ".join(f"{count} layers: {device}" for device, count in details.get("layers", {}).items())
        if bad := [f"{name} ({check['found']})" for name, check in checks.items() if check["state"] == "failure"]:
            step.failed = "; ".join(bad)
        elif self._judged and set(details.get("layers", {})) == {"CPU"}:
            step.failed = _ON_PROCESSOR
        return step

    def _chat(self) -> Step:
        command = [str(self._model), "--prompt", "What is a parsec?", "--private", "-v", *ENDLESS]
        run = self._run("chat", *command, "--max-tokens", str(2 * self._options.tokens), *self._without)
        speed = (2 * self._options.tokens - 1) / run.writing if run.writing > 0 else None
        return self._computed("chat, one turn", run, speed, "chat")

    def _batch(self, name: str, use: str, *more: str) -> Step:
        lines = self._options.lines
        source, out = self._folder / "questions.jsonl", self._folder / f"{use.replace(' ', '-')}.jsonl"
        questions = [json.dumps({"id": number, "prompt": f"Question {number}?"}) for number in range(lines)]
        source.write_text("\n".join(questions) + "\n", encoding="utf-8")
        out.unlink(missing_ok=True)
        command = [str(self._model), "--in", str(source), "--out", str(out), "--json", "-v", *ENDLESS]
        command += ["--parallel", str(PARALLEL), "--max-tokens", str(self._options.tokens), *more, *self._without]
        run = self._run("batch", *command)
        try:
            summary = json.loads(run.out)
            step = self._computed(f"{name}, {lines} lines", run, summary["tokens_per_second"], use)
            if summary["answered"] != lines:
                step.failed = step.failed or f"{summary['answered']} of {lines} lines were answered"
        except (ValueError, KeyError) as error:
            step = self._computed(f"{name}, {lines} lines", run, None, use)
            step.failed = step.failed or f"no summary: {error!r}"
        return step

    def _computed(self, name: str, run: Run, speed: float | None, use: str) -> Step:
        """The row of a step that ran the model."""
        on_gpu, layers = bool(run.layers and run.layers[0]), run.layers
        where = f"GPU, {layers[0]} of {layers[1]} layers" if on_gpu and layers else "CPU"
        step = Step(name, run.seconds, speed, self._memory(run), self._planned.get(use), where, _failure(run))
        if self._judged and not step.failed:
            if not on_gpu:
                step.failed = _ON_PROCESSOR
            elif not step.memory:
                step.failed = "it took no GPU memory"
        return step

    def _memory(self, run: Run) -> int | None:
        """Bytes at the peak: on GPUs, or in main memory if there are none to use."""
        if self._judged:
            return run.peak.gpu
        return run.peak.main.total if run.peak.main else None

    def _run(self, command: str, *arguments: str) -> Run:
        """Run one command of ours and watch it."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("STELLAR_")}
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        environment |= {"STELLAR_DATA": str(self._folder / "data"), "LC_ALL": "C.UTF-8"}
        environment["STELLAR_CONFIG"] = str(self._folder / "none.toml")
        before = self._nvidia.used() if self._nvidia else 0
        line = [sys.executable, "-m", "stellar_local.cli", command, *arguments]
        began = time.perf_counter()
        with tempfile.TemporaryFile() as log:
            process = subprocess.Popen(
                line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env=environment, cwd=self._folder
            )
            with Watch(self._nvidia, before, process.pid, children=True) as watch:
                out, writing = _drain(process, began + _TIMEOUT)
            code = process.wait()
            seconds = time.perf_counter() - began
            log.seek(0)
            text = log.read().decode("utf-8", "replace")
        return Run(code, out, text, seconds, watch.peak, writing)


def _drain(process: subprocess.Popen[bytes], until: float) -> tuple[str, float]:
    """All that a process writes, and the seconds from the first to the last of it; it is ended when time is up."""
    import threading

    timer = threading.Timer(max(until - time.perf_counter(), 0), process.kill)
    timer.start()
    pipe: IO[bytes] | None = process.stdout
    assert pipe is not None
    parts, times = [], []
    try:
        while part := os.read(pipe.fileno(), 1 << 16):
            parts.append(part)
            times.append(time.perf_counter())
    finally:
        timer.cancel()
        pipe.close()
    return b"".join(parts).decode("utf-8", "replace"), times[-1] - times[0] if times else 0.0


def _failure(run: Run) -> str:
    return f"exit code {run.code}: {run.complaint}" if run.code else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="7b", help="[default: %(default)s]")
    parser.add_argument("--dir", type=Path, help="keep all files there, and use what is there already")
    parser.add_argument("--tokenizer", type=Path, help="a LLaMA tokenizer.model [default: a made one]")
    parser.add_argument("--lines", type=int, default=64, help="of the batch [%(default)s]")
    parser.add_argument("--tokens", type=int, default=64, help="of an answer; chat gives twice as many [%(default)s]")
    parser.add_argument("--cpu", action="store_true", help="run without a GPU")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there, too")
    options = parser.parse_args()
    nvidia = open_gpus()
    if nvidia is None and not options.cpu:
        print("not run: there is no NVIDIA GPU, or no driver for it; --cpu runs it anyway")
        return
    with tempfile.TemporaryDirectory(prefix="gpu-smoke-") as temporary:
        folder = (options.dir or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        needed, free = int(1.35 * base_size(options.shape)), shutil.disk_usage(folder).free
        if free < needed and not (folder / "model" / "manifest.json").exists():
            sys.exit(f"not run: {folder} has {free >> 30} GiB free, {needed >> 30} GiB are needed; --dir names another")
        print(describe("stellar-local", "llama-cpp-python", "torch"))
        print(f"{', '.join(nvidia.names()) if nvidia else 'no GPU'}; shape {options.shape}, {LEVEL}")
        sys.exit(0 if show(Smoke(folder, options, nvidia), options) else 1)


def show(smoke: Smoke, options: argparse.Namespace) -> bool:
    """Print a row for each step as it ends; whether all went well."""
    place = "RAM" if options.cpu else "GPU"
    print(f"\n{'step':34}{'s':>8}{'tok/s':>10}{place + ' MiB':>10}{'planned':>9}{'ratio':>7}  where", flush=True)
    rows: list[Step] = []
    for step in smoke.steps():
        rows.append(step)
        ratio = f"{step.planned / step.memory:.3f}" if step.planned and step.memory else "-"
        speed = "-" if step.speed is None else f"{step.speed:,.1f}"
        sizes = "".join(
            f"{'-' if size is None else f'{size / MIB:,.0f}':>{width}}"
            for size, width in ((step.memory, 10), (step.planned, 9))
        )
        end = f"FAILED: {step.failed}" if step.failed else step.where
        print(f"{step.name:34}{step.seconds:8.1f}{speed:>10}{sizes}{ratio:>7}  {end}", flush=True)
        if options.json:
            options.json.write_text(json.dumps([vars(row) for row in rows], indent=1), encoding="utf-8")
    failed = [row.name for row in rows if row.failed]
    print(f"\n{'failed: ' + '; '.join(failed) if failed else 'all steps went well'}")
    return not failed


if __name__ == "__main__":
    main()
