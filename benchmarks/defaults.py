"""What each hardware choice is worth on this machine, and whether our default is the best: threads, batch size, flash
attention, type of the KV cache, mapped or read, locked, layers on the GPU, shares of several GPUs, answers at once.

One choice varies at a time, the others are at their defaults. Each setting is measured in a fresh process
(one_setting.py), all settings of a choice in turns, so that what else runs on the machine falls on all of them; medians
count, or with --best each setting's best round, for a machine in use: other work only ever makes a round slower. The
tokens are random: the text does not matter for the speed. "generation" is measured after the prompt, whose tokens it
attends to. Loading is from opening the file to the first token; cold, the file was dropped from the system's cache
first (a virtual disk's host may still have it). With --processor-time the tokens are those of a second that the
processor worked on them, in one thread: it compares what is left to compare then, however busy the machine is.

The model is SmolLM2-135M, a GGUF, or a made one with random weights of a real model's shape (--shape).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import random_gguf
from machine import describe
from one_setting import Measured, Setting

from stellar_local.config import RuntimeOptions
from stellar_local.native.cores import default_threads, physical_cores
from stellar_local.native.devices import gpus
from stellar_local.native.header import read_header
from stellar_local.native.library import api
from stellar_local.native.model import ALL_LAYERS
from stellar_local.plan.choose import PARALLEL
from stellar_local.runtime import DEFAULT_KV

CLOSE = 0.97  # a default that reaches this share of the best speed is as good
SPEEDS = {"prompt": "prompt tok/s", "generation": "generation tok/s", "load": "loading s", "cold": "cold s"}
BY_PROCESSOR = ("batch-size", "flash-attn", "kv", "parallel")  # choices that change the work of one thread
TIMES = ("load", "cold")  # of these the least is the best
MEMORY = {"own": "own MiB", "mapped": "files MiB", "gpu": "GPU MiB"}


Found = dict[str, dict[str, list[float]]]  # setting → measure → rounds


@dataclass
class Axis:
    """One choice: its settings by their labels, the default's label, and by which measures it is judged."""

    name: str
    title: str
    settings: dict[str, Setting]
    default: str
    judged: Sequence[str] = ("prompt", "generation")
    memory: Sequence[str] = ()


