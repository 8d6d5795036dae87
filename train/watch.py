"""What happens around the steps of a run: evaluation when it is due, the best adapter, early stopping, Ctrl-C.

Imports Transformers, so only `run` imports it, and late. Knows the Trainer's callbacks, the run's folder, its log
and its display.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from transformers import TrainerCallback

from .adapter import save_adapter
from .config import TrainConfig
from .display import Display
from .folder import RunFolder
from .logs import RunLog, StepStats
from .packing import Limit
from .steps import Steps
from .stopping import Asked


@dataclass
class Course:
    """How a run goes: kept with every checkpoint, so that a run that goes on decides as if it had not stopped."""

    best_loss: float = math.inf
    best_step: int = 0
    stale: int = 0  # evaluations since the best one
    samples: int = 0  # the micro-batch's limit, which may have been lowered; 0: none
    tokens: int = 0
    dtype: str = ""  # the base's precision: what is free may be other by now, but half a run has no other precision
    validation: list[list[float]] = field(default_factory=list)  # [step, loss] of each evaluation

    def limit(self, planned: Limit) -> Limit:
        """The lower of what is planned and what the run had come down to."""
        return Limit(_lower(self.samples, planned.samples), _lower(self.tokens, planned.tokens))


def _lower(one: int, other: int) -> int:
    return min(one, other) or max(one, other)  # 0 is no limit


class Watch(TrainerCallback):  # type: ignore[misc] # Transformers is seen as Any
    """The callback of one run. `trainer` is set once it exists."""

    trainer: Any

    def __init__(
        self,
        config: TrainConfig,
        run: RunFolder,
        steps: Steps,
        course: Course,
        log: RunLog | None,
        display: Display | None,
        asked: Asked,
        pairs: int,
    ) -> None:
        self._config, self._run, self._steps, self.course = config, run, steps, course
        self._log, self._display, self._asked, self._pairs = log, display, asked, pairs
        self.stopped_early = False
        self._began = self._seconds = 0.0  # when the step in hand began, and what the last one took

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._began = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._seconds = time.monotonic() - self._began
        step = state.global_step
        every = self._config.eval_steps
        due = step % every == 0 or step == len(self._steps) if every else self._steps.ends_epoch(step)
        control.should_evaluate = due and self.trainer.eval_dataset is not None
        stop = self.trainer.any_process(bool(self._asked))
        if step >= state.max_steps:
            control.should_save = False  # the adapter itself is about to be saved
        elif stop:
            control.should_save = control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if not logs or "loss" not in logs:
            return
        work = self.trainer.work
        stats = StepStats(
            step=state.global_step,
            epoch=state.global_step / self._steps.per_epoch,
            loss=work.loss,
            learning_rate=logs["learning_rate"],
            grad_norm=logs.get("grad_norm", math.nan),
            tokens=work.tokens,
            learned=work.learned,
            seconds=self._seconds,
            memory=work.memory,
        )
        if self._log and self._display:
            self._log.step(stats)
            self._display.step(stats)

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **kwargs: Any
    ) -> None:
        loss = (metrics or {}).get("eval_loss", math.nan)
        course = self.course
        course.validation.append([state.global_step, round(loss, 6)])
        better = loss < course.best_loss
        if better:
            course.best_loss, course.best_step, course.stale = loss, state.global_step, 0
            if self._log:
                self._run.keep_best(lambda folder: save_adapter(self.trainer.model, folder, self._pairs))
        else:
            course.stale += 1
        if self._log and self._display:
            self._log.evaluation(state.global_step, loss)
            self._display.evaluation(loss, better)
        if self._config.early_stopping and course.stale >= self._config.early_stopping:
            control.should_training_stop = self.stopped_early = True
            control.should_save = False  # from a checkpoint here a run would go on beyond its end

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        limit: Limit = self.trainer.limit
        self.course.samples, self.course.tokens = limit.samples, limit.tokens
        self.trainer.accelerator.wait_for_everyone()  # another process may still be writing its part
        if self._log:
            self._run.commit(state.global_step, asdict(self.course))
