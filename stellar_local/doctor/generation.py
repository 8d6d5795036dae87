"""The check that all of it works: 64 tokens generated, how fast, where, and whether the numbers are numbers.

Reads what the probe told, and llama.cpp's log of it for the device of each layer.
"""

from __future__ import annotations

import re
from collections import Counter

from ..console import amount
from . import remedies
from .deaths import Surroundings, error_said, explain
from .finding import Finding, Said, failure, ok, said, skipped, warning
from .probe import Outcome

TOKENS = 64  # to be generated
_LESS = "--ctx 1024 --kv q8_0"  # what takes the least memory
_ANEW = "stellar convert --base BASE --out NEW && stellar doctor NEW"
# Weights times tokens a second is how fast memory is read. Two channels of DDR4 give 51 GB/s: a GPU that does not reach
# half of that reads its weights from somewhere else, as Windows's driver lets it when its own memory is full.
_SLOW, _LARGE = 25e9, 1 << 30  # bytes a second, of models of so many bytes: small ones wait for other things


def placed(log: str) -> Counter[str]:
    """How many layers llama.cpp put on each device, the output counted as one, by its log."""
    return Counter(re.findall(r"layer\s+\d+ assigned to device ([^,\s]+)", log))


def check_generation(
    outcome: Outcome, library: Outcome, around: Surroundings, target: str, seconds: float, load: float = 0
) -> Finding:
    """How a generation went; `library` is the outcome of its probe, `target` the model as a word for the shell.

    `load` is how many processors others kept busy when it began.
    """
    facts = outcome.facts
    if not outcome.done:
        if outcome.error:
            return failure("generation", error_said(outcome), _against(outcome.error["message"], target, around))
        built, backends = str(library.facts.get("system_info", "")), library.facts.get("backends", ())
        words, fix = explain(outcome, around, built, backends, seconds)
        if outcome.signal == "SIGKILL":
            fix = f"stellar chat {target} {_LESS}"
        return failure("generation", said("doctor.generation_dies", why=words), fix)
    layers, speed, count = placed(outcome.log), float(facts["speed"]), int(facts["tokens"])
    on = ", ".join(f"{name} {held}/{sum(layers.values())}" for name, held in layers.most_common()) or "?"
    told = said(
        "doctor.generation",
        prompt=f"{facts['prompt_speed']:.1f}",
        read=facts["prompt_tokens"],
        speed=f"{speed:.1f}",
        tokens=count,
        where=on,
        threads=facts["threads"],
    )
    if load >= max(1, facts["threads"] / 2):
        told = told.and_then(said("doctor.generation_busy", load=f"{load:.1f}"))
    details = {
        "prompt_tokens": facts["prompt_tokens"],
        "prompt_tokens_per_second": round(float(facts["prompt_speed"]), 2),
        "tokens": count,
        "tokens_per_second": round(speed, 2),
        "load_seconds": round(float(facts["load"]), 2),
        "layers": dict(layers),
        "threads": facts["threads"],
        "context": facts["context"],
        "finite": facts["finite"],
    }
    if not facts["finite"]:
        told = told.and_then(said("doctor.generation_infinite"))
        fix = f"stellar chat {target} --gpu-layers 0" if library.facts.get("devices") else _ANEW
        return failure("generation", told, fix, **details)
    if count < 2:  # there is no speed to speak of
        few = said("doctor.generation_none", seconds=f"{seconds:.0f}", read=facts["prompt_tokens"], tokens=count)
        known = {name: value for name, value in details.items() if not name.endswith("per_second")}
        return failure("generation", few, f"stellar doctor {target} --timeout {int(seconds * 4)}", **known)
    if finding := _judged(told, details, layers, outcome, library, target):
        return finding
    if count < min(TOKENS, facts["context"] // 4):
        late = told.and_then(said("doctor.generation_slow", seconds=f"{seconds:.0f}"))
        return warning("generation", late, f"stellar chat {target} {_LESS}", **details)
    return ok("generation", told, **details)


def _judged(
    told: Said, details: dict[str, object], layers: Counter[str], outcome: Outcome, library: Outcome, target: str
) -> Finding | None:
    """What is to be said of a GPU that was there: nothing on it, a part of it, or all and slow all the same."""
    devices = {str(row["name"]): row for row in library.facts.get("devices", ())}
    if not devices or not layers:
        return None
    held = sum(count for name, count in layers.items() if name in devices)
    fewer = f"stellar chat {target} --ctx 2048 --kv q8_0"
    if not held:
        return warning(
            "generation", told.and_then(said("doctor.generation_idle")), f"{fewer} --gpu-layers auto", **details
        )
    if held < sum(layers.values()):
        return warning("generation", told.and_then(said("doctor.generation_part")), fewer, **details)
    size, speed = int(outcome.facts["size"]), float(outcome.facts["speed"])
    if size >= _LARGE and size * speed < _SLOW:
        reached = amount(int(size * speed))
        return warning("generation", told.and_then(said("doctor.generation_spills", reached=reached)), fewer, **details)
    return None


def _against(message: str, target: str, around: Surroundings) -> str:
    """The command against what our own code says of a generation that failed."""
    if "configuration file" in message:
        return f"STELLAR_CONFIG=/dev/null stellar doctor {target}"
    if "finite logit" in message:
        return _ANEW
    if "template" in message:
        return f"stellar chat {target} --template bayling"
    if "cannot load" in message or "cannot create a context" in message or "memory" in message:
        return f"stellar chat {target} {_LESS}"
    return around.reinstall() if "llama" in message else remedies.pip(around.machine, "check")


def skipped_generation(why: str) -> Finding:
    """Nothing was generated, and why."""
    return skipped("generation", said(why))
