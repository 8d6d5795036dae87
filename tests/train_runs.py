"""Training runs on tiny bases for several test modules: their settings, what they leave, and a plain loop beside them.

The plain loop is Transformers, PEFT and torch as anyone would use them: padded rows, AdamW, the loss over all learned
tokens of the step. It shares no code with the training core but the samples.
"""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = "adapter_model.safetensors"


def write_rows(path: Path, count: int, seed: int = 42) -> Path:
    """A training file of so many shipped rows."""
    from train import corpus

    corpus.write(random.Random(seed).sample(corpus.shipped("identity"), count), path)
    return path


@pytest.fixture(scope="session")
def train_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty rows."""
    return write_rows(tmp_path_factory.mktemp("data") / "train.json", 20)


@pytest.fixture(scope="session")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six other rows."""
    return write_rows(tmp_path_factory.mktemp("data") / "held.json", 6, seed=7)


def settings(base: Path, data: Path, out: Path, **values: Any) -> Any:
    """Five steps a pass, two passes, a checkpoint every second step, dropout on: all state matters."""
    from train.config import TrainConfig

    common: dict[str, Any] = {"epochs": 2.0, "batch_size": 4, "micro_batch_size": 2, "save_steps": 2, "lora_r": 4}
    common["threads"] = 1  # a second one only waits in models as small as these
    return TrainConfig(
        base=base, data=data, out=out, **{**common, "lora_dropout": 0.1, "learning_rate": 2e-3, **values}
    )


def exact(base: Path, data: Path, out: Path, **values: Any) -> Any:
    """Settings of a run that a plain loop repeats: no dropout, every step holds all rows, a few steps."""
    plain = {"lora_dropout": 0.0, "batch_size": 1000, "max_steps": 3, "micro_batch_size": 0, "warmup_ratio": 0.0}
    return settings(base, data, out, **{**plain, **values})


def dies_at_its_first_checkpoint(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run it until its first checkpoint is complete, and no further."""
    from train.folder import RunFolder
    from train.run import train

    commit = RunFolder.commit

    def die(self: Any, step: int, course: Any) -> None:
        commit(self, step, course)
        raise SystemExit(9)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(RunFolder, "commit", die)
        train(config)


def record(out: Path) -> dict[str, Any]:
    """A finished run's training.json."""
    found: dict[str, Any] = json.loads((out / "training.json").read_text(encoding="utf-8"))
    return found


def table(out: Path) -> list[dict[str, str]]:
    """The log without what no two runs have in common."""
    with (out / "log.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: cell for name, cell in row.items() if name not in ("seconds", "memory")} for row in rows]


def same_logs(a: Path, b: Path, near: float = 1e-5) -> None:
    """The same rows in the same order, numbers within `near`."""
    one, other = table(a), table(b)
    assert [row["step"] for row in one] == [row["step"] for row in other]
    for left, right in zip(one, other, strict=True):
        for name in left:
            assert bool(left[name]) == bool(right[name]), (left, right)
            if left[name]:
                assert float(left[name]) == pytest.approx(float(right[name]), abs=near, rel=near), (left, right)


def same(a: Path, b: Path, near: float = 1e-6) -> None:
    """The same adapter, each weight within `near`."""
    import torch
    from safetensors.torch import load_file

    one, other = load_file(a / WEIGHTS), load_file(b / WEIGHTS)
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=near)


def samples_of(config: Any, data: Path | None = None) -> list[Any]:
    """All samples of a file, as the run tokenizes them."""
    from stellar_local.prompts import load_template
    from train import corpus
    from train.dataset import Encoding, encode_all
    from train.tokenizer import load_tokenizer

    encoding = Encoding(config.cutoff_len, config.over_long, config.train_on_inputs, config.add_eos_token)
    rows = corpus.read(data or config.data)
    return encode_all(rows, load_template(config.template), load_tokenizer(config.base), encoding)[0]


def plain_model(config: Any) -> Any:
    """The base with a fresh adapter, by Transformers and PEFT alone, seeded as a run is."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, set_seed

    set_seed(config.seed)
    model = AutoModelForCausalLM.from_pretrained(config.base, dtype=torch.float32)
    modules: Any = list(config.lora_target_modules)
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=modules[0] if modules == ["all-linear"] else modules,
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
    )
    return get_peft_model(model, lora)


def plain_loss(model: Any, samples: Sequence[Any]) -> Any:
    """Transformers' own mean loss over rows padded on the right, labels -100 on prompts and padding."""
    import torch

    length = max(len(sample.ids) for sample in samples)
    empty = [length - len(sample.ids) for sample in samples]
    rows = [sample.ids + [0] * more for sample, more in zip(samples, empty, strict=True)]
    mask = [[1] * len(sample.ids) + [0] * more for sample, more in zip(samples, empty, strict=True)]
    labels = [
        [-100] * sample.first + sample.ids[sample.first :] + [-100] * more
        for sample, more in zip(samples, empty, strict=True)
    ]
    return model(input_ids=torch.tensor(rows), attention_mask=torch.tensor(mask), labels=torch.tensor(labels)).loss


def plain_run(config: Any, rate: Callable[[int], float]) -> tuple[list[float], dict[str, Any]]:
    """Losses and adapter of a run whose steps hold all rows; `rate` gives the learning rate of step 0, 1 …"""
    import torch
    from peft import get_peft_model_state_dict

    model, samples = plain_model(config).train(), samples_of(config)
    ups = [weight for name, weight in model.named_parameters() if weight.requires_grad and "lora_B" in name]
    rest = [weight for name, weight in model.named_parameters() if weight.requires_grad and "lora_B" not in name]
    groups = [{"params": rest, "times": 1.0}, {"params": ups, "times": config.loraplus_ratio or 1.0}]
    optimizer = torch.optim.AdamW(groups, lr=1.0, weight_decay=config.weight_decay, eps=1e-8, betas=(0.9, 0.999))
    losses = []
    for step in range(config.max_steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(step) * group["times"]
        loss = plain_loss(model, samples)
        losses.append(float(loss))
        optimizer.zero_grad()
        loss.backward()
        if config.max_grad_norm:
            torch.nn.utils.clip_grad_norm_([*rest, *ups], config.max_grad_norm)
        optimizer.step()
    return losses, get_peft_model_state_dict(model)


def loss_of_adapter(base: Path, out: Path, samples: Sequence[Any]) -> float:
    """The mean loss per learned token under a saved adapter, a sample at a time, by Transformers and PEFT alone."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), out).eval()
    total = learned = 0.0
    with torch.no_grad():
        for sample in samples:
            count = len(sample.ids) - sample.first
            total, learned = total + float(plain_loss(model, [sample])) * count, learned + count
    return total / learned


def arguments(config: Any) -> list[str]:
    """The command line of a run."""
    from train.config import options

    words = ["train"]
    for item in options():
        value = getattr(config, item.name)
        if item.required or value != item.default:
            words += [item.flag, ",".join(value) if isinstance(value, tuple) else str(value)]
    return words


def start(config: Any, *launcher: str, **more: Any) -> subprocess.Popen[bytes]:
    """The command in a process group of its own, so that it can be killed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}
    command = [sys.executable, *(launcher or ("-m", "stellar_local.cli")), *arguments(config)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, start_new_session=True
    )


def wait_for_step(out: Path, process: subprocess.Popen[bytes], step: int) -> None:
    """Return as soon as the log has a row of this step."""
    deadline = time.monotonic() + 120
    log = out / "log.csv"
    while not log.exists() or log.read_bytes().count(b"\n") <= step:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.002)
