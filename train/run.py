"""One training run from a TrainConfig to a folder with an adapter: Transformers' Trainer, resumable, interruptible.

Knows the order of things and how to speak of them; the parts are the other modules'. What Accelerate or torchrun
starts several times trains together, each process on a device of its own; the first one speaks and writes.
"""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stellar_local import __version__
from stellar_local.console import warn
from stellar_local.errors import ModelError, StellarError, UsageError
from stellar_local.files import ensure_folder, exclusive, sha256
from stellar_local.native.cores import spin_briefly
from stellar_local.prompts import Template, load_template

from .adapter import ADAPTER_FILES, add_lora, check_modules, load_weights, save_adapter, verify_effect
from .base import PACKAGES, check_base, load_base, quiet, require_packages
from .budget import parse_memory
from .config import TrainConfig
from .corpus import read
from .curve import draw
from .dataset import Counts, Encoding, Sample, encode_all, hold_out
from .display import Display
from .folder import CURVE, EVENTS, LOG, RunFolder, check_parts, fingerprint, is_checkpoint, step_of
from .logs import RunLog, read_log
from .memory import MODULES
from .placing import RANK, Place, find_place, peak, tell, wait_for_all
from .planning import Plan, planned, tell_peak
from .steps import Steps
from .stopping import Asked, explained, stop_on_signals
from .tokenizer import load_tokenizer


@dataclass(frozen=True)
class Prepared:
    """The data of a run, tokenized."""

    train: list[Sample]
    validation: list[Sample]
    counts: Counts
    held_out: Counts | None  # what became of the rows of --val-data
    steps: Steps


def train(config: TrainConfig, overwrite: bool = False) -> Path:
    """Train the adapter that `config` describes; returns its folder. What is done already is not done again.

    A run that was killed goes on from its last checkpoint and gives the same adapter. Raises StellarError, and
    KeyboardInterrupt after Ctrl-C (its subclass Terminated after SIGTERM) once the state is saved.
    """
    require_packages()
    spin_briefly()
    template = load_template(config.template)
    base = check_base(config.base)
    # Known to be wrong only once data and base are loaded, these would cost minutes.
    check_modules(config.lora_target_modules, MODULES)
    parse_memory(config.memory)
    start = _start(config)
    data = _prepare(config, template, base)
    run = RunFolder(config.out, fingerprint(config, template.source))
    ensure_folder(config.out)
    with ExitStack() as stack:
        if RANK == 0:
            stack.enter_context(exclusive(config.out / ".lock", config.out))
        if run.open(overwrite):
            tell(f"{config.out} already holds this adapter: nothing to do")
            return config.out
        _tell_counts(data, config)
        with quiet():
            _fit(config, template, base, data, run, start)
        tell(f"adapter written to {config.out}")
    return config.out


def _prepare(config: TrainConfig, template: Template, base: Mapping[str, Any]) -> Prepared:
    """Read and tokenize the data, and check that base and tokenizer fit."""
    tokenizer = load_tokenizer(config.base)
    encoding = Encoding(config.cutoff_len, config.over_long, config.train_on_inputs, config.add_eos_token)
    kept, counts = encode_all(read(config.data), template, tokenizer, encoding)
    held_out = None
    if config.val_data is not None:
        train = kept
        validation, held_out = encode_all(read(config.val_data), template, tokenizer, encoding)
    else:
        train, validation = hold_out(kept, config.val_set_size, config.seed)
    highest = max(max(sample.ids) for sample in [*train, *validation])
    if highest >= base.get("vocab_size", highest + 1):
        raise ModelError(
            f"the tokenizer gives id {highest}, but the base model has {base['vocab_size']} tokens",
            "the tokenizer files belong to another model",
        )
    lengths = [len(sample.ids) for sample in train]
    steps = Steps(lengths, config.batch_size, config.epochs, config.max_steps, config.seed, config.group_by_length)
    return Prepared(train, validation, counts, held_out, steps)


