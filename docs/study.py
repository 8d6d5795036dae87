"""Makes the study in study.md and study.zh.md on the real model: base against tuned, F16 to Q2_K, with and without an
importance matrix.

    python docs/study.py --dir study            every step, some 30 minutes on 2 cores; run again, it goes on
    python docs/study.py --dir study --write    the same, and puts the figures into the two pages

Every step is a command as a user gives it. A tenth of each part of the training data, chosen by a hash of its
instruction, is held out: it is neither trained on nor read for the importance matrix. The held-out identity questions
are those of `stellar data identity --held-out`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from stellar_local.evaluate.results import Metric, Summary, read_summaries
from stellar_local.evaluate.tables import number, written
from stellar_local.quickstart import bundled_model, command
from train import corpus
from train.corpus import Triple

FOLDER = Path(__file__).parent
NAMES = (
    *("--name", "StellarSpeak", "--name-zh", "星语者", "--developer", "星语调校局"),
    *("--base", "SmolLM", "--base-developer", "Hugging Face", "--topic", "astronomy/天文学"),
)
BUILDING = ("--limit", "identity=800", "--repeat", "astronomy=2", "--repeat", "general=4")
TRAINING = (
    *("--epochs", "1", "--learning-rate", "1e-3", "--lora-dropout", "0", "--lora-target-modules", "all-linear"),
    *("--batch-size", "4", "--micro-batch-size", "4"),
)
PARTS = ("astronomy", "general", "identity")
LEVELS = ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K")
LOW = ("Q2_K", "IQ3_XXS", "IQ2_M")  # with and without an importance matrix, where they can be made without
TEMPLATE = "bayling"
PROMPTS = ("What is a parsec?", "什么是黑洞？", "Why do stars twinkle?", "月食是怎么发生的？")
ROUNDS = 3  # of measuring speed, the levels in turn
HELD_OUT = 10  # one row in so many


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, default=Path("study"), help="where everything goes [default: %(default)s]")
    parser.add_argument("--write", action="store_true", help="put the figures into study.md and study.zh.md")
    options = parser.parse_args()
    folder = options.dir.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    make(folder)
    judge(folder)
    tables = figures(folder)
    for name, rows in tables.items():
        print(f"\n{name}\n{rows}")
    if options.write:
        for page in ("study.md", "study.zh.md"):
            path = FOLDER / page
            path.write_text(filled(path.read_text(encoding="utf-8"), tables), encoding="utf-8")


def make(folder: Path) -> None:
    """Base, data, adapter, importance matrix, and every file that is compared."""
    if not (folder / "base").exists():
        stellar(folder, "import-gguf", str(bundled_model()), "--out", "base")
    if not (folder / "questions.jsonl").exists():
        stellar(folder, "data", "identity", *NAMES, "--out", "identity.jsonl", "--held-out", "questions.jsonl")
        split(folder)
    if not (folder / "train.json").exists():
        sources = [text for part in PARTS for text in ("--source", f"parts/{part}.json")]
        stellar(folder, "data", "build", *sources, *BUILDING, "--out", "train.json")
    data = ("--base", "base", "--data", "train.json", "--out", "adapter", "--template", TEMPLATE)
    if not (folder / "adapter" / "adapter_model.safetensors").exists():
        stellar(folder, "train", *data, *TRAINING)
    levels = ",".join(LEVELS)
    plain = ",".join([*LEVELS, *(level for level in LOW if level in ("IQ3_XXS",))])
    tuned = ("convert", "--base", "base", "--adapter", "adapter")
    if not (folder / "base-levels" / "manifest.json").exists():
        stellar(folder, "convert", "--base", "base", "--out", "base-levels", "--name", "base", "--levels", levels)
    if not (folder / "tuned" / "manifest.json").exists():
        stellar(folder, *tuned, "--out", "tuned", "--name", "tuned", "--levels", plain)
    if not (folder / "tuned.imatrix").exists():
        texts = [text for part in ("astronomy", "general") for text in ("--data", f"parts/{part}.json")]
        stellar(folder, "imatrix", "tuned/tuned-F16.gguf", *texts, "--out", "tuned.imatrix")
    if not (folder / "tuned-imatrix" / "manifest.json").exists():
        more = ("--imatrix", "tuned.imatrix", "--levels", ",".join(LOW))
        stellar(folder, *tuned, "--out", "tuned-imatrix", "--name", "tuned-imatrix", *more)


def split(folder: Path) -> None:
    """Write the rows that may be trained on, one file a part, and those held out, one file a part and all in one."""
    (folder / "parts").mkdir(exist_ok=True)
    (folder / "held-out").mkdir(exist_ok=True)
    for part in PARTS:
        rows = corpus.read(folder / "identity.jsonl") if part == "identity" else corpus.shipped(part)
        corpus.write([row for row in rows if not is_held_out(row)], folder / "parts" / f"{part}.json")
        held = [json.dumps({**row.as_dict(), "kind": part}, ensure_ascii=False) for row in rows if is_held_out(row)]
        (folder / "held-out" / f"{part}.jsonl").write_text("\n".join(held) + "\n", encoding="utf-8")


def is_held_out(row: Triple) -> bool:
    """By the instruction's hash: the same rows in every run, and all variants of an answer together."""
    return int(hashlib.sha256(row.instruction.encode()).hexdigest(), 16) % HELD_OUT == 0


