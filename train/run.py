"""One training run from a TrainConfig to a folder with an adapter: Transformers' Trainer, resumable, interruptible.

Knows the order of things and how to speak of them; the parts are the other modules'. Training is done by one
process on one device.
"""

from __future__ import annotations

import importlib.metadata
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stellar_local import __version__
from stellar_local.console import progress, say
from stellar_local.errors import ModelError, StellarError
from stellar_local.files import ensure_folder, exclusive, explain, sha256
from stellar_local.native.cores import spin_briefly
from stellar_local.prompts import Template, load_template

from .config import TrainConfig
from .corpus import Triple, read
from .dataset import Counts, Sample, encode_all, hold_out
from .folder import RunFolder, fingerprint, step_of
from .model import PACKAGES, add_lora, check_base, choose_dtype, load_base, quiet, require_packages, save_adapter
from .tokenizer import load_tokenizer


@dataclass(frozen=True)
class Prepared:
    """The data of a run, tokenized."""

    train: list[Sample]
    validation: list[Sample]
    counts: Counts


def train(config: TrainConfig, overwrite: bool = False) -> Path:
    """Train the adapter that `config` describes; returns its folder. What is done already is not done again.

    A run that was killed goes on from its last checkpoint and gives the same adapter. Raises StellarError, and
    KeyboardInterrupt after Ctrl-C once the state is saved.
    """
    require_packages()
    spin_briefly()
    template = load_template(config.template)
    base = check_base(config.base)
    triples = read(config.data)
    run = RunFolder(config.out, fingerprint(config, template.source))
    ensure_folder(config.out)
    with exclusive(config.out / ".lock", config.out):
        if run.open(overwrite):
            say(f"{config.out} already holds this adapter: nothing to do")
        else:
            _train(config, template, base, triples, run)
    return config.out


def _train(
    config: TrainConfig, template: Template, base: Mapping[str, Any], triples: list[Triple], run: RunFolder
) -> None:
    """Tokenize, check that base and tokenizer fit, and run."""
    tokenizer = load_tokenizer(config.base)
    kept, counts = encode_all(triples, template, tokenizer, config.cutoff_len, config.train_on_inputs)
    highest = max(max(sample.ids) for sample in kept)
    if highest >= base.get("vocab_size", highest + 1):
        raise ModelError(
            f"the tokenizer gives id {highest}, but the base model has {base['vocab_size']} tokens",
            "the tokenizer files belong to another model",
        )
    prepared = Prepared(*hold_out(kept, config.val_set_size, config.seed), counts)
    _say_counts(prepared, config)
    with quiet():
        _fit(config, template, prepared, run)
    say(f"adapter written to {config.out}")


def _say_counts(data: Prepared, config: TrainConfig) -> None:
    counts = data.counts
    line = f"{len(data.train)} rows to train on, {counts.learned_tokens} answer tokens of {counts.tokens}"
    if data.validation:
        line += f"; {len(data.validation)} rows held out"
    if counts.too_long:
        line += f"; {counts.too_long} left out: longer than {config.cutoff_len} tokens"
    if counts.empty:
        line += f"; {counts.empty} left out: no answer"
    say(line)


def _fit(config: TrainConfig, template: Template, data: Prepared, run: RunFolder) -> None:
    """Load, train, verify and save."""
    import torch
    from transformers import set_seed

    if config.threads:
        torch.set_num_threads(config.threads)
    set_seed(config.seed)
    began = time.monotonic()
    dtype = choose_dtype(config.dtype)
    with _explained(config, run):
        model, pairs = add_lora(load_base(config.base, dtype), config)
        run.begin()
        with _stop_on_interrupt() as interrupted:
            trainer = _loop(config, model, data, run, interrupted)
    adapter = ensure_folder(run.checkpoints / "adapter")
    save_adapter(trainer.model, adapter, pairs)
    history = trainer.state.log_history
    record = {
        "stellar_local": __version__,
        "config": config.as_json(),
        "data_sha256": sha256(config.data),
        "rows": {**data.counts.as_json(), "train": len(data.train), "validation": len(data.validation)},
        "steps": trainer.state.global_step,
        "pairs": pairs,
        "losses": [round(entry["loss"], 6) for entry in history if "loss" in entry],
        "validation_losses": [round(entry["eval_loss"], 6) for entry in history if "eval_loss" in entry],
        "seconds": round(time.monotonic() - began, 1),
        "device": str(trainer.args.device),
        "dtype": str(dtype).removeprefix("torch."),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }
    run.finish(adapter, template.source, record)


def _loop(config: TrainConfig, model: Any, data: Prepared, run: RunFolder, interrupted: threading.Event) -> Any:
    """Run the Trainer from the last checkpoint, if any; returns it. Raises KeyboardInterrupt if told to stop."""
    from .trainer import make_trainer

    checkpoint = run.last_checkpoint()
    if checkpoint is not None:
        say(f"going on from step {step_of(checkpoint)}")
    with progress("training", config.steps(len(data.train))) as bar:
        trainer = make_trainer(config, model, data.train, data.validation, run, bar, interrupted)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if trainer.state.global_step < trainer.state.max_steps:
        say(f"stopped after step {trainer.state.global_step}; the same command goes on from there")
        raise KeyboardInterrupt
    return trainer


@contextmanager
def _stop_on_interrupt() -> Iterator[threading.Event]:
    """While the block runs, the first Ctrl-C sets the event, so that a step can end; the second stops at once."""
    asked = threading.Event()

    def ask(number: int, frame: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        say("stopping after this step; Ctrl-C again stops at once")

    if threading.current_thread() is not threading.main_thread():  # only that one may set handlers
        yield asked
        return
    before = signal.signal(signal.SIGINT, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _explained(config: TrainConfig, run: RunFolder) -> Iterator[None]:
    """Turn what the machine may run out of, memory or disk, into our errors."""
    try:
        yield
    except OSError as error:
        raise explain(error, run.out, "write to") from error
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or "out of memory" in str(error) or "allocate memory" in str(error):
            raise ModelError(
                f"not enough memory for {config.micro_batch_size} rows at once",
                "lower --micro-batch-size, which leaves the result as it is, or --cutoff-len",
            ) from error
        if "PytorchStreamWriter" in str(error):  # how torch.save words a full disk
            raise StellarError(f"cannot write a checkpoint to {run.checkpoints}", "free some space there") from error
        raise
