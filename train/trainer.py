"""Transformers' Trainer, set up for packed micro-batches, exact token weights, our progress and our checkpoints.

Imports torch and Transformers, so only `run` imports it, and late. Knows the training loop; knows no files but
what it hands to RunFolder.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from stellar_local.console import Progress
from stellar_local.errors import StellarError

from .config import TrainConfig
from .dataset import Sample, pack
from .folder import RunFolder
from .model import choose_dtype


def summed_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: int | None = None) -> torch.Tensor:
    """Cross-entropy of `labels` int64[L] under logits [1, L, V], summed and divided by the step's learned tokens.

    Dividing by the tokens of the whole optimizer step, and not of the micro-batch, makes the gradient independent
    of how a batch is cut into micro-batches, whatever the lengths of its answers.
    """
    total = cross_entropy(outputs.logits[0].float(), labels, reduction="sum")
    return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)


class PackedTrainer(Trainer):  # type: ignore[misc] # Transformers is seen as Any
    """A Trainer whose batches come from dataset.pack: labels stand only where something is learned."""

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, torch.Tensor]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, torch.Tensor]], int]:
        """The micro-batches of one optimizer step and the number of tokens learned in it."""
        batches = list(islice(epoch_iterator, num_batches))
        return batches, sum(len(batch["labels"]) for batch in batches)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """The mean loss per learned token over the held-out samples."""
        samples: Sequence[Sample] = self.eval_dataset if eval_dataset is None else eval_dataset
        size, total, tokens = self.args.per_device_train_batch_size, 0.0, 0
        self.model.eval()
        with torch.no_grad(), self.compute_loss_context_manager():
            for start in range(0, len(samples), size):
                inputs = self._prepare_inputs(pack(samples[start : start + size]))
                labels = inputs.pop("labels")
                total += float(summed_loss(self.model(**inputs), labels, 1))
                tokens += len(labels)
        metrics = {f"{metric_key_prefix}_loss": total / tokens}
        self.log(metrics)
        return metrics


class _Watch(TrainerCallback):  # type: ignore[misc]
    """Progress, the check of every loss, Ctrl-C at a step's end, and the completion mark of checkpoints."""

    def __init__(self, run: RunFolder, bar: Progress, interrupted: threading.Event) -> None:
        self._run, self._bar, self._interrupted = run, bar, interrupted

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._bar.advance(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_save = False  # the adapter itself is about to be saved
        elif self._interrupted.is_set():
            control.should_save = control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        loss = (logs or {}).get("loss")
        if loss is None:
            return
        if not math.isfinite(loss):
            self._run.discard_checkpoints()  # so that other settings may be tried in the same folder
            raise StellarError(
                f"training diverged: the loss of step {state.global_step} is {loss}",
                "lower --learning-rate, or use --dtype float32",
            )
        self._bar.describe(f"training, loss {loss:.3f}")
        self._bar.advance()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._run.commit(state.global_step)


def make_trainer(
    config: TrainConfig,
    model: Any,
    train: Sequence[Sample],
    validation: Sequence[Sample],
    run: RunFolder,
    bar: Progress,
    interrupted: threading.Event,
) -> PackedTrainer:
    """A Trainer for `model`, a PEFT model on the CPU, which it moves to the first GPU if there is one."""
    cuda = torch.cuda.is_available()
    warmup = int(config.warmup_ratio * config.steps(len(train)))
    arguments = TrainingArguments(
        output_dir=str(run.checkpoints),
        num_train_epochs=config.epochs,
        max_steps=config.max_steps or -1,
        per_device_train_batch_size=config.micro_batch_size,
        gradient_accumulation_steps=config.batch_size // config.micro_batch_size,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.scheduler if config.scheduler != "constant" else "constant_with_warmup",
        warmup_steps=warmup if warmup > 1 else 0,  # a rise starts at 0: of a single step nothing would be learned
        seed=config.seed,
        bf16=choose_dtype(config.dtype) == torch.bfloat16,  # autocast: the adapter's weights stay float32
        use_cpu=not cuda and not torch.backends.mps.is_available(),
        gradient_checkpointing=cuda,  # memory is scarce there; on a CPU time is
        gradient_checkpointing_kwargs={"use_reentrant": False} if cuda else None,
        save_strategy="steps",
        save_steps=config.save_steps,
        eval_strategy="epoch" if validation else "no",
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,  # a loss that is not finite must be seen, not averaged away
        disable_tqdm=True,
        report_to="none",
        remove_unused_columns=False,
        dataloader_pin_memory=cuda,
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # DataParallel would cut packed rows in two
    trainer = PackedTrainer(
        model=model,
        args=arguments,
        train_dataset=list(train),
        eval_dataset=list(validation) or None,
        data_collator=pack,
        compute_loss_func=summed_loss,
        callbacks=[_Watch(run, bar, interrupted)],
    )
    trainer.model_accepts_loss_kwargs = False  # the loss is ours: the model gets no labels
    trainer.remove_callback(PrinterCallback)  # it prints on stdout
    return trainer
