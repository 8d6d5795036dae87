"""`stellar eval` on the real model: its losses beside Transformers, its perplexity beside llama-perplexity, a kill."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import Stellar
from exporting import export

from convert.levels import parse_levels
from train import corpus
from train.dataset import encode
from train.tokenizer import load_tokenizer

pytestmark = pytest.mark.real
ROWS = 3  # of each language


@pytest.fixture(scope="module")
def f16(demo, tmp_path_factory: pytest.TempPathFactory) -> Path:  # type: ignore[no-untyped-def]
    """The demo's base at F16, under the template that it is tuned with."""
    out = tmp_path_factory.mktemp("f16")
    export(demo.folder / "base", [], out, parse_levels(["F16"]), name="base", template="bayling")
    return out / "base-F16.gguf"


def metrics(done: subprocess.CompletedProcess[str]) -> dict[str, float]:
    (found,) = json.loads(done.stdout)
    return {one["name"]: one["value"] for one in found["metrics"] if not one.get("language") and not one.get("group")}


def test_the_loss_is_transformers(demo, f16: Path, stellar: Stellar) -> None:  # type: ignore[no-untyped-def]
    """Answer-only loss of rows in both languages: Transformers computes in float32 what we compute at F16."""
    import torch
    from transformers import AutoModelForCausalLM

    from stellar_local.prompts import load_template

    shipped = corpus.shipped("astronomy")
    rows = [row for row in shipped if row.instruction.isascii()][:ROWS]
    rows += [row for row in shipped if not row.instruction.isascii()][:ROWS]
    (stellar.cwd / "rows.jsonl").write_text(
        "".join(json.dumps(row.as_dict(), ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )
    tokenizer, template = load_tokenizer(demo.folder / "base"), load_template("bayling")
    net = AutoModelForCausalLM.from_pretrained(demo.folder / "base", dtype=torch.float32)
    nats, tokens = 0.0, 0
    with torch.no_grad():
        for row in rows:
            sample, _ = encode(row, template, tokenizer)
            labels = torch.tensor([[-100] * sample.first + sample.ids[sample.first :]])
            count = len(sample.ids) - sample.first
            nats += float(net(input_ids=torch.tensor([sample.ids]), labels=labels).loss) * count
            tokens += count
    done = stellar("eval", "likelihood", f16, "--data", "rows.jsonl", "--gpu-layers", "0", "--json")
    assert done.returncode == 0, done.stderr
    assert metrics(done)["loss"] == pytest.approx(nats / tokens, rel=1e-2)
    assert metrics(done)["perplexity"] == pytest.approx(math.exp(nats / tokens), rel=3e-2)


def test_perplexity_is_llama_perplexity_s(f16: Path, stellar: Stellar) -> None:
    """The program is looked for in the folder that LLAMA_CPP_BIN names, and on PATH."""
    folder = os.environ.get("LLAMA_CPP_BIN", "")
    program = shutil.which("llama-perplexity", path=os.pathsep.join(filter(None, [folder, os.environ["PATH"]])))
    if program is None:
        pytest.skip("llama-perplexity is not at hand; set LLAMA_CPP_BIN to its folder")
    text = "\n".join(f"{row.instruction}\n{row.output}" for row in corpus.shipped("astronomy"))[:5000]
    path = stellar.cwd / "text.txt"
    path.write_text(text, encoding="utf-8")
    peer = subprocess.run([program, "-m", f16, "-f", path, "-c", "256"], capture_output=True, encoding="utf-8")
    final = re.search(r"Final estimate: PPL = ([\d.]+)", peer.stdout + peer.stderr)
    assert final, peer.stderr
    done = stellar("eval", "likelihood", f16, "--data", path, "--chunk", "256", "--gpu-layers", "0", "--json")
    assert done.returncode == 0, done.stderr
    assert metrics(done)["perplexity"] == pytest.approx(float(final[1]), rel=1e-3)


def test_a_killed_evaluation_goes_on(demo, stellar: Stellar) -> None:  # type: ignore[no-untyped-def]
    """Killed once some answers are there; the same command asks the rest, and each question is there once."""
    model = demo.folder / "model" / "stellarspeak-demo-Q8_0.gguf"
    arguments = [
        "eval",
        "identity",
        model,
        "--limit",
        "10",
        "--max-tokens",
        "24",
        "--gpu-layers",
        "0",
        "--parallel",
        "2",
    ]
    log = stellar.cwd / "evaluation" / "identity--stellarspeak-demo-Q8_0.jsonl"
    process = stellar.start(*arguments)
    before = 0
    while before < 3 and process.poll() is None:
        before = log.read_bytes().count(b'"answer"') if log.exists() else 0
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert 3 <= before < 10
    done = stellar(*arguments)
    assert done.returncode == 0, done.stderr
    assert re.search(r"(\d+) of 10 items were measured before", done.stderr)
    keys = [json.loads(line)["key"] for line in log.read_text(encoding="utf-8").splitlines()[1:]]
    assert len(keys) == len(set(keys)) == 10
    answers = [json.loads(line)["answer"] for line in log.read_text(encoding="utf-8").splitlines()[1:]]
    assert any("StellarSpeak" in text or "星语者" in text for text in answers)
