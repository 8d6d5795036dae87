"""What the planner predicts against what a process really takes, part by part, over many combinations.

On a machine with CUDA: models of 7B's and 13B's shapes, all zeros, which take no disk and as much memory as real ones;
the measured figure is what the driver says that the process holds on the GPU at its peak, or, where it does not tell
that, how much more is in use than before. With --cpu, or where llama.cpp has no GPU: main memory, with the demo's model
and the files of --model.

A model of 4 GB takes some 10 s. Predictions are `plan.estimate`'s, with the buffers that llama.cpp names in a load
without allocation, and by formula alone. Sizes in MiB; a ratio is predicted by measured. In main memory, a GPU's driver
maps its libraries: what is measured there must not be above the prediction, how far below is not judged.
Exits with 1 if a prediction was below what was measured, or more than 5% above it; where there is no flash attention,
above counts only if there was time to fill the context.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from machine import describe
from nvml import Gpus, open_gpus
from zero_gguf import write_zeros

from stellar_local.native.devices import Device
from stellar_local.native.header import read_header
from stellar_local.plan.estimate import HOST, Buffers, Need, Parts, Setup, estimate
from stellar_local.plan.hardware import Machine
from stellar_local.plan.probe import probe
from stellar_local.plan.weights import Weights
from stellar_local.quickstart import bundled_model
from stellar_local.runtime import sequences_of

ROOT, CHILD = Path(__file__).resolve().parent.parent, Path(__file__).with_name("plan_measure.py")
MIB = 1 << 20
WITHIN = 1.05
_FEW, _WIDTH = 4, 48  # layers; characters of a name
_COLUMNS = (9, 8, 9, 9, 9, 11, 10, 8, 6)
_LONGER = 6  # … to fill a context without flash attention, where what is taken grows with what is there
_TIMEOUT = 300  # seconds for one combination


@dataclass(frozen=True)
class Combination:
    """A model, a shape at a level or a file, and how it is run: `layers` on the GPU are all, half or few."""

    model: str
    ctx: int
    kv: str = "f16"
    parallel: int = 1
    layers: str = "all"
    separate: bool = False
    flash: str = "auto"
    batch: int = 512

    def setup(self, weights: Weights, on_gpu: bool) -> Setup:
        """As the planner makes it."""
        layers = {"all": weights.layers, "half": weights.layers // 2, "few": _FEW}[self.layers]
        return Setup(
            n_ctx=self.ctx,
            kv=self.kv,
            gpu_layers=layers if on_gpu else 0,
            sequences=sequences_of(self.parallel, self.separate),
            n_batch=min(self.batch, self.ctx),
            unified=not self.separate,
        ).attending(self.flash, weights.heads)

    def __str__(self) -> str:
        parts = [Path(self.model).name.removesuffix(".gguf"), f"{self.ctx:,}", self.kv, f"x{self.parallel}"]
        parts += [self.layers] if self.layers != "all" else []
        parts += ["separate"] * self.separate + [f"flash {self.flash}"] * (self.flash != "auto")
        parts += [f"batch {self.batch:,}"] * (self.batch != 512)
        return " ".join(parts)


ON_GPU = (
    Combination("7b Q4_K_M", 2048),
    Combination("7b Q4_K_M", 4096),
    Combination("7b Q4_K_M", 8192, "q8_0", 16),
    Combination("7b Q4_K_M", 8192, "f16", 16, separate=True),
    Combination("7b Q4_K_M", 32768, "q8_0", 64),
    Combination("7b Q4_K_M", 4096, batch=2048),
    Combination("7b Q4_K_M", 4096, flash="off"),
    Combination("7b Q4_K_M", 8192, flash="off"),
    Combination("7b Q4_K_M", 2048, layers="half", flash="off"),
    Combination("7b Q4_K_M", 4096, "q8_0", layers="few"),
    Combination("7b Q8_0", 4096, "f16"),
    Combination("7b Q8_0", 8192, "q8_0"),
    Combination("7b Q6_K", 8192, "q4_0"),
    Combination("7b Q6_K", 8192, "f16", 16),
    Combination("7b Q3_K_M", 2048, "q4_0"),
    Combination("7b Q3_K_M", 4096, "f16", layers="half"),
    Combination("7b F16", 4096),
    Combination("7b F16", 2048, "q8_0", layers="half"),
    Combination("8b Q4_K_M", 8192),
    Combination("8b Q4_K_M", 8192, "q8_0", layers="half"),
    Combination("8b Q6_K", 8192, "q8_0", 16),
    Combination("13b Q4_K_M", 4096),
    Combination("13b Q4_K_M", 4096, flash="off"),
    Combination("13b Q4_K_M", 4096, "q8_0"),
    Combination("13b Q3_K_M", 4096),
    Combination("13b Q3_K_M", 8192, "q8_0", 16),
    Combination("13b Q6_K", 4096, "q8_0", 16, layers="half"),
    Combination("13b Q6_K", 8192, "f16", 16),
    Combination("13b Q8_0", 2048, "q4_0"),
    Combination("13b Q8_0", 2048, layers="few"),
)


def on_cpu(models: Sequence[str]) -> Iterator[Combination]:
    """The same variety for each file, as far as a processor computes it in a while."""
    for model in models:
        yield Combination(model, 512)
        yield Combination(model, 2048)
        yield Combination(model, 4096, "q8_0")
        yield Combination(model, 2048, "q4_0")
        yield Combination(model, 4096, "f16", 16)
        yield Combination(model, 4096, "q8_0", 16)
        yield Combination(model, 4096, "f16", 8, separate=True)
        yield Combination(model, 2048, flash="on")


@dataclass
class Row:
    """One combination: what was predicted, by formula and with a probe, and the measuring process's answer."""

    combination: Combination
    formula: Need
    probed: Need | None
    answer: dict[str, Any]
    seconds: float
    gpus: tuple[str, ...] = field(default=())
    flash: bool = True

    @property
    def error(self) -> str:
        """Why nothing was measured."""
        return str(self.answer.get("error", ""))

    def parts(self, place: str, by_formula: bool = False) -> Parts:
        """The prediction for a place; for "GPU", all of them."""
        need = self.formula if by_formula or self.probed is None else self.probed
        return need.host if place == HOST else need.on_gpus

    def measured(self, place: str) -> int | None:
        """Bytes at the peak."""
        peak = self.answer.get("peak", {})
        if place == HOST:
            return peak.get("most")
        return peak.get("device") if peak.get("process") is None else peak["process"]

    def ratio(self, place: str, by_formula: bool = False) -> float | None:
        """Predicted by measured."""
        measured = self.measured(place)
        return self.parts(place, by_formula).total / measured if measured else None

    def rest(self, place: str, measured: int | None) -> int | None:
        """What was measured beside weights, KV and buffers."""
        parts = self.parts(place)
        return None if measured is None else measured - (parts.weights + parts.kv + parts.compute)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true", help="main memory, though there is a GPU")
    parser.add_argument("--model", type=Path, action="append", default=[], help="a file to measure too, on the CPU")
    parser.add_argument("--only", action="append", default=[], metavar="TEXT", help="those with this in the name")
    parser.add_argument("--most", type=int, help="at most so many combinations")
    parser.add_argument("--steps", type=int, default=4, help="tokens to generate in each sequence [%(default)s]")
    parser.add_argument("--seconds", type=float, default=20, help="to fill a context, at most [%(default)s]")
    parser.add_argument("--dir", type=Path, help="for files of zeros [default: a temporary folder]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there, as it comes")
    options = parser.parse_args()
    nvidia = None if options.cpu else open_gpus()
    here = {"gpus": []} if options.cpu else ask({})
    if here.get("error"):
        sys.exit(f"llama.cpp cannot be asked: {here['error']}")
    if nvidia and not here["gpus"]:
        sys.exit(f"llama.cpp has no GPU, though there is one ({', '.join(nvidia.names())}); --cpu measures without it")
    machine = Machine(None, tuple(Device(**values) for values in here["gpus"]))
    print(describe("stellar-local", "llama-cpp-python"))
    for device in machine.gpus:
        print(f"{device.name}: {device.description}, {device.total / MIB:,.0f} MiB, {device.free / MIB:,.0f} free")
    if machine.gpus:
        print(
            f"the driver's context alone, MiB: {told(here['process'])} by process, {told(here['device'])} more in use; "
            f"in main memory {told(here['driver'])}"
        )
        chosen = list(ON_GPU) + [Combination(str(model), 4096) for model in options.model]
    else:
        chosen = list(on_cpu([str(bundled_model()), *map(str, options.model)]))
    chosen = [one for one in chosen if not options.only or any(text in str(one) for text in options.only)]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="plan-accuracy-", dir=options.dir) as folder:
        print_heads()
        for row in measured(chosen[: options.most], machine, nvidia, Path(folder), options):
            rows.append(row)
            print_row(row)
            if options.json:
                values = {"machine": here, "rows": [as_values(one) for one in rows]}
                options.json.write_text(json.dumps(values, indent=1), encoding="utf-8")
    if not rows:
        sys.exit("no combination has that in its name")
    print_rests(rows, here)
    sys.exit(0 if summary(rows) else 1)