def axes(base: Setting, layers: int, longer: int) -> list[Axis]:
    """Every choice that this machine has; `longer` is the prompt's length where batch sizes are compared.

    What "auto" is without a GPU is left out: "off" for flash attention of one sequence, "on" for mapping.
    """
    devices = gpus()

    def vary(values: Sequence[object], *fields: str, **more: object) -> dict[str, Setting]:
        found = {}
        for value in values:
            label = ",".join(f"{one:g}" for one in value) if isinstance(value, tuple) else str(value)
            found[label or "auto"] = replace(base, **dict.fromkeys(fields, value), **more)
        return found

    logical = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = physical_cores()
    counts = sorted({1, max(1, cores // 2), cores, logical, base.threads})
    sizes = sorted({64, 128, 256, 512, 1024, 2048, base.batch_size})
    sizes = [size for size in sizes if size <= longer or size == base.batch_size]
    several = sorted({1, 4, 16, 32, 64, PARALLEL})
    short, few = min(32, base.prompt), max(2, base.tokens // 3)
    found = [
        Axis("threads", "threads", vary(counts, "threads", "prompt_threads"), str(base.threads)),
        Axis(
            "prompt-threads", "threads for prompts alone", vary(counts, "prompt_threads"), str(base.threads), ["prompt"]
        ),
        Axis(
            "batch-size",
            f"batch size (a prompt of {longer} tokens)",
            vary(sizes, "batch_size", prompt=longer, tokens=2),
            str(base.batch_size),
            ["prompt"],
            ["own", "gpu"],
        ),
        Axis(
            "flash-attn",
            "flash attention",
            vary(["auto", "on", "off"] if devices else ["auto", "on"], "flash_attn"),
            base.flash_attn,
            memory=["own", "gpu"],
        ),
        Axis("kv", "type of the KV cache", vary(["f16", "q8_0", "q4_0"], "kv"), base.kv, memory=["own", "gpu"]),
        Axis(
            "mmap",
            "mapped into memory, or read",
            vary(["auto", "on", "off"] if devices else ["auto", "off"], "mmap", prompt=short),
            base.mmap,
            ["load", "cold", "generation"],
            ["own", "mapped"],
        ),
        Axis(
            "mlock",
            "locked in memory",
            vary(["off", "on"], "mlock", prompt=short),
            base.mlock,
            ["load", "generation"],
            ["own", "mapped"],
        ),
        Axis(
            "parallel",
            f"answers at once in batch ({short} tokens of prompt each; all together)",
            vary(several, "sequences", prompt=short, tokens=few, batch_size=max(base.batch_size, 64)),
            str(PARALLEL),
            memory=["own", "gpu"],
        ),
    ]
    if devices:
        offloaded = vary([ALL_LAYERS, layers // 2, 0], "gpu_layers")
        named = dict(zip(["all", f"half ({layers // 2})", "none"], offloaded.values(), strict=True))
        found.append(Axis("gpu-layers", "layers on the GPU", named, "all", memory=["own", "gpu"]))
        if len(devices) > 1:
            equal, first = (1.0,) * len(devices), (1.0, *(0.0 for _ in devices[1:]))
            splits = vary([(), equal, first], "tensor_split")
            found.append(Axis("tensor-split", "shares of the GPUs", splits, "auto", memory=["gpu"]))
    return [axis for axis in found if axis.name in BY_PROCESSOR] if base.processor else found


def run(setting: Setting) -> Measured:
    """One measurement in a fresh process."""
    script = Path(__file__).with_name("one_setting.py")
    argv = [sys.executable, str(script), json.dumps(asdict(setting))]
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return Measured(error=last)
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def measure(axis: Axis, rounds: int) -> Found:
    """All rounds' figures by setting and measure; a setting that fails has its reason as the only key."""
    found: Found = {label: {} for label in axis.settings}
    for number in range(rounds):
        order = list(axis.settings) if number % 2 == 0 else list(axis.settings)[::-1]
        for label in order:
            setting = axis.settings[label]
            results = {"": run(setting)}
            if "cold" in axis.judged:
                results["cold"] = run(replace(setting, cold=True))
            for kind, result in results.items():
                if result.error:
                    if not kind:
                        found[label] = {result.error: []}
                    continue
                values = {"cold": result.load} if kind else asdict(result)
                for name, value in values.items():
                    if isinstance(value, float):
                        found[label].setdefault(name, []).append(value)
    return found


def counted(found: Found, name: str, best: bool) -> dict[str, float]:
    """One measure by setting: the rounds' median, or their best."""
    how = statistics.median if not best else min if name in TIMES else max
    return {label: how(kinds[name]) for label, kinds in found.items() if kinds.get(name)}


def reached(values: dict[str, float], name: str, label: str) -> float:
    """A setting's share of the best speed, or the best time's share of its own."""
    best = min(values.values()) if name in TIMES else max(values.values())
    return best / values[label] if name in TIMES else values[label] / best


def report(axis: Axis, found: Found, best: bool) -> None:
    """Print an axis's table and its verdict."""
    speeds = {name: counted(found, name, best) for name in SPEEDS if name in axis.judged}
    speeds = {name: values for name, values in speeds.items() if values}
    memory = {name: values for name in axis.memory if (values := counted(found, name, False))}
    print(f"\n{axis.title} (--axis {axis.name})")
    head = f"{'':14}" + "".join(f"{SPEEDS[name]:>18}  ratio " for name in speeds)
    print(head + "".join(f"{MEMORY[name]:>12}" for name in memory))
    for label, kinds in found.items():
        line = f"{label:14}"
        for name, values in speeds.items():
            if label not in values:
                line += f"{'—':>18}{'':8}"
                continue
            share = reached(values, name, label)
            number = f"{values[label]:.3f}" if name in TIMES else f"{values[label]:.1f}"
            line += f"{number:>18}  {share:.2f}{'* ' if share == 1 else '  '}"
        line += "".join(f"{values[label]:12.0f}" if label in values else f"{'—':>12}" for values in memory.values())
        failed = next((name for name, rounds in kinds.items() if not rounds), "")
        print((line + ("  ← default" if label == axis.default else "") + (f"  {failed}" if failed else "")).rstrip())
    print(verdict(axis, speeds) + spread(axis, found, speeds))


def verdict(axis: Axis, speeds: dict[str, dict[str, float]]) -> str:
    """Whether the default is within 3% of the best by each measure."""
    behind = []
    for name, values in speeds.items():
        if axis.default in values and (share := reached(values, name, axis.default)) < CLOSE:
            first = next(label for label in values if reached(values, name, label) == 1)
            behind.append(f"{share:.2f} of the best {SPEEDS[name].rsplit(' ', 1)[0]} ({first})")
    if not any(axis.default in values for values in speeds.values()):
        return f"the default ({axis.default}) could not be measured"
    if behind:
        return f"the default ({axis.default}) reaches {', '.join(behind)}"
    return f"the default ({axis.default}) is within 3% of the best"


def spread(axis: Axis, found: Found, speeds: dict[str, dict[str, float]]) -> str:
    """How far the default's own rounds lie apart, in words; "" for a single round."""
    rounds = [found[axis.default].get(name, []) for name in speeds]
    apart = [(max(values) - min(values)) / statistics.median(values) for values in rounds if len(values) > 1]
    return f"; its rounds differ by {max(apart):.0%}" if apart else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a GGUF, or a folder with some [default: SmolLM2-135M]")
    parser.add_argument(
        "--shape", choices=random_gguf.SHAPES, help="a model of this shape with random weights, made for the run"
    )
    parser.add_argument("--axis", action="append", metavar="NAME", help="measure this choice only (may be repeated)")
    parser.add_argument("--best", action="store_true", help="count each setting's best round, not the median")
    parser.add_argument("--processor-time", action="store_true", help="one thread, by the processor's time")
    parser.add_argument("--rounds", type=int, default=3, help="[default: %(default)s]")
    parser.add_argument(
        "--prompt",
        type=int,
        help="tokens of a prompt [default: 256, with a GPU 1024; to compare batch sizes 4 times as many]",
    )
    parser.add_argument("--tokens", type=int, default=32, help="tokens generated [default: %(default)s]")
    parser.add_argument("--json", action="store_true", help="print every round's figures as one JSON object instead")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.shape:
            model = Path(folder) / f"random-{args.shape}-Q4_K.gguf"
            random_gguf.write(args.shape, model)
        elif args.model:
            model = (
                args.model
                if args.model.is_file()
                else max(args.model.glob("*.gguf"), key=lambda one: one.stat().st_size)
            )
        else:
            from stellar_local.quickstart import bundled_model

            model = bundled_model()
        compare(model, args)


def compare(model: Path, args: argparse.Namespace) -> None:
    """Measure and print."""
    usual = 1024 if gpus() else 256
    options, layers = RuntimeOptions(), int(read_header(model).value("block_count", 0))
    threads = 1 if args.processor_time else default_threads()
    base = Setting(
        model=str(model),
        threads=threads,
        prompt_threads=threads,
        batch_size=options.batch_size,
        flash_attn=options.flash_attn,
        kv=options.kv or DEFAULT_KV,
        mmap=options.mmap,
        mlock=options.mlock,
        gpu_layers=0 if args.processor_time else ALL_LAYERS,
        tensor_split=options.tensor_split,
        sequences=1,
        prompt=args.prompt or usual,
        tokens=max(2, args.tokens),
        processor=args.processor_time,
    )
    chosen = axes(base, layers, args.prompt or 4 * usual)
    if unknown := set(args.axis or ()) - {axis.name for axis in chosen}:
        names = ", ".join(axis.name for axis in chosen)
        raise SystemExit(f"no such choice on this machine: {', '.join(unknown)}; there are {names}")
    facts = {
        "machine": describe("stellar-local", "llama-cpp-python"),
        "gpus": [f"{device.name} ({device.description})" for device in gpus()],
        "llama.cpp": api().llama_print_system_info().decode().strip(" |\n"),
        "model": f"{model.name}, {model.stat().st_size / (1 << 20):,.0f} MiB, {layers} layers",
        "clock": "the processor's time in one thread" if args.processor_time else "wall time",
        "rounds": args.rounds,
        "load": [round(one, 2) for one in os.getloadavg()] if hasattr(os, "getloadavg") else None,
    }
    how = "the best of" if args.best else "medians of"
    if not args.json:
        print(facts["machine"])
        print(f"GPUs: {', '.join(facts['gpus']) or 'none'}; llama.cpp: {facts['llama.cpp']}")
        print(f"{facts['model']}; {base.prompt} + {base.tokens} tokens, {how} {args.rounds} rounds in turns")
        print(
            f"{facts['clock']}; load of the machine before: {facts['load']}; *: the best of a column, ratios are to it"
        )
    done = {}
    for axis in chosen:
        if args.axis and axis.name not in args.axis:
            continue
        found = measure(axis, args.rounds)
        done[axis.name] = {"default": axis.default, "judged": list(axis.judged), "settings": found}
        if not args.json:
            report(axis, found, args.best)
            sys.stdout.flush()
    if args.json:
        print(json.dumps({**facts, "axes": done}, ensure_ascii=False, indent=1))


if __name__ == "__main__":
    main()
