"""Makes the study in study.md and study.zh.md on the real model: base against tuned, F16 to Q2_K, with and without an
importance matrix.

    python docs/study.py --dir study            every step, some 30 minutes on 2 cores; run again, it goes on
    python docs/study.py --dir study --write    the same, and puts the figures into the two pages
    python docs/study.py --dir study --tables   runs nothing: the figures that are there, into the pages

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
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from convert.imatrix import read_imatrix
from convert.imatrix_collect import Sums
from convert.imatrix_write import write_imatrix
from stellar_local.evaluate.results import Summary, read_summaries
from stellar_local.evaluate.tables import written
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
LOW = ("IQ3_XXS", "Q2_K", "IQ2_M")  # with an importance matrix and without
TEMPLATE = "bayling"
PROMPTS = ("What is a parsec?", "什么是黑洞？", "Why do stars twinkle?", "月食是怎么发生的？")
ROUNDS = 3  # of measuring speed, the levels in turn
HELD_OUT, MOST_HELD_OUT = 10, 40  # one row in so many, and of each part so many are measured with
ASKED = ("F16", "Q8_0", "Q4_K_M", "Q2_K")  # the levels that are asked who they are


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, default=Path("study"), help="where everything goes [default: %(default)s]")
    parser.add_argument("--write", action="store_true", help="put the figures into study.md and study.zh.md")
    parser.add_argument("--tables", action="store_true", help="run nothing, write the figures that are there")
    options = parser.parse_args()
    folder = options.dir.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    LEFT_OUT.extend(["everything"] if options.tables else [])
    make(folder)
    judge(folder)
    tables = figures(folder)
    for name, rows in tables.items():
        print(f"\n{name}\n{rows}")
    if options.write or options.tables:
        for page in ("study.md", "study.zh.md"):
            path = FOLDER / page
            path.write_text(filled(path.read_text(encoding="utf-8"), tables), encoding="utf-8")


def make(folder: Path) -> None:
    """Base, data, adapter, importance matrix, and every file that is compared."""
    step(folder, "base", "import-gguf", str(bundled_model()), "--out", "base")
    step(
        folder,
        "questions.jsonl",
        "data",
        "identity",
        *NAMES,
        "--out",
        "identity.jsonl",
        "--held-out",
        "questions.jsonl",
    )
    if not (folder / "held-out").exists():
        split(folder)
    sources = [text for part in PARTS for text in ("--source", f"parts/{part}.json")]
    step(folder, "train.json", "data", "build", *sources, *BUILDING, "--out", "train.json")
    data = ("--base", "base", "--data", "train.json", "--out", "adapter", "--template", TEMPLATE)
    step(folder, "adapter/adapter_model.safetensors", "train", *data, *TRAINING)
    untuned = ("convert", "--base", "base", "--name", "base", "--levels", ",".join(LEVELS), "--out", "base-levels")
    step(folder, "base-levels/manifest.json", *untuned)
    tuned = ("convert", "--base", "base", "--adapter", "adapter")
    step(folder, "tuned/manifest.json", *tuned, "--name", "tuned", "--levels", ",".join(LEVELS), "--out", "tuned")
    texts = [text for part in PARTS for text in ("--data", f"parts/{part}.json")]
    step(folder, "tuned.imatrix", "imatrix", "tuned/tuned-F16.gguf", *texts, "--chunks", "96", "--out", "tuned.imatrix")
    flat = folder / "flat.imatrix"
    if not flat.exists():
        write_flat(folder / "tuned.imatrix", flat)
    low = ",".join(LOW)
    for name, matrix in (("imatrix", "tuned.imatrix"), ("flat", "flat.imatrix")):
        out = f"tuned-{name}"
        step(folder, f"{out}/manifest.json", *tuned, "--imatrix", matrix, "--name", out, "--levels", low, "--out", out)


def write_flat(path: Path, flat: Path) -> None:
    """A matrix that holds all columns to be equally important: what the levels that need one are without knowledge."""
    ones = {
        name: Sums(np.ones((1, len(entry))), np.ones(1, np.int64)) for name, entry in read_imatrix(path).entries.items()
    }
    write_imatrix(flat, ones, ["flat"], 1, 512)


def split(folder: Path) -> None:
    """Write the rows that may be trained on, one file a part, and those held out, one file a part and all in one."""
    (folder / "parts").mkdir(exist_ok=True)
    (folder / "held-out").mkdir(exist_ok=True)
    for part in PARTS:
        rows = corpus.read(folder / "identity.jsonl") if part == "identity" else corpus.shipped(part)
        corpus.write([row for row in rows if not is_held_out(row)], folder / "parts" / f"{part}.json")
        left = [row for row in rows if is_held_out(row)][:MOST_HELD_OUT]
        held = [json.dumps({**row.as_dict(), "kind": part}, ensure_ascii=False) for row in left]
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
    base, tuned = files(folder, "base-levels"), files(folder, "tuned")
    low = [*files(folder, "tuned-imatrix"), *files(folder, "tuned-flat")]
    held_out = [text for part in PARTS for text in ("--data", f"held-out/{part}.jsonl")]
    places = ("--places", "2048")
    prompted = ("--template", TEMPLATE)  # the base under the template that it is tuned with, as it brings another
    stellar(folder, "eval", "likelihood", *base, *held_out, *prompted, *places, "--reference", base[0])
    stellar(folder, "eval", "likelihood", *tuned, *low, *held_out, *places, "--reference", tuned[0])
    asked = ("--questions", "questions.jsonl", "--failures", "3")
    stellar(folder, "eval", "identity", base[0], *asked, *prompted)
    levels = [f"tuned/tuned-{level}.gguf" for level in ASKED]
    stellar(folder, "eval", "identity", *levels, "tuned-imatrix/tuned-imatrix-IQ2_M.gguf", *asked)
    speeds(folder, [*tuned, *files(folder, "tuned-imatrix")])
    stellar(folder, "eval", "report", "evaluation", "--title", "SmolLM2-135M → StellarSpeak")


def speeds(folder: Path, models: Sequence[str]) -> None:
    """Tokens a second of one answer at a time, the files in turn, into speeds.json."""
    path = folder / "speeds.json"
    if path.exists() or LEFT_OUT:
        return
    found: dict[str, list[float]] = {name: [] for name in models}
    lines = "".join(json.dumps({"prompt": prompt}, ensure_ascii=False) + "\n" for prompt in PROMPTS)
    for _ in range(ROUNDS):
        for name in models:
            more = ("--parallel", "1", "--temperature", "0", "--max-tokens", "96")
            said = run(folder, ("batch", name, *more), lines)
            answers = [json.loads(line) for line in said.splitlines()]
            tokens = sum(one["usage"]["completion_tokens"] - 1 for one in answers)
            found[name].append(tokens / max(sum(one["timing"]["generation"] for one in answers), 1e-9))
    path.write_text(
        json.dumps({Path(name).stem: round(max(rates), 1) for name, rates in found.items()}), encoding="utf-8"
    )


def figures(folder: Path) -> dict[str, str]:
    """The tables of the pages, by name, as Markdown."""
    found = sorted(read_summaries(folder / "evaluation"), key=size_of)
    loss = {one.label: one for one in found if one.task == "likelihood"}
    known = {one.label: one for one in found if one.task == "identity"}
    known_speeds = folder / "speeds.json"
    speed = json.loads(known_speeds.read_text(encoding="utf-8")) if known_speeds.exists() else {}
    plain = [label for label in loss if label.removeprefix("tuned-") in LEVELS]
    return {
        "levels": table(
            [label, *size(loss[label]), *compared(loss[label]), str(speed.get(label, "-"))] for label in plain
        ),
        "loss": table([label, *losses(one)] for label, one in loss.items() if "flat" not in label),
        "identity": table([label, *who(one)] for label, one in known.items()),
        "imatrix": table(gained(name, level, loss) for level in LOW for name in ("without", "with")),
        "machine": machine(found),
        "commands": "\n".join(["```sh", *COMMANDS, "```"]),
    }


def size_of(summary: Summary) -> tuple[int, int]:
    """Base, tuned, tuned with a matrix; the largest first."""
    order = [summary.label.startswith("tuned"), "-imatrix-" in summary.label, "-flat-" in summary.label]
    return sum(order), -int(summary.header["model"]["bytes"])


def shown(summary: Summary, name: str, language: str = "", group: str = "") -> str:
    """A summary's figure with its interval, "-" where it has none."""
    for one in summary.metrics:
        if (one.name, one.language, one.group) == (name, language, group):
            return written(one)
    return "-"


