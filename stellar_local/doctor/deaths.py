"""Why a child process died or hung, in a sentence, and the command against it.

Knows signals, and which instruction sets make llama.cpp end with an illegal instruction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from . import hints, remedies
from .cards import Cards
from .features import KNOWN, of_system_info
from .finding import Said, said
from .machine import Machine
from .probe import Outcome
from .remedies import KINDS


@dataclass(frozen=True)
class Surroundings:
    """What decides which command mends: the machine, its GPUs, the processor's features, the versions that we take.

    `old_gcc`: the compiler here is a GCC before 14, which breaks AMX.
    """

    machine: Machine
    cards: Cards
    processor: str
    features: frozenset[str]
    wanted: str
    old_gcc: bool = False

    def reinstall(self) -> str:
        """The command for a sound library in the place of this one."""
        return remedies.reinstall(self.machine, self.cards, self.wanted)

    def rebuild(self, kind: str = "", amx: bool = True) -> str:
        """The command that builds llama.cpp for this very processor, and for the same GPU as now."""
        return remedies.source(
            self.machine, self.wanted, kind, amx and not (self.old_gcc and "AMX_INT8" in self.features)
        )


def kind_of(backends: Sequence[str]) -> str:
    """The kind of GPU that a build is for, "" for a build for the processor alone."""
    return next((KINDS[name] for name in backends if name in KINDS), "")


def stage_said(outcome: Outcome) -> Said:
    """What a probe was doing last."""
    return said(f"doctor.stage_{outcome.stage or 'start'}")


def error_said(outcome: Outcome) -> Said:
    """An error that a probe told itself, and its hint."""
    error = outcome.error or {"message": "-"}
    words = said("doctor.said", words=error["message"])
    return words.and_then(said("doctor.said_hint", words=error["hint"])) if error.get("hint") else words


def explain(
    outcome: Outcome, around: Surroundings, built: str = "", backends: Sequence[str] = (), seconds: float = 0
) -> tuple[Said, str]:
    """Why a probe came to no end, and what mends it. `built` is llama_print_system_info, where it is known."""
    stage, kind = stage_said(outcome), kind_of(backends)
    if outcome.timed_out:
        retry = "sudo reboot" if around.cards.usable and around.machine.system == "Linux" else ""
        retry = retry or f"stellar doctor --timeout {max(60, int(4 * seconds))}"
        return said("doctor.hangs", seconds=f"{seconds:.0f}", stage=stage), retry
    if outcome.signal == "SIGILL":
        return _illegal(outcome, around, of_system_info(built), kind, stage)
    if outcome.signal == "SIGKILL":
        return said("doctor.killed", stage=stage), hints.memory_holders(around.machine)
    if outcome.signal == "SIGABRT":
        return said("doctor.aborted", stage=stage, words=outcome.last_words or "-"), around.reinstall()
    if outcome.signal == "SIGBUS":
        return said("doctor.bus", stage=stage), around.reinstall()
    if outcome.signal:
        return said("doctor.crashed", stage=stage, signal=outcome.signal), around.reinstall()
    if outcome.error:
        return said("doctor.said", words=outcome.error["message"]), around.reinstall()
    return said("doctor.ended", stage=stage, code=outcome.code, words=outcome.last_words or "-"), around.reinstall()


def _illegal(outcome: Outcome, around: Surroundings, built: frozenset[str], kind: str, stage: Said) -> tuple[Said, str]:
    """An illegal instruction: one that the build uses and the processor lacks, or AMX as GCC before 14 sets it up."""
    if lacking := sorted((built & KNOWN) - around.features) if around.features else []:
        return said("doctor.illegal_lacks", stage=stage, names=", ".join(lacking)), around.rebuild(kind)
    if outcome.stage in ("prompt", "answer") and "AMX_INT8" in built:
        return said("doctor.illegal_amx", stage=stage), around.rebuild(kind, amx=False)
    has = ", ".join(sorted(around.features)) or "-"
    return said("doctor.illegal", stage=stage, names=has), around.rebuild(kind)
