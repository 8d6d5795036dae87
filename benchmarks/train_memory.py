"""GPU memory and speed of training BayLing's shapes in 4 bits: the plain recipe against `stellar train`, in one run.

The plain recipe is Transformers, PEFT and bitsandbytes as their documentation has it, with gradient checkpointing, and
for --liger Liger's kernels over it; ours is the whole command, from reading the data to the verified adapter, with
loading and an evaluation, under set_per_process_memory_fraction. Weights are random, which changes neither figure. The
table's rows are full: every token is trained on. The mix is rows as they come (--data), cut at 256 tokens: the plain
recipe pads the two rows of a micro-batch to the longer one, as alpaca-lora does. Each row of the tables is a process.

tok/s counts the tokens of samples, not padding, over whole optimizer steps without the first two. Sizes in GiB: at
the peak, allocated by tensors and reserved by the allocator. Needs CUDA and a LLaMA tokenizer.model; 45 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from machine import describe
from random_base import VOCABULARY, write_base

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from train.corpus import Triple, read, shipped, write  # noqa: E402

GIB = 1 << 30
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj")
STEPS = 8
# Shape, rows a micro-batch, tokens a row, and the memory (GiB) that ours may use, runtime included.
GRID = {
    "13b": [(2, 256, 12), (4, 512, 12), (4, 1024, 12), (4, 1024, 8)],
    "7b": [(4, 512, 12), (4, 1024, 8), (4, 1024, 6)],
    "tiny": [(2, 64, 12), (4, 128, 12)],
}
MIX_CUTOFF, MIX_BATCH, MIX_ROWS = 256, 128, 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, help="LLaMA's tokenizer.model")
    parser.add_argument("--data", type=Path, help="triples for the mix [default: our corpus]")
    parser.add_argument("--folder", type=Path, help="where models go [default: a temporary folder]")
    parser.add_argument("--shapes", default="13b,7b", help="[default: %(default)s]")
    parser.add_argument("--liger", action="store_true", help="measure Liger's kernels too (pip install liger-kernel)")
    parser.add_argument("--packing", type=int, nargs="*", default=[4096], help="of the mix [%(default)s]")
    parser.add_argument("--no-table", action="store_true", help="measure the mix alone")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        job = json.loads(options.worker)
        {"plain": plain, "ours": ours}[job["how"]](job)
        return
    import torch

    if not torch.cuda.is_available() or options.tokenizer is None:
        print("not run: it needs a GPU for CUDA, and --tokenizer with LLaMA's tokenizer.model")
        return
    print(f"{torch.cuda.get_device_name()}; {describe('torch', 'transformers', 'peft', 'bitsandbytes')}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        for shape in options.shapes.split(","):
            base = folder / shape
            if not base.exists():
                write_base(base, shape, options.tokenizer)
            if not options.no_table:
                table(shape, base, folder, options.liger)
            if shape in ("13b", "tiny"):
                mix(base, folder, options)


def table(shape: str, base: Path, folder: Path, liger: bool) -> None:
    """Full rows: memory and speed."""
    print(f"\n{shape}, NF4, r=8 on q, k, v, o, every row full")
    print(f"{'':44}{'allocated':>10}{'reserved':>10}{'tok/s':>9}{'ratio':>7}", flush=True)
    data = folder / "long.json"
    write(long_rows(64), data)
    seen: dict[tuple[int, int], float] = {}
    for rows, tokens, gib in GRID[shape]:
        common = {"base": str(base), "data": str(data), "rows": rows, "tokens": tokens, "out": str(folder / "out")}
        if (rows, tokens) not in seen:
            found = run({**common, "how": "plain", "liger": False})
            seen[rows, tokens] = found.get("speed", 0)
            show(f"{rows} x {tokens}, plain", found)
            if liger:
                show(f"{rows} x {tokens}, Liger's kernels", run({**common, "how": "plain", "liger": True}))
        job = {
            **common,
            "how": "ours",
            "gib": gib,
            "batch": rows,
            "packing": rows * tokens,
            "validation": rows,
            "prompts": True,
        }
        show(f"{rows} x {tokens}, ours within {gib} GiB, end to end", run(job), seen[rows, tokens])


def mix(base: Path, folder: Path, options: argparse.Namespace) -> None:
    """Rows of the lengths that they have: real tokens a second."""
    data = folder / "mix.json"
    rows = read(options.data) if options.data else [row for part in ("astronomy", "general") for row in shipped(part)]
    draw = random.Random(0)
    write([rows[draw.randrange(len(rows))] for _ in range(MIX_ROWS)], data)
    print(f"\n{base.name}, rows as they come ({(options.data or Path('our corpus')).name}), cut at {MIX_CUTOFF} tokens")
    common = {"base": str(base), "data": str(data), "tokens": MIX_CUTOFF, "out": str(folder / "out")}
    found = run({**common, "how": "plain", "liger": False, "rows": 2, "padded": True})
    show("2 rows at once, padded: the makers' setting", found)
    for packing in options.packing:
        job = {**common, "how": "ours", "gib": 12, "batch": MIX_BATCH, "packing": packing, "validation": 16}
        show(f"ours, {packing} tokens at once, within 12 GiB", run(job), found.get("speed", 0))


def show(title: str, found: dict[str, Any], peer: float = 0) -> None:
    if "error" in found:
        print(f"{title:44}  {found['error']}", flush=True)
        return
    ratio = f"{found['speed'] / peer:7.2f}" if peer else f"{'':7}"
    sizes = f"{found['allocated'] / GIB:10.2f}{found['reserved'] / GIB:10.2f}"
    print(f"{title:44}{sizes}{found['speed']:9,.0f}{ratio}  {found['note']}", flush=True)


def run(job: dict[str, Any]) -> dict[str, Any]:
    """What a process of its own measured; its last line."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, __file__, "--worker", json.dumps(job)],
        capture_output=True,
        encoding="utf-8",
        env=environment,
        check=False,
    )
    try:
        found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        return {"error": " | ".join(done.stderr.strip().splitlines()[-4:])[-600:]}
    return found


