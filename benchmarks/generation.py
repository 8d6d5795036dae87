"""Greedy generation with one sequence: our engine against llama-cpp-python's `Llama` class, on SmolLM2-135M.

Both answer the same prompts with the same number of tokens, in turns, after one warm-up each; the fastest of three
rounds counts, since other work on the machine only ever makes a round slower.
"""

from __future__ import annotations

import time
from pathlib import Path

from machine import describe

from stellar_local.config import RuntimeOptions, SamplingOptions
from stellar_local.native.cores import physical_cores
from stellar_local.prompts import Turn
from stellar_local.quickstart import bundled_model
from stellar_local.runtime import Runtime

PROMPTS = [
    "Write a story about the stars.",
    "讲一个关于月亮的故事。",
    "Explain how telescopes work.",
    "Describe Saturn.",
]
TOKENS = 96


def ours(runtime: Runtime, prompt: str) -> tuple[float, list[int]]:
    """Seconds for one answer, and its tokens."""
    started = time.perf_counter()
    request = runtime.request([Turn(prompt)], SamplingOptions(temperature=0, max_tokens=TOKENS))
    answer = runtime.engine.submit(request).answer
    return time.perf_counter() - started, list(answer.tokens)


def main() -> None:
    from llama_cpp import Llama

    path: Path = bundled_model()
    print(describe("stellar-local", "llama-cpp-python"))
    with Runtime(path, RuntimeOptions()) as runtime:
        # The same threads and attention as ours; Llama's own defaults differ.
        cores, flash = physical_cores(), runtime.engine.context.flash
        peer = Llama(str(path), n_ctx=4096, n_threads=cores, n_threads_batch=cores, flash_attn=flash, verbose=False)

        def theirs(prompt: str) -> tuple[float, list[int]]:
            started = time.perf_counter()
            tokens = list(runtime.tokens([Turn(prompt)]))
            out: list[int] = []
            for token in peer.generate(tokens, temp=0.0):
                if runtime.model.is_eog(token) or len(out) == TOKENS:
                    break
                out.append(token)
                peer.detokenize([token])
            return time.perf_counter() - started, out

        best = {"ours": float("inf"), "Llama": float("inf")}
        count = same = 0
        for number in range(4):
            ours_total = theirs_total = 0.0
            count = same = 0
            for prompt in PROMPTS:
                seconds, tokens = ours(runtime, prompt)
                ours_total += seconds
                seconds, reference = theirs(prompt)
                theirs_total += seconds
                count += len(tokens)
                same += tokens == reference
            if number:  # the first round warms up
                best["ours"] = min(best["ours"], ours_total)
                best["Llama"] = min(best["Llama"], theirs_total)
    print(f"the same {TOKENS} tokens for {same} of {len(PROMPTS)} prompts")
    speed = {name: count / seconds for name, seconds in best.items()}
    print(f"{'':24}tokens/s   ratio to Llama")
    for name, value in speed.items():
        print(f"{name:24}{value:8.1f}   {value / speed['Llama']:.2f}")


if __name__ == "__main__":
    main()
