"""What is predicted for main memory, against what a process that computes with the real model takes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from conftest import ROOT

from stellar_local.native.header import read_header
from stellar_local.plan.estimate import MIB, Buffers, Setup, estimate
from stellar_local.plan.hardware import Machine
from stellar_local.plan.probe import probe
from stellar_local.plan.weights import Weights
from stellar_local.runtime import sequences_of

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="how much a process took is read from /proc"),
]

# As chat and batch open it, with what they import; then much of the context is filled, and logits are read.
CHILD = """
import json, re, sys
from pathlib import Path
import stellar_local.batch.command, stellar_local.chat.loop, stellar_local.plan.opening, stellar_local.render.highlight
import stellar_local.render.live, stellar_local.terminal.editing, stellar_local.terminal.terminal
from stellar_local.config import RuntimeOptions
from stellar_local.native.context import Chunk
from stellar_local.runtime import Runtime

path, parallel, asked = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
options = RuntimeOptions(ctx=asked["n_ctx"], kv=asked["kv"], flash_attn="on" if asked["flash"] else "off")
with Runtime(Path(path), options, parallel) as runtime:
    context = runtime.engine.context
    assert context.flash == asked["flash"]
    assert (context.sequences, context.n_batch, context.unified) == (asked["sequences"], asked["n_batch"], True)
    for start in range(0, min(context.n_ctx, int(sys.argv[4])), context.n_batch):
        context.decode([Chunk(0, start, [5] * context.n_batch, 1)])
    for sequence in range(1, parallel):
        context.decode([Chunk(sequence, 0, [5], 1)])
    context.logits.sum()
    status = Path("/proc/self/status").read_text()
    print(json.dumps({name: int(re.search(name + r":\\s+(\\d+) kB", status)[1]) for name in ("VmHWM", "VmRSS")}))
"""


@pytest.mark.parametrize(
    ("n_ctx", "kv", "parallel", "filled", "flash"),
    [(2048, "f16", 1, 2048, True), (2048, "f16", 1, 2048, False), (4096, "q8_0", 16, 2048, True)]
    + [(8192, "f16", 1, 512, True)],
)
def test_a_process_takes_what_was_predicted(
    n_ctx: int, kv: str, parallel: int, filled: int, flash: bool, real_model: Path
) -> None:
    """Never more, at its peak, and at least 95 % of it at the end: by the formula, and by llama.cpp's word."""
    setup = Setup(n_ctx, kv, sequences=sequences_of(parallel, False), flash=flash)
    argv = [sys.executable, "-c", CHILD, str(real_model), str(parallel), json.dumps(asdict(setup)), str(filled)]
    done = subprocess.run(argv, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    taken = {name: kib / 1024 for name, kib in json.loads(done.stdout).items()}
    weights = Weights.of(read_header(real_model))
    (buffers,) = probe(real_model, [setup])
    assert isinstance(buffers, Buffers)
    for word in (None, buffers):
        need = estimate(weights, setup, Machine(None), word).host
        assert need.total / MIB >= taken["VmHWM"], need
        assert 0.95 * need.total / MIB <= taken["VmRSS"], need
