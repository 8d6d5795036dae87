"""Checks of the processor: what it has against what llama.cpp was built for, and the threads that there are for it."""

from __future__ import annotations

import os

from ..native.cores import default_threads
from .deaths import Surroundings, kind_of
from .features import FAST, KNOWN, of_system_info
from .finding import Finding, failure, ok, said, skipped, warning
from .probe import Outcome


def check_processor(outcome: Outcome, around: Surroundings) -> Finding:
    """Features that the build needs and the processor lacks are a failure, those that lie idle a warning."""
    has, name = around.features, around.processor or around.machine.arch
    text = outcome.facts.get("system_info")
    if not text or not has:
        shown = ", ".join(feature for feature in sorted(has) if feature in FAST) or "-"
        return skipped("processor", said("doctor.processor_unknown", name=name, features=shown))
    built = of_system_info(str(text))
    kind = kind_of(outcome.facts.get("backends", ()))
    used, idle = [one for one in FAST if one in built], [one for one in FAST if one in has and one not in built]
    details = {"has": sorted(has), "built": sorted(built & KNOWN)}
    told = said("doctor.processor", name=name, features=", ".join(used) or "-")
    if lacking := sorted((built & KNOWN) - has):
        told = told.and_then(said("doctor.processor_lacks", names=", ".join(lacking)))
        return failure("processor", told, around.rebuild(kind), **details)
    if idle:
        told = told.and_then(said("doctor.processor_idle", names=", ".join(idle)))
        if outcome.facts.get("devices"):  # it computes what the GPU does not hold, no more
            return ok("processor", told, **details)
        return warning("processor", told, around.rebuild(kind), **details)
    if "AMX_INT8" in has and "AMX_INT8" not in built:
        told = told.and_then(said("doctor.processor_amx"))
    return ok("processor", told, **details)


def check_threads(cores: int | None = None, logical: int | None = None, allowed: int | None = None) -> Finding:
    """The threads that are computed with by default. `allowed` are the processors that a container's share makes."""
    cores = default_threads() if cores is None else cores
    logical = (os.cpu_count() or cores) if logical is None else logical
    asked = os.environ.get("STELLAR_THREADS", "")
    threads = int(asked) if asked.isdigit() and asked != "0" else cores
    details = {"physical": cores, "logical": logical, "threads": threads, "quota": allowed}
    told = said("doctor.threads", threads=threads, cores=cores, logical=logical)
    if allowed is not None and threads > allowed:
        told = told.and_then(said("doctor.threads_quota", allowed=allowed))
        return warning("threads", told, f"export STELLAR_THREADS={allowed}", **details)
    if threads > logical:
        return warning(
            "threads", told.and_then(said("doctor.threads_many")), f"export STELLAR_THREADS={cores}", **details
        )
    return ok("threads", told, **details)