def _tell_counts(data: Prepared, config: TrainConfig) -> None:
    counts = data.counts
    line = f"{len(data.train)} samples to train on, {counts.learned_tokens} answer tokens of {counts.tokens}"
    if data.validation:
        line += f"; {len(data.validation)} held out"
    tell("; ".join([line, *_not_whole(counts, config.cutoff_len)]))
    if data.held_out and (words := _not_whole(data.held_out, config.cutoff_len)):
        tell(f"of the rows of --val-data: {'; '.join(words)}")
    if config.warmup_steps >= len(data.steps) and RANK == 0:
        warn(f"--warmup-steps {config.warmup_steps}: the run has {len(data.steps)}, and never reaches --learning-rate")


def _not_whole(counts: Counts, cutoff: int) -> list[str]:
    """What was not taken as it is, in words."""
    kinds = ((counts.too_long, "left out"), (counts.truncated, "cut"), (counts.divided, "split"))
    words = [f"{number} {what}: longer than {cutoff} tokens" for number, what in kinds if number]
    return words + [f"{counts.empty} left out: no answer"] * bool(counts.empty)


def _start(config: TrainConfig) -> Path | None:
    """The folder that --resume-from-checkpoint names, checked. Raises UsageError."""
    if not config.resume_from_checkpoint:
        return None
    folder = Path(config.resume_from_checkpoint)
    if config.out.resolve() == folder.resolve():
        raise UsageError(f"--resume-from-checkpoint and --out are both {folder}", "give another --out")
    if config.out.resolve() in folder.resolve().parents:  # this run's own, from which it goes on anyway
        return None
    if not is_checkpoint(folder) and not any((folder / name).is_file() for name in ADAPTER_FILES):
        raise UsageError(
            f"--resume-from-checkpoint {folder} holds neither a checkpoint nor an adapter",
            f"give a folder with {ADAPTER_FILES[0]}; a run that was stopped goes on without this option",
        )
    if is_checkpoint(folder):
        check_parts(folder)
    return folder


def _fit(
    config: TrainConfig,
    template: Template,
    base: Mapping[str, Any],
    data: Prepared,
    run: RunFolder,
    start: Path | None,
) -> None:
    """Plan, load, train, verify and save."""
    import torch
    from transformers import set_seed

    if config.threads:
        torch.set_num_threads(config.threads)
    began = time.monotonic()
    place = find_place()
    plan = planned(config, base, place, [*data.train, *data.validation], data.steps, run.dtype())
    set_seed(config.seed)
    with explained(config, run):
        model = load_base(config.base, plan.choice.setup.dtype, place.device)
        model, pairs = add_lora(model, config)
        loaded = peak(place.device)
        if start is not None:  # also where the Trainer will load a whole checkpoint: it would not say what differs
            load_weights(model, start)
        if RANK == 0:
            run.begin()
        wait_for_all()
        with stop_on_signals() as asked:
            loop = _Loop(config, model, pairs, data, run, place, plan, asked)
            trainer, watch = loop.run(start)
        if RANK != 0:
            return
        tell_peak(plan.choice, loop.peak)
        course = watch.course
        final = ensure_folder(run.checkpoints / "adapter")
        save_adapter(trainer.model, final, pairs)
        chosen = run.best if course.best_step else final
        with loop.ends.quiet():
            verify_effect(model, lambda: loop.ends.next_logits(model, data.train[0].ids), chosen, pairs)
        if course.best_step and course.best_step != trainer.state.global_step:
            tell(
                f"the adapter of step {course.best_step} is kept: its validation loss, {course.best_loss:.4f}, is best"
            )
        history = trainer.state.log_history
        record = {
            "stellar_local": __version__,
            "config": config.as_json(),
            "data_sha256": sha256(config.data),
            "rows": {**data.counts.as_json(), "train": len(data.train), "validation": len(data.validation)},
            "steps": trainer.state.global_step,
            "adapter_step": course.best_step or trainer.state.global_step,
            "stopped_early": watch.stopped_early,
            "pairs": pairs,
            "losses": [round(entry["loss"], 6) for entry in history if "loss" in entry],
            "validation_losses": course.validation,
            "seconds": round(time.monotonic() - began, 1),
            "device": str(place.device),
            "dtype": plan.choice.setup.dtype,
            "plan": plan.choice.as_json(),
            "fused_kernels": loop.fused,
            "peak_bytes": {"loading": loaded, "all": loop.peak},
            "versions": _versions(plan.choice.setup.dtype),
        }
        run.finish(chosen, template.source, record)