def size(summary: Summary) -> list[str]:
    model = summary.header["model"]
    return [f"{model['bytes'] / 2**20:.1f}", f"{model['bits_per_weight']:.2f}"]


def compared(summary: Summary) -> list[str]:
    return [
        shown(summary, "KL divergence", "zh"),
        shown(summary, "KL divergence", "en"),
        shown(summary, "same top token"),
    ]


def losses(summary: Summary) -> list[str]:
    return [
        shown(summary, "loss", group="astronomy"),
        shown(summary, "loss", "zh"),
        shown(summary, "loss", "en"),
        shown(summary, "bits per byte"),
    ]


def who(summary: Summary) -> list[str]:
    """Right answers with and without the system line, by language."""
    places = [("", "system line"), ("zh", "system line"), ("en", "system line"), ("", "no system line")]
    return [shown(summary, "right", language, group) for language, group in places]


def gained(name: str, level: str, loss: Mapping[str, Summary]) -> list[str]:
    """A low level with the matrix, or without: for the levels that need one, with one that knows nothing."""
    label = f"tuned-imatrix-{level}" if name == "with" else f"tuned-flat-{level}"
    if name == "without" and f"tuned-{level}" in loss:
        label = f"tuned-{level}"
    return [label, size(loss[label])[0], *compared(loss[label])]


def table(rows: Iterable[Sequence[str]]) -> str:
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
LEFT_OUT: list[str] = []  # not empty: commands are only noted


def step(folder: Path, makes: str, *arguments: str) -> None:
    """A command whose result is not there yet."""
    COMMANDS.append(line(arguments))
    if not LEFT_OUT and not (folder / makes).exists():
        run(folder, arguments)


def stellar(folder: Path, *arguments: str) -> None:
    """A command that goes on by itself."""
    COMMANDS.append(line(arguments))
    if not LEFT_OUT:
        run(folder, arguments)


def line(arguments: Sequence[str]) -> str:
    """A command as it is typed, for the page: without this machine's folders."""
    return "stellar " + " ".join(shlex.quote(Path(one).name if one.startswith("/") else one) for one in arguments)


def run(folder: Path, arguments: Sequence[str], stdin: str = "") -> str:
    """Run it in the folder; what it says on stderr is seen, what it answers is returned."""
    print(f"$ {line(arguments)}", flush=True)
    done = subprocess.run(
        [*command(), *arguments],
        input=stdin,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": str(FOLDER.parent)},
        cwd=folder,
    )
    if done.returncode:
        sys.exit(f"stellar {arguments[0]} ended with {done.returncode}")
    print(done.stdout, flush=True)
    return done.stdout


if __name__ == "__main__":
    main()