def measured(steps: list[tuple[int, float]], note: str) -> None:
    """Print the result of a worker: `steps` are (tokens, seconds)."""
    import torch

    counted = steps[2:] or steps
    print(
        json.dumps(
            {
                "allocated": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0,
                "reserved": torch.cuda.max_memory_reserved() if torch.cuda.is_available() else 0,
                "speed": sum(tokens for tokens, _ in counted) / sum(seconds for _, seconds in counted),
                "note": note,
            }
        )
    )


def plain(job: dict[str, Any]) -> None:
    """The recipe of the documentations: quantize, prepare, add LoRA, and let the model make its loss."""
    import torch
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig, set_seed

    set_seed(0)
    if job["liger"]:
        torch.cuda.memory._set_allocator_settings("expandable_segments:True")
        from liger_kernel.transformers import apply_liger_kernel_to_llama

        apply_liger_kernel_to_llama()
    began = time.perf_counter()
    four_bits = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = AutoModelForCausalLM.from_pretrained(
        job["base"], dtype=torch.bfloat16, quantization_config=four_bits, device_map={"": 0}
    )
    model.config.use_cache = False
    half = {name: weight.dtype for name, weight in model.named_parameters()}
    model = prepare_model_for_kbit_training(model, gradient_checkpointing_kwargs={"use_reentrant": False})
    for name, weight in model.named_parameters():  # norms and ends stay 16 bits wide: kinder than the recipe
        weight.data = weight.data.to(half[name]) if weight.dtype == torch.float32 else weight.data
    lora = LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, lora_dropout=0.05, target_modules=list(MODULES))
    model = get_peft_model(model, lora).train()
    loaded = time.perf_counter() - began
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=3e-4)
    steps = []
    for batch, real in plain_batches(job):
        torch.cuda.synchronize()
        began = time.perf_counter()
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = model(**{key: value.cuda() for key, value in batch.items()}).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        torch.cuda.synchronize()
        steps.append((real, time.perf_counter() - began))
    measured(steps, f"loaded in {loaded:.0f} s")


