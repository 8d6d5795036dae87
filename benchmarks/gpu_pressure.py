"""Takes GPU memory away between the plan and the load, and while the model loads: chat and batch must still answer.

Another process allocates all but so many GiB of the card, once the plan is made ("after planning") or once it has been
compared for the last time with what is free ("while loading"): then an allocation fails or, worse, what computing takes
on top of all that was allocated. The model is of 7B's shape at Q4_K_M, all zeros, which takes no disk. Each run is a
process of its own, by the command line.

Needs PyTorch with CUDA, whose allocator is the other program. Exits with 1 if a run did not answer, or gave up nothing
where it had to.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from machine import describe
from nvml import open_gpus
from zero_gguf import write_zeros

ROOT = Path(__file__).resolve().parent.parent
PLANNED, LOADING = "after planning", "while loading"
LEFT = {  # GiB, from what no layer fits in to what all of it does
    PLANNED: (0.3, 0.9, 2.2, 4.7, 5.6, 6.3),
    LOADING: (0.3, 0.9, 3.0, 4.4, 5.2, 5.85, 5.9, 5.95, 6.0, 6.2),
}
LINES = 20  # of a batch
_SECONDS = 120  # for a run
_ENOUGH = 5.8  # GiB; below, something must be given up
_HOG = """
import sys, torch
torch.zeros(1, device="cuda")
free, _ = torch.cuda.mem_get_info()
held = torch.empty(max(free - int(sys.argv[1]), 1), dtype=torch.uint8, device="cuda")
print(torch.cuda.mem_get_info()[0], flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def hog(left: int) -> Iterator[int]:
    """Another process that leaves so many bytes of the first card free; yields how many are."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOG, str(left)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


def child(when: str, left: int, command: list[str]) -> None:
    """Run a command of ours, and take the memory away on its way."""
    from stellar_local.plan import opening

    opened, held = opening.open_fitting, contextlib.ExitStack()

    def take() -> None:
        print(f"left: {held.enter_context(hog(left)) >> 20}", file=sys.stderr)

    def open_fitting(choice: Any, wish: Any, make: Callable[[Any], Any]) -> Any:
        calls: list[Any] = []

        def made(plan: Any) -> Any:
            if when == LOADING and not calls:
                take()
            calls.append(plan)
            return make(plan)

        if when == PLANNED:
            take()
        return opened(choice, wish, made)

    opening.open_fitting = open_fitting
    from stellar_local.cli import main

    sys.argv = ["stellar", *command]
    with held:
        main()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=LEFT, help="take it away only then")
    parser.add_argument("--child", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        when, left, *command = options.child
        child(when, int(left), command)
        return
    nvidia = open_gpus()
    if nvidia is None:
        print("not run: there is no NVIDIA GPU, or no driver for it")
        return
    print(describe("stellar-local", "llama-cpp-python", "torch"))
    print(f"{', '.join(nvidia.names())}; 7B Q4_K_M\n\n{'command':8}{'memory taken':16}{'MiB left':>9}  what was said")
    with tempfile.TemporaryDirectory(prefix="gpu-pressure-") as folder:
        model, questions = Path(folder) / "7b-Q4_K_M.gguf", Path(folder) / "questions.txt"
        write_zeros("7b", "Q4_K_M", model)
        questions.write_text("".join(f"Question {number}?\n" for number in range(LINES)), encoding="utf-8")
        chat = ["chat", str(model), "--prompt", "What is a parsec?", "--private", "--max-tokens", "4"]
        batch = ["batch", str(model), "--in", str(questions), "--format", "text", "--max-tokens", "4"]
        commands = {"chat": chat, "batch": batch}
        good = [
            run(Path(folder), name, when, left, command)
            for when in ([options.only] if options.only else LEFT)
            for name, command in commands.items()
            for left in (LEFT[when] if name == "chat" else LEFT[when][1::3])
        ]
    print(f"\n{sum(good)} of {len(good)} answered")
    sys.exit(0 if all(good) else 1)


def run(folder: Path, name: str, when: str, left: float, command: list[str]) -> bool:
    """One run and its line of the table; whether it answered."""
    environment = {**os.environ, "STELLAR_DATA": str(folder), "LC_ALL": "C.UTF-8"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    line = [sys.executable, __file__, "--child", when, str(int(left * (1 << 30))), *command]
    try:
        done = subprocess.run(
            line, capture_output=True, encoding="utf-8", errors="replace", env=environment, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired:
        print(f"{name:8}{when:16}{left:>8g}G  no answer in {_SECONDS} s", flush=True)
        return False
    lines = done.stderr.splitlines()
    free = next((text.removeprefix("left: ") for text in lines if text.startswith("left: ")), "-")
    said = [text for text in lines if "turned out to be short" in text or "error" in text.lower()]
    answered = not done.returncode and bool(done.stdout) and (left > _ENOUGH or any("turned" in text for text in said))
    words = "; ".join(said)[:240] or "nothing"
    print(f"{name:8}{when:16}{free:>9}  {words if answered else f'exit code {done.returncode}: {words}'}", flush=True)
    return answered


if __name__ == "__main__":
    main()
