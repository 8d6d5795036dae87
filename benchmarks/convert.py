"""Merging and quantizing to several levels: one `stellar convert` against PEFT's merge and llama.cpp's quantizer.

Both start from the same random base and adapter, on the same threads. The peer is PEFT's `merge_and_unload` with
`save_pretrained`, then one `llama_model_quantize` call a level from an F16 GGUF; with --converter, llama.cpp's
convert_hf_to_gguf.py makes that file and is timed too. Each step is a process of its own, so that its wall time and
peak memory are its own.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from machine import describe
from random_base import SHAPES, config_of, write_base

sys.path.remove(str(Path(__file__).parent))  # this file must not be taken for the package of its name

from convert.llama import Shape
from convert.safetensors import header_bytes
from convert.space import readable

LEVELS = "Q8_0,Q6_K,Q5_K_M,Q4_K_M,Q3_K_M"
RANK = 8

MERGE = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
base, adapter, out = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float16)
PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(out)
"""
QUANTIZE = """
import ctypes, sys, llama_cpp
source, target, ftype, threads = sys.argv[1:]
quiet = llama_cpp.llama_log_callback(lambda *_: None)
llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
params = llama_cpp.llama_model_quantize_default_params()
params.ftype, params.nthread = int(ftype), int(threads)
sys.exit(llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params)))
"""
# A process inherits its parent's peak, so a small one stands between this and what is measured.
LAUNCH = """
import os, subprocess, sys, time
started = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
print(time.perf_counter() - started, usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status) != 0)
"""


def write_model(folder: Path, adapter: Path, shape: str) -> None:
    """Write a random float16 base of a named shape, in shards, and a rank-8 adapter of q, k, v and o."""
    write_base(folder, shape, dtype="F16")
    write_adapter(adapter, config_of(shape, "F16"), np.random.default_rng(0))


def write_adapter(folder: Path, config: dict[str, object], generator: np.random.Generator) -> None:
    """Write a PEFT adapter with non-zero A and B."""
    folder.mkdir(parents=True)
    modules = ["q_proj", "k_proj", "v_proj", "o_proj"]
    settings = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 16, "target_modules": modules}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    entries = []
    for tensor in Shape.from_config(config).tensors():
        module = tensor.name.removesuffix(".weight")
        if module.endswith(tuple(modules)):
            rows, columns = tensor.shape
            entries.append((f"base_model.model.{module}.lora_A.weight", (RANK, columns), "F32"))
            entries.append((f"base_model.model.{module}.lora_B.weight", (rows, RANK), "F32"))
    with (folder / "adapter_model.safetensors").open("wb") as file:
        file.write(header_bytes(entries, {"format": "pt"}))
        for _, dimensions, _ in entries:
            file.write((generator.standard_normal(dimensions, np.float32) * 0.02).tobytes())


def measure(arguments: list[str]) -> tuple[float, int]:
    """Run a command; seconds and the largest resident size of the process in bytes. Exits if it fails."""
    done = subprocess.run([sys.executable, "-c", LAUNCH, *arguments], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"failed: {' '.join(arguments)[:200]}\n{done.stderr[-2000:]}")
    seconds, memory = done.stdout.split()[-2:]
    return float(seconds), int(memory) * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="1b")
    parser.add_argument("--levels", default=LEVELS)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--dir", type=Path, help="where the models go [default: a temporary folder]")
    parser.add_argument("--converter", type=Path, help="llama.cpp's convert_hf_to_gguf.py, timed if given")
    parser.add_argument("--no-merge", action="store_true", help="leave out PEFT's merge")
    args = parser.parse_args()
    print(describe("stellar-local", "llama-cpp-python", "numpy", "torch", "peft"), flush=True)
    with tempfile.TemporaryDirectory(dir=args.dir) as name:
        compare(Path(name), args)


def compare(folder: Path, args: argparse.Namespace) -> None:
    """Time both ways and print a table."""
    from convert.levels import parse_levels

    base, adapter, out = folder / "base", folder / "adapter", folder / "out"
    write_model(base, adapter, args.shape)
    python, threads = sys.executable, str(args.threads)
    ours = [python, "-m", "stellar_local.cli", "convert", "--base", str(base), "--adapter", str(adapter)]
    ours += ["--threads", threads, "--name", "m", "--out"]
    rows: list[tuple[str, float, int]] = []

    def step(label: str, arguments: list[str]) -> None:
        seconds, memory = measure(arguments)
        rows.append((label, seconds, memory))
        print(f"{label:44}{seconds:9.1f} s {readable(memory):>12}", flush=True)

    print(f"{args.shape}, {args.levels}, {threads} threads{'':20}wall      peak memory", flush=True)
    step("stellar convert, all levels at once", [*ours, str(out), "--levels", args.levels])
    written = sum(path.stat().st_size for path in out.glob("*.gguf"))
    shutil.rmtree(out)
    f16 = folder / "m-F16.gguf"
    merged = folder / "merged"
    if not args.no_merge:
        step("PEFT merge_and_unload, save_pretrained", [python, "-c", MERGE, str(base), str(adapter), str(merged)])
    if args.converter and not args.no_merge:
        shutil.copyfile(base / "tokenizer.model", merged / "tokenizer.model")
        step("convert_hf_to_gguf.py, F16", [python, str(args.converter), str(merged), "--outfile", str(f16)])
    else:  # not timed: only to have something to quantize
        subprocess.run([*ours, str(folder / "f16"), "--levels", "F16"], check=True, stderr=subprocess.DEVNULL)
        f16 = folder / "f16" / "m-F16.gguf"
    for unneeded in (merged, base):
        shutil.rmtree(unneeded, ignore_errors=True)
    for level in parse_levels(args.levels):
        target = folder / f"peer-{level.name}.gguf"
        quantize = [python, "-c", QUANTIZE, str(f16), str(target), str(level.ftype), threads]
        step(f"llama_model_quantize, {level.name}", quantize)
        target.unlink()
    f16.unlink()
    (_, first, _), *others = rows
    peer = sum(seconds for _, seconds, _ in others)
    quantizing = sum(seconds for label, seconds, _ in others if label.startswith("llama_model_quantize"))
    merging = sum(seconds for label, seconds, _ in others if label.startswith("PEFT"))
    print(f"{'the peer, all steps':44}{peer:9.1f} s, ratio {first / peer:.2f}")
    for label, seconds in (("its merge and quantizing", merging + quantizing), ("its quantizing alone", quantizing)):
        print(f"{label:44}{seconds:9.1f} s, ratio {first / seconds:.2f}")
    print(f"{readable(written)} written, nothing in between")


if __name__ == "__main__":
    main()