def plain_batches(job: dict[str, Any]) -> Iterator[tuple[dict[str, Any], int]]:
    """Micro-batches as alpaca-lora makes them, and how many real tokens each has."""
    import torch

    if not job.get("padded"):
        for _ in range(STEPS):
            ids = torch.randint(100, VOCABULARY, (job["rows"], job["tokens"]))
            yield {"input_ids": ids, "labels": ids}, ids.numel()
        return
    from stellar_local.prompts import load_template
    from train.dataset import encode
    from train.tokenizer import load_tokenizer

    tokenizer, template = load_tokenizer(Path(job["base"])), load_template("bayling")
    samples = [encode(row, template, tokenizer)[0] for row in read(Path(job["data"]))[:128]]
    for start in range(0, len(samples), job["rows"]):
        part = [
            (sample.ids[: job["tokens"]], min(sample.first, job["tokens"]))
            for sample in samples[start : start + job["rows"]]
        ]
        width = -(-max(len(ids) for ids, _ in part) // 8) * 8
        batch = {
            "input_ids": [ids + [0] * (width - len(ids)) for ids, _ in part],
            "attention_mask": [[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in part],
            "labels": [[-100] * first + ids[first:] + [-100] * (width - len(ids)) for ids, first in part],
        }
        yield {key: torch.tensor(value) for key, value in batch.items()}, sum(len(ids) for ids, _ in part)


def ours(job: dict[str, Any]) -> None:
    """`stellar train` itself, on a GPU made as small as asked for."""
    import torch

    from train.config import TrainConfig
    from train.logs import read_log
    from train.memory import CUDA_CONTEXT
    from train.run import train

    out = Path(job["out"])
    if torch.cuda.is_available():  # what the allocator may take: the card without what the context takes of it
        total = torch.cuda.mem_get_info()[1]
        torch.cuda.set_per_process_memory_fraction((job["gib"] * GIB - CUDA_CONTEXT) / total)
    began = time.perf_counter()
    config = TrainConfig(
        base=Path(job["base"]),
        data=Path(job["data"]),
        out=out,
        memory=f"{job['gib']}GiB",
        dtype="nf4" if torch.cuda.is_available() else "auto",
        checkpointing="on",
        cutoff_len=job["tokens"],
        over_long="truncate",
        train_on_inputs=job.get("prompts", False),
        batch_size=job["batch"],
        packing=job["packing"],
        max_steps=STEPS,
        val_set_size=job["validation"],
    )
    train(config, overwrite=True)
    record = json.loads((out / "training.json").read_text(encoding="utf-8"))
    steps, evaluations = read_log(out / "log.csv")
    setup, planned = (
        record["plan"]["setup"],
        record["plan"]["bytes"]["reserved" if torch.cuda.is_available() else "device_total"] / GIB,
    )
    difference = 100 * (record["peak_bytes"]["all"] / GIB / planned - 1)
    note = f"planned {planned:.2f} ({difference:+.1f}%), {setup['tokens']} tokens at most at once"
    note += ", layers' inputs on the host" * setup["offload"] + ", ends on the host" * setup["embedding_on_cpu"]
    note += f"; {time.perf_counter() - began:.0f} s in all, evaluations: {len(evaluations)}"
    note += f", step {statistics.median(s.seconds for s in steps):.2f} s"
    measured([(step.tokens, step.seconds) for step in steps], note)


def long_rows(count: int) -> list[Triple]:
    """Rows with answers of thousands of tokens."""
    text = " ".join(row.output for row in shipped("astronomy") if row.output.isascii())
    return [Triple(f"Tell story {number}.", "", text[97 * number :] + text) for number in range(count)]


if __name__ == "__main__":
    main()
