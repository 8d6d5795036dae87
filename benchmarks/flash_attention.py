"""What flash attention is worth on the processor: prompts and generation with it and without, after more and more text.

Both run in one process and one thread, a batch or a few tokens of each in turns, by the processor's time, so that the
figures hold on a busy machine. With --sequences so many answers run at once, in shared memory, each with as many
tokens. The model is SmolLM2-135M, a GGUF, or a made one with random weights of a real model's shape (--shape), of a few
layers, since all of them are alike.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from pathlib import Path

import random_gguf
from machine import describe

from stellar_local.native.context import Chunk, Context
from stellar_local.native.model import Model

WAYS = ("off", "on")
BATCH = 256
TURNS, TOKENS = 30, 4  # of generation, and the tokens of each turn


def compare(model: Model, depth: int, sequences: int) -> dict[str, tuple[float, float]]:
    """Tokens a second of prompts and of generation after them, all sequences together, without and with."""
    cells = sequences * (depth + TURNS * TOKENS)
    contexts = {way: Context(model, cells, sequences, n_batch=BATCH, threads=1, flash_attn=way) for way in WAYS}
    numbers, turn = random.Random(0), 0
    reading = dict.fromkeys(WAYS, 0.0)
    generating: dict[str, list[float]] = {way: [] for way in WAYS}

    def run(way: str, chunks: list[Chunk]) -> float:
        started = time.process_time()
        contexts[way].decode(chunks)
        _ = contexts[way].logits
        return time.process_time() - started

    try:
        for sequence in range(sequences):
            for at in range(0, depth, BATCH):
                tokens = [numbers.randrange(3, model.n_vocab) for _ in range(min(BATCH, depth - at))]
                turn += 1
                for way in WAYS[:: 1 if turn % 2 else -1]:
                    reading[way] += run(way, [Chunk(sequence, at, tokens, 1)])
        for turn in range(TURNS):
            for way in WAYS[:: 1 if turn % 2 else -1]:
                steps = range(depth + turn * TOKENS, depth + (turn + 1) * TOKENS)
                taken = sum(run(way, [Chunk(one, at, [5], 1) for one in range(sequences)]) for at in steps)
                generating[way].append(taken)
    finally:
        for context in contexts.values():
            context.close()
    made = sequences * TOKENS
    return {way: (sequences * depth / reading[way], made / statistics.median(generating[way])) for way in WAYS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a GGUF [default: SmolLM2-135M]")
    parser.add_argument("--shape", choices=random_gguf.SHAPES, help="a model of this shape with random weights")
    parser.add_argument("--layers", type=int, default=4, help="of --shape's model [default: %(default)s]")
    parser.add_argument("--depths", default="64,256,1024", help="tokens before what is generated [%(default)s]")
    parser.add_argument("--sequences", type=int, default=1, help="answers at once [default: %(default)s]")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.shape:
            path = Path(folder) / f"random-{args.shape}-{args.layers}-layers.gguf"
            random_gguf.write(args.shape, path, args.layers)
        elif args.model:
            path = args.model
        else:
            from stellar_local.quickstart import bundled_model

            path = bundled_model()
        print(describe("stellar-local", "llama-cpp-python"))
        print(f"{path.name}, {args.sequences} at once, tokens a second of the processor's time in one thread")
        print(f"{'':8}{'prompt: without':>18}{'with':>8}{'generation: without':>22}{'with':>8}{'ratio':>8}")
        with Model(path, gpu_layers=0) as model:
            for depth in map(int, args.depths.split(",")):
                found = compare(model, depth, args.sequences)
                (prompt, generation), (flash_prompt, flash_generation) = found["off"], found["on"]
                print(
                    f"{depth:8,}{prompt:18.1f}{flash_prompt:8.1f}{generation:22.1f}{flash_generation:8.1f}"
                    f"{generation / flash_generation:8.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
