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

sys.path.remove(str(Path(__file__).parent))  # this file must not be taken for the package of its name

from convert import spm
from convert.llama import Shape
from convert.safetensors import header_bytes
from convert.space import readable

SHAPES = {  # hidden, intermediate, layers, heads, key-value heads: TinyLlama's and BayLing's
    "1b": (2048, 5632, 22, 32, 4),
    "7b": (4096, 11008, 32, 32, 32),
    "13b": (5120, 13824, 40, 40, 40),
}
LEVELS = "Q8_0,Q6_K,Q5_K_M,Q4_K_M,Q3_K_M"
VOCABULARY, RANK, SHARD = 32000, 8, 4 << 30

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
    width, inner, layers, heads, kv_heads = SHAPES[shape]
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
    }
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    pieces = [spm.Piece("<unk>", 0, spm.UNKNOWN), spm.Piece("<s>", 0, spm.CONTROL), spm.Piece("</s>", 0, spm.CONTROL)]
    pieces += [spm.Piece(f"<0x{byte:02X}>", 0, spm.BYTE) for byte in range(256)]
    pieces += [spm.Piece(f"▁{number}", -float(number)) for number in range(VOCABULARY - len(pieces))]
    (folder / "tokenizer.model").write_bytes(spm.build(spm.SpmModel(pieces), {"unk": 0, "bos": 1, "eos": 2}))
    generator = np.random.default_rng(0)
    noise = (generator.standard_normal(1 << 24, np.float32) * 0.02).astype(np.float16)
    shards: list[list[tuple[str, tuple[int, ...], str]]] = [[]]
    filled = 0
    for tensor in Shape.from_config(config).tensors():
        if filled + 2 * tensor.size > SHARD:
            shards.append([])
            filled = 0
        shards[-1].append((tensor.name, tensor.shape, "F16"))
        filled += 2 * tensor.size
    where = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        with (folder / name).open("wb") as file:
            file.write(header_bytes(shard, {"format": "pt"}))
            for tensor_name, dimensions, _ in shard:
                where[tensor_name] = name
                left = int(np.prod(dimensions))
                while left:  # the same noise from another place each time
                    start = int(generator.integers(0, 1 << 23))
                    part = noise[start : start + left] if len(dimensions) > 1 else np.ones(left, np.float16)
                    file.write(part.tobytes())
                    left -= len(part)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    write_adapter(adapter, config, generator)


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