def files(folder: Path, name: str) -> list[str]:
    """The files of a folder of levels, the largest first, as they are named on the command line."""
    found = sorted((folder / name).glob("*.gguf"), key=lambda path: -path.stat().st_size)
    return [f"{name}/{path.name}" for path in found]


def judge(folder: Path) -> None:
    """Every measurement, into the folder `evaluation`."""
    base, tuned, careful = (files(folder, name) for name in ("base-levels", "tuned", "tuned-imatrix"))
    held_out = ("--data", "held-out/astronomy.jsonl")
    prompted = ("--template", TEMPLATE)  # the base under the template that it is tuned with, and its own
    stellar(folder, "eval", "likelihood", *base, *held_out, *prompted, "--reference", base[0])
    stellar(folder, "eval", "likelihood", *tuned, *careful, *held_out, "--reference", tuned[0])
    asked = ("--questions", "questions.jsonl", "--failures", "3")
    stellar(folder, "eval", "identity", base[0], *asked, *prompted)
    stellar(folder, "eval", "identity", *tuned, *careful, *asked)
    speeds(folder, [*tuned, *careful])
    stellar(folder, "eval", "report", "evaluation", "--title", "SmolLM2-135M → StellarSpeak")


def speeds(folder: Path, models: Sequence[str]) -> None:
    """Tokens a second of one answer at a time, the files in turn, into speeds.json."""
    path = folder / "speeds.json"
    if path.exists():
        return
    found: dict[str, list[float]] = {name: [] for name in models}
    lines = "".join(json.dumps({"prompt": prompt}, ensure_ascii=False) + "\n" for prompt in PROMPTS)
    for _ in range(ROUNDS):
        for name in models:
            more = ("--parallel", "1", "--temperature", "0", "--max-tokens", "96", "--template", "chatml")
            said = stellar(folder, "batch", name, *more, stdin=lines, quiet=True)
            answers = [json.loads(line) for line in said.splitlines()]
            tokens = sum(one["usage"]["completion_tokens"] - 1 for one in answers)
            found[name].append(tokens / max(sum(one["timing"]["generation"] for one in answers), 1e-9))
    path.write_text(
        json.dumps({Path(name).stem: round(max(rates), 1) for name, rates in found.items()}), encoding="utf-8"
    )