def measured(
    chosen: Sequence[Combination], machine: Machine, nvidia: Gpus | None, folder: Path, options: argparse.Namespace
) -> Iterator[Row]:
    """Each combination predicted and measured; a model's file of zeros is there as long as it is needed."""
    for model, group in groupby(chosen, key=lambda one: one.model):
        combinations, path = list(group), Path(model)
        if made := not path.is_file():
            path = folder / f"{model.replace(' ', '-')}.gguf"
            write_zeros(*model.split(), path)
        weights = Weights.of(read_header(path))
        setups = [one.setup(weights, bool(machine.gpus)) for one in combinations]
        for one, setup, buffers in zip(combinations, setups, probe(path, setups), strict=True):
            yield measure(one, setup, path, weights, machine, buffers, nvidia, options)
        if made:
            path.unlink()


def measure(
    combination: Combination,
    setup: Setup,
    path: Path,
    weights: Weights,
    machine: Machine,
    buffers: Buffers | None,
    nvidia: Gpus | None,
    options: argparse.Namespace,
) -> Row:
    """One combination, in a process of its own."""
    formula = estimate(weights, setup, machine)
    probed = estimate(weights, setup, machine, buffers) if buffers else None
    began = time.perf_counter()
    seconds = options.seconds * (1 if setup.flash else _LONGER)
    job = {"path": str(path), "setup": asdict(setup), "steps": options.steps, "seconds": seconds}
    answer = ask({**job, "before": settled(nvidia.used) if nvidia and machine.gpus else 0})
    gpus = tuple(device.name for device in machine.gpus)
    return Row(combination, formula, probed, answer, time.perf_counter() - began, gpus, setup.flash)


