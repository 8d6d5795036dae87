"""Memory stays bounded whatever the size of a tensor: the embeddings of an 8B, 128,256 × 4,096."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from convert.llama import Shape
from convert.safetensors import header_bytes

ROWS, COLUMNS = 128_256, 4096
# A process inherits its parent's peak, so a small one stands between this and what is measured.
LAUNCH = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
print(usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status) != 0)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="wait4 tells a process's peak memory, and Windows has none")
def test_large_embeddings(bases: Callable[[str], Path], tmp_path: Path) -> None:
    """1.05 GB of them in bfloat16 (holes in a sparse file, read as zeros) against a peak below 200 MB."""
    base = tmp_path / "base"
    base.mkdir()
    config = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": COLUMNS,
        "intermediate_size": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "num_hidden_layers": 1,
        "vocab_size": ROWS,
        "tie_word_embeddings": True,
    }
    (base / "config.json").write_text(json.dumps(config))
    (base / "tokenizer.model").write_bytes((bases("spm-gqa-64") / "tokenizer.model").read_bytes())
    # The norms come first and are ones (0x3f80): a model whose norms are all zero is taken for weight differences.
    tensors = sorted(Shape.from_config(config).tensors(), key=lambda tensor: len(tensor.shape))
    size = sum(2 * tensor.size for tensor in tensors)
    norms = b"".join(b"\x80\x3f" * tensor.size for tensor in tensors if len(tensor.shape) == 1)
    with (base / "model.safetensors").open("wb") as file:
        file.write(header_bytes([(tensor.name, tensor.shape, "BF16") for tensor in tensors], {}))
        begin = file.tell()
        file.write(norms)
        file.truncate(begin + size)
    arguments = ["convert", "--base", base, "--out", tmp_path / "out", "--levels", "Q8_0,Q4_0", "--threads", 4]
    command = [sys.executable, "-m", "stellar_local.cli", *map(str, arguments)]
    done = subprocess.run([sys.executable, "-c", LAUNCH, *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    peak = int(done.stdout.split()[-1]) * (1 if sys.platform == "darwin" else 1024)
    assert (tmp_path / "out/out-Q8_0.gguf").stat().st_size > ROWS * COLUMNS
    assert peak < 200e6, f"{peak / 1e6:.0f} MB"
    for path in (tmp_path / "out").glob("*.gguf"):  # not left for the next sessions' temporary folders
        path.unlink()
