"""How long `stellar --help` takes, against the `llm` command's (which the demo's package brings along).

The fastest of ten fresh processes each, in turns.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from machine import describe

ROUNDS = 10


def seconds(*argv: str) -> float:
    """The wall time of one process."""
    started = time.perf_counter()
    subprocess.run(argv, check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    print(describe("stellar-local", "llm", "click"))
    scripts = Path(sys.executable).parent
    commands = {"stellar --help": (str(scripts / "stellar"), "--help"), "llm --help": (str(scripts / "llm"), "--help")}
    best = {name: min(seconds(*argv) for _ in range(ROUNDS)) for name, argv in commands.items()}
    for name, value in best.items():
        print(f"{name:16}{value:7.3f} s   {value / best['llm --help']:.2f} of llm's")


if __name__ == "__main__":
    main()
