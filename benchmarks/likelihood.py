"""The perplexity of a text by `stellar eval likelihood` beside llama.cpp's llama-perplexity: the same chunks, in turn.

Whole commands are timed, loading and Python's start included. Without llama-perplexity on PATH ours runs alone, and
that is said. The text is our shipped corpus of astronomy, Chinese and English by turns, unless --text names one.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import describe

from stellar_local.quickstart import bundled_model, command
from train import corpus

_FINAL = re.compile(r"Final estimate: PPL = ([\d.]+)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a GGUF file [default: SmolLM2-135M, as its package ships it]")
    parser.add_argument("--text", type=Path, help="a text file")
    parser.add_argument("--chunk", type=int, default=512, help="tokens [default: %(default)s]")
    parser.add_argument("--chunks", type=int, default=16, help="how many, at most [default: %(default)s]")
    parser.add_argument(
        "--rounds", type=int, default=3, help="of both, in turn; the best counts [default: %(default)s]"
    )
    parser.add_argument("--gpu-layers", type=int, default=0, help="[default: %(default)s]")
    options = parser.parse_args()
    print(describe("llama-cpp-python", "numpy"))
    model, peer = options.model or bundled_model(), shutil.which("llama-perplexity")
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.txt"
        text.write_text(beginning(options), encoding="utf-8")
        ours, theirs = [], []
        for number in range(options.rounds):
            ours.append(stellar(model, text, options, Path(folder) / f"out-{number}"))
            if peer:
                theirs.append(llama(peer, model, text, options))
    (perplexity, tokens), best = ours[0][0], min(seconds for _, seconds in ours)
    print(f"stellar eval likelihood: perplexity {perplexity:.4f}, {best:.2f} s, {tokens / best:.0f} tokens/s read")
    if not theirs:
        print("llama-perplexity is not on PATH: nothing to compare with")
        return
    least = min(seconds for _, seconds in theirs)
    print(f"llama-perplexity:        perplexity {theirs[0][0]:.4f}, {least:.2f} s, {tokens / least:.0f} tokens/s read")
    print(f"perplexity ours / theirs {perplexity / theirs[0][0]:.6f}; speed ours / theirs {least / best:.2f}")


def beginning(options: argparse.Namespace) -> str:
    """As much of the text as the chunks surely need."""
    if options.text:
        whole = options.text.read_text(encoding="utf-8")
    else:
        rows = corpus.shipped("astronomy")
        parts = [[row for row in rows if row.instruction.isascii() == english] for english in (True, False)]
        whole = "\n\n".join(f"{row.instruction}\n{row.output}" for pair in zip(*parts, strict=False) for row in pair)
    return whole[: options.chunk * options.chunks * 3]


def stellar(model: Path, text: Path, options: argparse.Namespace, out: Path) -> tuple[tuple[float, int], float]:
    """(Perplexity, tokens read), seconds."""
    argv = ["eval", "likelihood", str(model), "--data", str(text), "--chunk", str(options.chunk), "--out", str(out)]
    began = time.perf_counter()
    done = subprocess.run(
        [*command(), *argv, "--json", "--gpu-layers", str(options.gpu_layers)], capture_output=True, encoding="utf-8"
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        sys.exit(done.stderr)
    (found,) = json.loads(done.stdout)
    values = {metric["name"]: metric["value"] for metric in found["metrics"] if not metric.get("language")}
    return (values["perplexity"], found["speed"]["prompt_tokens"]), seconds


def llama(peer: str, model: Path, text: Path, options: argparse.Namespace) -> tuple[float, float]:
    """Perplexity, seconds."""
    argv = [peer, "-m", str(model), "-f", str(text), "-c", str(options.chunk), "-ngl", str(options.gpu_layers)]
    began = time.perf_counter()
    done = subprocess.run(argv, capture_output=True, encoding="utf-8", errors="replace")
    seconds = time.perf_counter() - began
    final = _FINAL.search(done.stdout + done.stderr)
    if final is None:
        sys.exit(f"llama-perplexity ended with {done.returncode}: {done.stderr[-2000:]}")
    return float(final[1]), seconds


if __name__ == "__main__":
    main()