def figures(folder: Path) -> dict[str, str]:
    """The tables of the pages, by name, as Markdown."""
    found = read_summaries(folder / "evaluation")
    loss = {one.label: one for one in found if one.task == "likelihood"}
    known = {one.label: one for one in found if one.task == "identity"}
    speed = json.loads((folder / "speeds.json").read_text(encoding="utf-8"))
    labels = [one.label for one in sorted(found, key=size_of) if one.task == "likelihood"]
    own = [label for label in labels if label.startswith("tuned")]
    rows = [[label, *about(loss[label]), *heldout(loss[label]), f"{speed[label]}"] for label in own]
    rows_base = [[label, *about(loss[label]), *heldout(loss[label])] for label in labels if label.startswith("base")]
    identity = [[label, *who(known[label])] for label in ["base-F16", *own] if label in known]
    gain = [gained(level, loss) for level in LOW]
    return {
        "levels": table(rows),
        "base": table(rows_base),
        "identity": table(identity),
        "imatrix": table([row for row in gain if row]),
        "machine": machine(found),
        "commands": "\n".join(["```sh", *COMMANDS, "```"]),
    }


def size_of(summary: Summary) -> tuple[bool, int]:
    return "imatrix" in summary.label, -int(summary.header["model"]["bytes"])


def metric(summary: Summary, name: str, language: str = "", group: str = "") -> Metric | None:
    """A summary's figure, None where it has none."""
    places = ((one.name, one.language, one.group) for one in summary.metrics)
    return next((one for one, at in zip(summary.metrics, places, strict=True) if at == (name, language, group)), None)


def shown(summary: Summary, name: str, language: str = "", group: str = "") -> str:
    found = metric(summary, name, language, group)
    return written(found) if found else "-"


def about(summary: Summary) -> list[str]:
    model = summary.header["model"]
    return [f"{model['bytes'] / 2**20:.1f}", f"{model['bits_per_weight']:.2f}"]


def heldout(summary: Summary) -> list[str]:
    return [
        shown(summary, "loss", "zh"),
        shown(summary, "loss", "en"),
        shown(summary, "KL divergence"),
        shown(summary, "same top token"),
    ]


def who(summary: Summary) -> list[str]:
    """Passed, by language, with and without the system line, as the summary has them."""
    named = [one for one in summary.metrics if one.name == "passed" and not one.detail]
    return [written(one) for one in named[:5]]


def gained(level: str, loss: Mapping[str, Summary]) -> list[str]:
    """A low level without and with the matrix: KL divergence in both languages."""
    row = [level]
    for language in ("zh", "en"):
        for label in (f"tuned-{level}", f"tuned-imatrix-{level}"):
            found = metric(loss[label], "KL divergence", language) if label in loss else None
            row.append(number(found.value, "nats") if found and found.value is not None else "-")
    return row


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as the lines of a Markdown table, whose head stands in the page."""
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def machine(found: Sequence[Summary]) -> str:
    header = found[0].header
    versions = ", ".join(f"{name} {version}" for name, version in header["versions"].items())
    return f"{header['machine']}; {platform.system()}; {versions}"


def filled(page: str, tables: Mapping[str, str]) -> str:
    """A page with what stands between its marks replaced."""
    for name, text in tables.items():
        mark = re.compile(rf"(<!-- {name} -->\n)(.*?)(<!-- end -->)", re.DOTALL)
        page = mark.sub(lambda found, text=text: f"{found[1]}{text}\n{found[3]}", page)
    return page


COMMANDS: list[str] = []


def stellar(folder: Path, *arguments: str, stdin: str | None = None, quiet: bool = False) -> str:
    """Run a command in the folder; what it says on stderr is seen, what it answers is returned."""
    line = "stellar " + " ".join(map(shlex.quote, arguments))
    if not quiet:
        COMMANDS.append(line)
    print(f"$ {line}", flush=True)
    environment = {**os.environ, "PYTHONPATH": str(FOLDER.parent)}
    done = subprocess.run(
        [*command(), *arguments],
        input=stdin,
        stdin=None if stdin is not None else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        env=environment,
        cwd=folder,
    )
    if done.returncode:
        sys.exit(f"stellar {arguments[0]} ended with {done.returncode}")
    print(done.stdout, flush=True)
    return done.stdout


if __name__ == "__main__":
    main()
