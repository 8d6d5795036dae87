"""Transformers' Trainer, set up for whole optimizer steps that are cut into packed micro-batches.

The Trainer sees one batch a step. Inside, the step's samples are shared among the processes, cut to what the memory
holds, and every micro-batch's loss is divided by the learned tokens of the whole step: however it is cut, the
gradient is the same. Imports torch and Transformers, so only `run` imports it, and late. Knows no files.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft.optimizers import create_loraplus_optimizer
from transformers import PrinterCallback, Trainer, TrainingArguments

from stellar_local.console import warn
from stellar_local.errors import ModelError, StellarError

from .config import TrainConfig
from .dataset import Sample
from .lean import Ends, inputs_on_host
from .packing import ALIGNMENT, Limit, MicroBatch, cut, own_share, pack, packed_length
from .placing import peak
from .steps import Steps


@dataclass
class StepWork:
    """What one optimizer step did, over all processes: mean loss, learned tokens, all, bytes at the peak."""

    loss: float = math.nan
    learned: int = 0
    tokens: int = 0
    memory: int = 0


class _Loader:
    """The steps still to do, as the data loader that the Trainer asks for: each a list of samples."""

    def __init__(self, samples: Sequence[Sample], steps: Steps, done: int) -> None:
        self.dataset, self._steps, self._done = samples, steps, done

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[list[Sample]]:
        return ([self.dataset[i] for i in self._steps[index]] for index in range(self._done, len(self._steps)))


class PackedTrainer(Trainer):  # type: ignore[misc] # Transformers is seen as Any
    """A Trainer whose batches are lists of samples, computed as packed micro-batches of at most `limit`."""

    optimizer: Any
    control: Any

    def __init__(
        self,
        *arguments: Any,
        ends: Ends,
        steps: Steps,
        done: int,
        limit: Limit,
        offload: bool,
        loraplus_ratio: float,
        **settings: Any,
    ) -> None:
        super().__init__(*arguments, **settings)
        self.remove_callback(PrinterCallback)  # it prints on stdout
        self.limit, self.work = limit, StepWork()
        self._ends, self._offload, self._loraplus_ratio = ends, offload, loraplus_ratio
        self._loader = _Loader(self.train_dataset, steps, done)
        self._processes, self._rank = self.accelerator.num_processes, self.accelerator.process_index
        self._working_on: MicroBatch = []  # the micro-batch in hand, for what is said when it does not fit

    def get_train_dataloader(self) -> Any:
        return self._loader

    def get_batch_samples(
        self, epoch_iterator: Iterator[list[Sample]], num_batches: int, device: torch.device
    ) -> tuple[list[list[Sample]], None]:
        """The samples of the next step, as one batch."""
        step = next(epoch_iterator, None)
        return ([] if step is None else [step]), None

    def floating_point_ops(self, inputs: Any) -> int:
        return 0  # it would look for input_ids

    def create_optimizer(self, model: Any = None) -> Any:
        if self.optimizer is None and self._loraplus_ratio:
            kind, settings = self.get_optimizer_cls_and_kwargs(self.args)
            rate, decay = settings.pop("lr"), self.args.weight_decay
            self.optimizer = create_loraplus_optimizer(
                self.model,
                kind,
                lr=rate,
                loraplus_lr_ratio=self._loraplus_ratio,
                loraplus_weight_decay=decay,
                **settings,
            )
        return super().create_optimizer()

    def training_step(self, model: Any, inputs: list[Sample], num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward over one optimizer step; returns its mean loss per learned token.

        A micro-batch that does not fit into memory makes the limit half as large, and the step begins anew. Raises
        ModelError where a single sample does not fit, StellarError for a loss that is not finite.
        """
        model.train()
        learned = sum(len(sample.ids) - sample.first for sample in inputs)
        while True:
            try:
                total = self._accumulate(model, own_share(inputs, self._rank, self._processes), learned)
                break
            except torch.OutOfMemoryError as error:
                self._shrink(error)
            model.zero_grad()
            _free_cache()
        if self._processes > 1:
            total = self.accelerator.reduce(total, "sum")
        loss = total / learned
        tokens = sum(len(sample.ids) for sample in inputs)
        self.work = StepWork(float(loss), learned, tokens, peak(self.args.device))
        if not math.isfinite(self.work.loss):
            raise _diverged(f"the loss of step {self.state.global_step + 1}", self.work.loss)
        return loss

    def any_process(self, flag: bool) -> bool:
        """Whether the flag is set in any process: all must stop after the same step."""
        if self._processes == 1:
            return flag
        return bool(self.accelerator.reduce(torch.tensor(float(flag), device=self.args.device), "sum"))

    def _accumulate(self, model: Any, samples: list[Sample], learned: int) -> torch.Tensor:
        """Gradients of the micro-batches of `samples`; returns their summed loss."""
        total = torch.zeros((), device=self.args.device)
        # A step with fewer samples than processes: the others take part with a loss of nothing.
        parts = cut(samples or [self.train_dataset[0]], self.limit)
        for number, part in enumerate(parts, 1):
            self._working_on = part
            last = number == len(parts)
            wait = contextlib.nullcontext if last else functools.partial(self.accelerator.no_sync, model=model)
            with wait():
                with inputs_on_host(self._offload):
                    loss = self._loss(model, part)
                if not samples:
                    loss = loss * 0
                # Processes average their gradients; what is wanted is the sum.
                self.accelerator.backward(loss * (self._processes / learned))
            total += loss.detach()
        return total

    def _loss(self, model: Any, rows: MicroBatch) -> torch.Tensor:
        """The summed loss of one micro-batch."""
        device = self.args.device
        batch = pack(rows, ALIGNMENT if device.type == "cuda" else 1)
        mask = batch["attention_mask"]
        embeddings = self._ends.embed(batch["input_ids"], batch["lengths"])
        with self.compute_loss_context_manager():
            hidden = model(
                inputs_embeds=embeddings,
                position_ids=batch["position_ids"].to(device),
                attention_mask=None if mask is None else mask.to(device),
            ).logits  # the head is out of the model
        learned = hidden.flatten(0, 1)[batch["places"].to(device)]
        return self._ends.loss(learned, batch["labels"].to(device))

    def _shrink(self, error: BaseException) -> None:
        tokens, smaller = packed_length(self._working_on), self.limit.halved(self._working_on)
        if smaller is None:
            raise ModelError(
                f"not enough memory for one sample of {tokens} tokens",
                "lower --cutoff-len, or see --memory, --dtype nf4 and --offload on",
            ) from error
        if self._processes > 1:  # the others wait for this step's gradients
            raise ModelError("a process is out of memory", f"use --packing {smaller.tokens}") from error
        self.limit = smaller
        warn(f"out of memory at {tokens} tokens in a micro-batch: going on with {smaller.tokens}")

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)  # of every step, clipped or not
        if not math.isfinite(float(norm)):
            raise _diverged(f"the gradient of step {self.state.global_step + 1}", float(norm))
        return norm

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """The mean loss per learned token over the held-out samples. Raises StellarError for one that is not finite."""
        samples: Sequence[Sample] = self.eval_dataset if eval_dataset is None else eval_dataset
        total, place = torch.zeros((), device=self.args.device), 0
        self.model.eval()
        own = own_share(samples, self._rank, self._processes)
        parts = cut(own, self.limit) if own else []
        with torch.no_grad(), self._ends.quiet():
            while place < len(parts):
                try:
                    total += self._loss(self.model, parts[place])
                    place += 1
                    continue
                except torch.OutOfMemoryError as error:
                    self._working_on = parts[place]
                    self._shrink(error)
                _free_cache()
                parts[place:] = cut([sample for part in parts[place:] for row in part for sample in row], self.limit)
        if self._processes > 1:
            total = self.accelerator.reduce(total, "sum")
        loss = float(total) / sum(len(s.ids) - s.first for s in samples)
        if not math.isfinite(loss):
            raise _diverged(f"the validation loss after step {self.state.global_step}", loss)
        metrics = {f"{metric_key_prefix}_loss": loss}
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def _diverged(what: str, value: float) -> StellarError:
    return StellarError(
        f"training diverged: {what} is {value}",
        "lower --learning-rate, raise --warmup-ratio, or use --dtype float32; checkpoints before it are kept",
    )


def _free_cache() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def arguments(
    config: TrainConfig, total: int, folder: str, device: torch.device, dtype: str, checkpointing: bool
) -> Any:
    """The Trainer's settings for a run of `total` steps."""
    warmup = config.warmup_steps or int(config.warmup_ratio * total)
    made = TrainingArguments(
        output_dir=folder,
        num_train_epochs=1,  # of our loader, which holds the steps of all passes
        max_steps=total,
        per_device_train_batch_size=1,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.scheduler if config.scheduler != "constant" else "constant_with_warmup",
        warmup_steps=warmup if warmup > 1 else 0,  # a rise starts at 0: of a single step nothing would be learned
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        bf16=dtype != "float32",  # autocast: the adapter's weights stay float32
        use_cpu=device.type == "cpu",
        gradient_checkpointing=checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if checkpointing else None,
        ignore_data_skip=True,  # our loader begins where the run goes on
        save_strategy="steps",
        save_steps=config.save_steps,
        eval_strategy="no",  # the watch says when
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,  # a loss that is not finite must be seen, not averaged away
        disable_tqdm=True,
        report_to="none",
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
    )
    made._n_gpu = min(1, made.n_gpu)  # DataParallel would cut packed rows in two
    return made
