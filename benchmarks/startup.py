"""How long `stellar --help` takes, against the `llm` command's (which the demo's package brings along); and how long
`stellar chat` takes to its first prompt, beyond the loading of the model itself.

The fastest of ten fresh processes each, in turns. The model is SmolLM2-135M; loading it alone is a process that opens
it with its context by the engine, from when its imports are done.
"""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import describe

ROUNDS = 10
_LOAD = """
import sys, time
from pathlib import Path
from stellar_local.config import RuntimeOptions
from stellar_local.native.library import api
from stellar_local.runtime import Runtime
api()
started = time.perf_counter()
with Runtime(Path(sys.argv[1]), RuntimeOptions()):
    print(time.perf_counter() - started)
"""


def seconds(*argv: str) -> float:
    """The wall time of one process."""
    started = time.perf_counter()
    subprocess.run(argv, check=True, capture_output=True)
    return time.perf_counter() - started


def first_prompt(model: Path, data: str) -> float:
    """Seconds from the start of a chat in a pseudo-terminal to its prompt and toolbar."""
    started = time.perf_counter()
    pid, terminal = pty.fork()
    if not pid:
        argv = [sys.executable, "-m", "stellar_local.cli", "chat", str(model), "--ui-lang", "en"]
        os.execvpe(argv[0], argv, {**os.environ, "TERM": "xterm-256color", "STELLAR_DATA": data})
    seen = b""
    while b"/help" not in seen:
        if not select.select([terminal], [], [], 60)[0]:
            raise SystemExit(f"no prompt came: {seen!r}")
        seen += os.read(terminal, 65536)
    taken = time.perf_counter() - started
    os.write(terminal, b"\x04")
    os.waitpid(pid, 0)
    os.close(terminal)
    return taken


def main() -> None:
    from stellar_local.quickstart import bundled_model

    print(describe("stellar-local", "llm", "click", "prompt_toolkit", "llama-cpp-python"))
    scripts = Path(sys.executable).parent
    commands = {"stellar --help": (str(scripts / "stellar"), "--help"), "llm --help": (str(scripts / "llm"), "--help")}
    best = {name: min(seconds(*argv) for _ in range(ROUNDS)) for name, argv in commands.items()}
    for name, value in best.items():
        print(f"{name:16}{value:7.3f} s   {value / best['llm --help']:.2f} of llm's")
    model = bundled_model()
    with tempfile.TemporaryDirectory() as data:
        prompt = min(first_prompt(model, data) for _ in range(ROUNDS))
    load = min(
        float(subprocess.run([sys.executable, "-c", _LOAD, str(model)], check=True, capture_output=True).stdout)
        for _ in range(ROUNDS)
    )
    print(f"stellar chat: first prompt after {prompt:.3f} s, of which loading the model {load:.3f} s")
    print(f"              {prompt - load:.3f} s beyond that")


if __name__ == "__main__":
    main()
