"""The checks in their order, each guarded: what breaks in one is said as its failure, and the next goes on.

Knows which check needs what; a check knows only what it is given.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..bundled import bundled_file
from ..native.cores import quota
from . import cards, features, generation, graphics, library, model, processor, surroundings
from .deaths import Surroundings
from .finding import Finding, failure, said, skipped
from .machine import Machine, old_gcc, this_machine, tool
from .probe import Outcome, ask
from .remedies import required

TIMEOUT = 300.0  # seconds for the generation; reading a header and loading the library get less
_SHORT = 60.0
_NVML = 15.0


@dataclass(frozen=True)
class Order:
    """What is asked for: a model or none, whether a large file's sum is computed, seconds for the generation."""

    model: Path | None = None
    full: bool = False
    seconds: float = TIMEOUT


class Examination:
    """One examination. What several checks need is found out once, when the first asks."""

    def __init__(self, order: Order) -> None:
        self.order = order

    @cached_property
    def machine(self) -> Machine:
        return this_machine()

    @cached_property
    def around(self) -> Surroundings:
        name, has = features.this_processor()
        found = cards.collect(self.machine, lambda: ask("probe_nvml", _NVML).facts)
        compiler = old_gcc(tool("cc", "-dumpversion"), tool("cc", "--version"))
        return Surroundings(self.machine, found, name, has, required(), compiler)

    @cached_property
    def loaded(self) -> Outcome:
        return ask("probe_library", self.short)

    @cached_property
    def short(self) -> float:
        return min(_SHORT, self.order.seconds)

    @cached_property
    def model(self) -> Path | None:
        """The model to look at: the one that was named, else the bundled one."""
        return self.order.model or bundled_file()

    @cached_property
    def read(self) -> Outcome:
        """What the model's file is; a large vocabulary on a slow disk may take its time."""
        return ask("probe_model", max(self.short, self.order.seconds / 2), model=str(self.model))

    def checks(self) -> list[tuple[str, Callable[[], Finding | None]]]:
        """The ids of the checks, and how each is made; None: there is nothing of the kind here."""
        return [
            ("python", lambda: surroundings.check_python(self.machine)),
            ("platform", lambda: surroundings.check_platform(self.machine)),
            (
                "library",
                lambda: library.check_library(self.loaded, library.version_installed(), self.around, self.short),
            ),
            ("build", lambda: library.check_build(self.loaded)),
            ("gpu", lambda: graphics.check_gpu(self.loaded, self.around)),
            ("driver", lambda: graphics.check_driver(self.loaded, self.around)),
            ("gpu-memory", lambda: graphics.check_gpu_memory(self.loaded, self.around)),
            ("processor", lambda: processor.check_processor(self.loaded, self.around)),
            ("threads", lambda: processor.check_threads(allowed=quota())),
            ("memory", lambda: surroundings.check_memory(self.machine)),
            ("disk", lambda: surroundings.check_disk(self.around)),
            ("data", lambda: surroundings.check_data(self.around)),
            ("training", lambda: surroundings.check_training(self.around)),
            ("model", self._model),
            ("model-sum", lambda: model.check_sum(self.read, self.around, self.order.full) if self.model else None),
            ("model-template", lambda: model.check_template(self.read, self.around) if self.model else None),
            ("model-tokens", lambda: model.check_tokens(self.read, self.around) if self.model else None),
            ("generation", self._generation),
        ]

    def _model(self) -> Finding:
        if self.model is None:
            return skipped("model", said("doctor.no_model"), "stellar doctor MODEL")
        return model.check_model(self.read, self.model, self.order.model is None, self.around, self.short)

    def _generation(self) -> Finding:
        if self.model is None:
            return generation.skipped_generation("doctor.no_model")
        if not self.loaded.done:
            return generation.skipped_generation("doctor.no_library")
        if not self.read.done and not (self.read.error and self.read.stage == "template"):
            return generation.skipped_generation("doctor.no_sound_model")
        seconds = self.order.seconds
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0  # before, so that it is others'
        outcome = ask("probe_generation", seconds, model=str(self.model), seconds=seconds, tokens=generation.TOKENS)
        target = model.shown(self.around, self.model)
        return generation.check_generation(outcome, self.loaded, self.around, target, seconds, load)


def examine(examination: Examination, begin: Callable[[str], None] = lambda id: None) -> Iterator[Finding]:
    """The findings as they come; `begin` is told the id of each check before it is made."""
    for id, check in examination.checks():
        begin(id)
        try:
            found = check()
        except Exception as error:  # a defect of ours must not hide what the other checks find
            words = f"{type(error).__name__}: {error}"
            found = failure(id, said("doctor.broken", words=words), "STELLAR_TRACEBACK=1 stellar doctor --json")
        if found is not None:
            yield found