def settled(used: Callable[[], int], seconds: float = 5) -> int:
    """What is in use once it no longer changes: memory of a process that ended comes back a little later."""
    until, last = time.perf_counter() + seconds, used()
    while time.perf_counter() < until:
        time.sleep(0.2)
        now = used()
        if now == last:
            break
        last = now
    return last


def ask(job: dict[str, Any]) -> dict[str, Any]:
    """What the measuring process answers; an `error` if it fails."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    try:
        done = subprocess.run(
            [sys.executable, str(CHILD), json.dumps(job)],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            env=environment,
            timeout=_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"not done in {_TIMEOUT} s"}
    try:
        found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        why = " | ".join(done.stderr.strip().splitlines()[-4:])[-600:]
        return {"error": f"exit code {done.returncode}: {why}"}
    return found


def told(size: int | None) -> str:
    """Bytes as MiB, a dash for what is not known."""
    return "-" if size is None else f"{size / MIB:,.0f}"


def print_heads() -> None:
    names = ("weights", "KV", "compute", "formula", "runtime", "predicted", "measured", "ratio", "s")
    print(f"\n{'':{_WIDTH}}{'':5}{line(names, _COLUMNS)}", flush=True)


def line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Cells at the right of their columns."""
    return "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))


def print_row(row: Row) -> None:
    if row.error:
        print(f"{row.combination!s:{_WIDTH}} {row.error}", flush=True)
        return
    for place in places(row):
        parts, ratio, first = row.parts(place), row.ratio(place), place == places(row)[0]
        cells = [told(size) for size in (parts.weights, parts.kv, parts.compute)]
        cells += [told(row.parts(place, by_formula=True).compute), told(parts.runtime), told(parts.total)]
        cells += [told(row.measured(place)), "-" if ratio is None else f"{ratio:.3f}"]
        cells += [f"{row.seconds:.0f}" if first else ""]
        filled = "" if row.answer["filled"] == 1 or not first else f"  {row.answer['filled']:.0%} of the context filled"
        print(f"{row.combination if first else ''!s:{_WIDTH}}{place:5}{line(cells, _COLUMNS)}{filled}", flush=True)