def _versions(dtype: str) -> dict[str, str]:
    """The packages that a run was made with."""
    names = (*PACKAGES, "bitsandbytes") if dtype == "nf4" else PACKAGES
    return {name: importlib.metadata.version(name) for name in names}


class _Loop:
    """The Trainer of one run, from the last checkpoint, if any."""

    def __init__(
        self,
        config: TrainConfig,
        model: Any,
        pairs: int,
        data: Prepared,
        run: RunFolder,
        place: Place,
        plan: Plan,
        asked: Asked,
    ) -> None:
        import torch

        from .lean import Ends, fuse, make_lean

        self._config, self._model, self._pairs, self._data, self._folder = config, model, pairs, data, run
        self._place, self._plan, self._asked = place, plan, asked
        self.peak = 0  # bytes, once it has run
        base = model.get_base_model()
        self.ends = Ends(base, place.device, plan.choice.setup.embedding_on_cpu, config.neftune_alpha)
        if place.device.type != "cpu":
            make_lean(base)
        computed = torch.float32 if plan.choice.setup.dtype == "float32" else torch.bfloat16
        self.fused = place.device.type == "cuda" and fuse(place.device, computed)
        if place.device.type == "cuda" and not self.fused:
            tell("torch.compile makes no kernels here (it needs Triton and a C compiler): about a sixth slower")

    def run(self, start: Path | None) -> tuple[Any, Any]:
        """Train, from the last checkpoint or from `start`; returns the Trainer and its watch.

        Raises KeyboardInterrupt if told to stop.
        """
        from .trainer import PackedTrainer, arguments
        from .watch import Course, Watch

        config, data, setup = self._config, self._data, self._plan.choice.setup
        own = self._folder.last_checkpoint()
        checkpoint = own or (start if start and is_checkpoint(start) else None)
        course = Course(**self._folder.course(own)) if own else Course()  # another run's best adapter is not here
        course.dtype = setup.dtype
        limit = course.limit(self._plan.limit)
        done = step_of(checkpoint) if checkpoint else 0
        if done >= len(data.steps):
            raise UsageError(
                f"{checkpoint} was written after step {done}, and this run has {len(data.steps)}", "raise --epochs"
            )
        if checkpoint is not None:
            held = f", with at most {limit.tokens:,} tokens at once, as before" if limit != self._plan.limit else ""
            tell(f"going on from step {done}{held}")
        with ExitStack() as stack:
            log = display = None
            if RANK == 0:
                log = stack.enter_context(closing(RunLog(config.out, done, LOG, EVENTS)))
                display = stack.enter_context(Display(len(data.steps), done, data.steps.epochs))
            watch = Watch(config, self._folder, data.steps, course, log, display, self._asked, self._pairs)
            trainer = PackedTrainer(
                model=self._model,
                args=arguments(
                    config,
                    len(data.steps),
                    str(self._folder.checkpoints),
                    self._place.device,
                    setup.dtype,
                    setup.checkpointing,
                ),
                train_dataset=data.train,
                eval_dataset=data.validation or None,
                callbacks=[watch],
                ends=self.ends,
                steps=data.steps,
                done=done,
                limit=limit,
                offload=setup.offload,
                loraplus_ratio=config.loraplus_ratio,
            )
            watch.trainer = trainer
            try:
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            finally:
                self.peak = peak(self._place.device)  # before anything that only draws is loaded
                if RANK == 0:
                    _draw(config.out)
        if trainer.state.global_step < trainer.state.max_steps and not watch.stopped_early:
            tell(f"stopped after step {trainer.state.global_step}; the same command goes on from there")
            raise self._asked.end()
        return trainer, watch


def _draw(out: Path) -> None:
    """Draw the loss curve of what was logged, however the run ended; what keeps it from being drawn stops nothing."""
    try:
        draw(out / CURVE, *read_log(out / LOG), out.resolve().name)
    except StellarError as error:
        warn(f"no picture of the losses: {error.message}")
