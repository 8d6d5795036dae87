"""Running what may crash in a child process, and what became of it.

The child is this Python with this sys.path, so that it finds what we would find. Each fact that it learns it writes at
once as a line of JSON: what was known before it died is not lost. Judges nothing.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..child import own_environment, own_python
from ..errors import StellarError
from .machine import run

# What Windows returns for a process that died of an exception (ntstatus.h), as the signals that mean the same.
_WINDOWS = {
    0xC000001D: "SIGILL",
    0xC0000005: "SIGSEGV",
    0xC00000FD: "SIGSEGV",
    0xC0000409: "SIGABRT",
    0xC0000017: "SIGKILL",
}
_CODE = "from stellar_local.doctor.probe import serve; serve(*sys.argv[1:])"


@dataclass(frozen=True)
class Outcome:
    """How a probe ended. `facts` is what it told, the later of equal names; `stage` the last of its stages that began.

    `signal` names what killed it, "" if nothing did; `error` is what it told itself: "message" and "hint". `log` is its
    stderr, llama.cpp's own words included.
    """

    facts: Mapping[str, Any] = field(default_factory=dict)
    code: int | None = 0
    signal: str = ""
    log: str = ""

    @property
    def done(self) -> bool:
        """Whether it came to its end."""
        return bool(self.facts.get("done"))

    @property
    def timed_out(self) -> bool:
        return self.code is None

    @property
    def stage(self) -> str:
        return str(self.facts.get("stage", ""))

    @property
    def error(self) -> Mapping[str, str] | None:
        return self.facts.get("error")

    @property
    def last_words(self) -> str:
        """The line of its log that says most about its end: the last that names an error, else the last."""
        lines = [line.strip() for line in self.log.splitlines() if line.strip()]
        marked = ("error", "assert", "failed", "terminate", "exception", "what():", "out of memory")
        telling = [line for line in lines if any(mark in line.lower() for mark in marked)]
        return (telling or lines or [""])[-1][:300]


def ask(module: str, timeout: float, **arguments: Any) -> Outcome:
    """Run the probe `stellar_local.doctor.MODULE` with these arguments, for so many seconds at most."""
    ran = run(own_python(_CODE, module, json.dumps(arguments)), timeout, own_environment())
    if ran is None:
        return Outcome({"error": {"message": f"{sys.executable} cannot be started", "hint": ""}}, 1)
    facts: dict[str, Any] = {}
    for line in ran.out.splitlines():
        try:
            told = json.loads(line)
        except ValueError:
            continue  # a last line that was cut, or another library's
        if isinstance(told, dict):
            facts.update(told)
    return Outcome(facts, ran.code, _signal(ran.code), ran.err)


def _signal(code: int | None) -> str:
    """The name of what killed a process with this exit code, "" for one that ended by itself."""
    if code is None:
        return ""
    if found := _WINDOWS.get(code & 0xFFFFFFFF):
        return found
    if code < 0:
        try:
            return signal.Signals(-code).name
        except ValueError:
            return f"signal {-code}"
    return ""


def serve(module: str, arguments: str) -> None:
    """The child's side: run the probe's `main(tell, ...)` with arguments in JSON, and tell what it raises."""
    facts = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what native libraries print is no fact

    def tell(**told: Any) -> None:
        facts.write(json.dumps(told) + "\n")
        facts.flush()

    try:
        importlib.import_module(f"{__package__}.{module}").main(tell, **json.loads(arguments))
    except Exception as error:
        kind = "" if isinstance(error, StellarError) else f"{type(error).__name__}: "
        tell(
            error={
                "message": kind + str(error),
                "hint": getattr(error, "hint", ""),
                "cause": str(error.__cause__ or ""),
            }
        )
        return
    tell(done=True)