def places(row: Row) -> list[str]:
    """Where something is measured."""
    return ["GPU", HOST] if row.gpus else [HOST]


def print_rests(rows: Sequence[Row], here: dict[str, Any]) -> None:
    """What a process takes beside weights, KV and buffers, the least first: constants are fitted from this."""
    good = [row for row in rows if not row.error]
    if here["gpus"]:
        print("\nGPU memory beside weights, KV and compute: after a full batch, and at the peak")
        print(f"{'':{_WIDTH}}{'batch, by process':>20}{'more in use':>13}{'peak, by process':>20}{'more in use':>13}")
        for row in sorted(good, key=lambda row: row.rest("GPU", row.measured("GPU")) or 0):
            warm, peak = row.answer["stages"]["warm"], row.answer["peak"]
            cells = [told(row.rest("GPU", one[by])) for one in (warm, peak) for by in ("process", "device")]
            print(f"{row.combination!s:{_WIDTH}}{line(cells, (20, 13, 20, 13))}")
    print("\nmain memory beside weights, KV and compute: the program alone, and all at the peak; of it, pages of files")
    for row in sorted(good, key=lambda row: row.rest(HOST, row.measured(HOST)) or 0):
        program, peak = row.answer["stages"]["program"], row.answer["peak"]
        sizes = (program["main"], row.rest(HOST, row.measured(HOST)), peak.get("files"))
        print(f"{row.combination!s:{_WIDTH}}" + "".join(f"{told(size):>11}" for size in sizes))


def summary(rows: Sequence[Row]) -> bool:
    """Say how far predictions are off; whether all are as they must be."""
    failed = [row for row in rows if row.error]
    good, fine = [row for row in rows if not row.error], not failed
    print()
    for place in places(rows[0]):
        judged = place == "GPU" or not rows[0].gpus
        for by_formula in (False, True):
            ratios = sorted(ratio for row in good if (ratio := row.ratio(place, by_formula)) is not None)
            if len(ratios) < len(good) or not ratios:
                print(f"{place}: measured in {len(ratios)} of {len(good)} combinations")
                fine = fine and place != "GPU"
            if not ratios:
                continue
            whole = [row.ratio(place, by_formula) or 0 for row in good if row.flash or row.answer["filled"] == 1]
            enough, near = ratios[0] >= 1, max(whole, default=0) <= WITHIN
            how = "by formula alone" if by_formula else "with the probe's buffers"
            words = ("yes" if enough else "NO", "yes" if near else "NO" if judged else "no")
            verdict = "never below: {}; within 5%: {}".format(*words)
            print(f"{place}, {how}: ratio {ratios[0]:.3f} to {ratios[-1]:.3f}, {verdict}")
            if not by_formula:
                fine = fine and enough and (near or not judged)
    unprobed = sum(row.probed is None for row in good)
    if unprobed:
        print(f"{unprobed} combinations could not be probed")
    print(f"{len(good)} combinations measured, {len(failed)} failed, {sum(row.seconds for row in rows):.0f} s")
    return fine


def as_values(row: Row) -> dict[str, Any]:
    """Everything about a combination."""
    return {
        "combination": str(row.combination),
        **asdict(row.combination),
        "formula": {place: asdict(parts) for place, parts in row.formula.places.items()},
        "probed": row.probed and {place: asdict(parts) for place, parts in row.probed.places.items()},
        "ratio": {place: row.ratio(place) for place in places(row)},
        "rest": {place: row.rest(place, row.measured(place)) for place in places(row)},
        "seconds": round(row.seconds, 1),
        **row.answer,
    }


if __name__ == "__main__":
    main()
