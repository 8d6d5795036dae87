"""Whether a small model learns who it is: held-out answer loss and identity, before and after one training run.

Every step is a command as a user gives it: import the bundled SmolLM2-135M, make identity rows and held-out
questions, build the training file, train, convert to Q8_0, and ask. A tenth of the rows, chosen by a hash of their
instruction, is held out to measure the loss per answer token, in nats, in PyTorch at float32. Each held-out question
is answered greedily and judged by stellar_local.evaluate.identity. Rows of astronomy and general talk that were held
out are asked too, to see whether the model gives its name where nobody asked. Steps whose result is in --folder are
reused.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from machine import describe

from stellar_local.evaluate.identity.judge import failure
from stellar_local.evaluate.statistics import wilson
from stellar_local.prompts import load_template
from stellar_local.quickstart import bundled_model, command
from train import corpus
from train.corpus import Triple

NAMES = (
    *("--name", "StellarSpeak", "--name-zh", "星语者", "--developer", "星语调校局"),
    *("--base", "SmolLM", "--base-developer", "Hugging Face", "--topic", "astronomy/天文学"),
)
BUILDING = ("--limit", "identity=800", "--repeat", "astronomy=2", "--repeat", "general=4")
TRAINING = (
    *("--epochs", "1", "--learning-rate", "1e-3", "--lora-dropout", "0", "--lora-target-modules", "all-linear"),
    *("--batch-size", "4", "--micro-batch-size", "4"),
)
FRESH = Path(__file__).with_name(
    "identity_fresh.jsonl"
)  # worded by hand, and not looked at while the recipe was sought
PARTS = ("astronomy", "general", "identity")
TEMPLATE = "bayling"
# Of answers that are right in all else (failure looks at this last): "Yes, I am StellarSpeak" to "Are you Qwen?"
POLARITY = ("says yes where no is right", "says no where yes is right")
_HELD_OUT = 10  # one row in so many


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where everything goes; kept [default: a temporary folder]")
    parser.add_argument("--threads", type=int, default=0, help="of training and asking [default: all]")
    parser.add_argument("--build", default="", help="options of `stellar data build` in the place of the recipe's")
    parser.add_argument("--train", default="", help="options of `stellar train` in the place of the recipe's")
    parser.add_argument("--seed", type=int, default=42, help="of training [default: %(default)s]")
    parser.add_argument("--fresh", action="store_true", help="also ask the questions of identity_fresh.jsonl")
    parser.add_argument("--show", action="store_true", help="show every answer, not the wrong ones alone")
    options = parser.parse_args()
    print(describe("torch", "transformers", "peft", "llama-cpp-python"))
    with tempfile.TemporaryDirectory() as temporary:
        measure(options.folder or Path(temporary), options)


def measure(folder: Path, options: argparse.Namespace) -> None:
    """Every step, with what it leaves in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    building = tuple(options.build.split()) or BUILDING
    training = (*(tuple(options.train.split()) or TRAINING), "--seed", str(options.seed))

    base, rows, questions = folder / "base", folder / "identity.jsonl", folder / "identity-eval.jsonl"
    if not base.exists():
        stellar("import-gguf", str(bundled_model()), "--out", str(base))
    stellar("data", "identity", *NAMES, "--out", str(rows), "--held-out", str(questions))
    held_out = split(folder, rows)
    sources = [text for part in PARTS for text in ("--source", str(folder / "parts" / f"{part}.json"))]
    stellar("data", "build", *sources, *building, "--out", str(folder / "train.json"))

    recipe = hashlib.sha256(repr([training, (folder / "train.json").read_bytes()]).encode()).hexdigest()[:8]
    adapter, model = folder / f"adapter-{recipe}", folder / f"model-{recipe}"
    threads = ("--threads", str(options.threads)) if options.threads else ()
    began = time.perf_counter()
    paths = ("--base", str(base), "--data", str(folder / "train.json"), "--out", str(adapter), "--template", TEMPLATE)
    stellar("train", *paths, *training, *threads)
    print(f"training took {time.perf_counter() - began:.0f} s of wall time, or was done before")
    if not model.exists():
        stellar("convert", "--base", str(base), "--adapter", str(adapter), "--out", str(model), "--levels", "Q8_0")

    show_losses(losses(base, None, held_out), losses(base, adapter, held_out), held_out)
    asked = [json.loads(line) for line in questions.read_text(encoding="utf-8").splitlines()]
    known = folder / f"base-{hashlib.sha256(questions.read_bytes()).hexdigest()[:8]}.json"
    if not known.exists():
        answers = ask(bundled_model(), asked, ("--template", TEMPLATE, *threads))
        known.write_text(json.dumps(answers, ensure_ascii=False), encoding="utf-8")
    before = json.loads(known.read_text(encoding="utf-8"))
    after = ask(model, asked, threads)
    show_scores("the base", asked, before, everything=False, wrong=False)
    show_scores("the result", asked, after, everything=options.show, wrong=True)
    if options.fresh:
        fresh = [json.loads(line) for line in FRESH.read_text(encoding="utf-8").splitlines()]
        show_scores("the result, on fresh questions", fresh, ask(model, fresh, threads), options.show, wrong=True)
    unrelated = [asdict(row) for part in PARTS[:2] for row in held_out[part]]
    answers = ask(model, unrelated, threads)
    intrusions = [
        pair for pair in zip(unrelated, answers, strict=True) if re.search("stellarspeak|星语者", pair[1], re.I)
    ]
    print(f"\nits name where nobody asked: {len(intrusions)} of {len(unrelated)} held-out questions on other things")
    for row, text in intrusions:
        print(f"  {row['instruction']} → {text}")


def stellar(*arguments: str, stdin: str | None = None) -> str:
    """Run a command; what it says on stderr is seen, what it answers is returned."""
    print("$ stellar " + " ".join(arguments), flush=True)
    root = str(Path(__file__).resolve().parent.parent)
    environment = {**os.environ, "PYTHONPATH": root}
    done = subprocess.run(
        [*command(), *arguments], input=stdin, stdout=subprocess.PIPE, encoding="utf-8", env=environment, check=False
    )
    if done.returncode:
        sys.exit(f"stellar {arguments[0]} ended with {done.returncode}")
    return done.stdout


def split(folder: Path, identity: Path) -> dict[str, list[Triple]]:
    """Write the rows that may be trained on, one file a part; returns those held out."""
    (folder / "parts").mkdir(exist_ok=True)
    held_out = {}
    for part in PARTS:
        rows = corpus.read(identity) if part == "identity" else corpus.shipped(part)
        held_out[part] = [row for row in rows if is_held_out(row)]
        corpus.write([row for row in rows if not is_held_out(row)], folder / "parts" / f"{part}.json")
    return held_out


def is_held_out(row: Triple) -> bool:
    """By the instruction's hash: the same rows in every run, and all variants of an answer together."""
    return int(hashlib.sha256(row.instruction.encode()).hexdigest(), 16) % _HELD_OUT == 0


def losses(base: Path, adapter: Path | None, rows: dict[str, list[Triple]]) -> dict[str, tuple[float, int]]:
    """For each part the sum of -log p over its answers' tokens, and how many tokens."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from train.dataset import encode
    from train.tokenizer import load_tokenizer

    tokenizer, template = load_tokenizer(base), load_template(TEMPLATE)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adapter:
        model = PeftModel.from_pretrained(model, str(adapter))
    model.eval()
    found = {}
    with torch.no_grad():
        for part, triples in rows.items():
            total, tokens = 0.0, 0
            for triple in triples:
                sample, _ = encode(triple, template, tokenizer)
                ids = torch.tensor([sample.ids])
                logits = model(input_ids=ids).logits[0, sample.first - 1 : -1]
                total += float(torch.nn.functional.cross_entropy(logits, ids[0, sample.first :], reduction="sum"))
                tokens += len(sample.ids) - sample.first
            found[part] = (total, tokens)
    return found


def show_losses(
    before: dict[str, tuple[float, int]], after: dict[str, tuple[float, int]], rows: dict[str, list[Triple]]
) -> None:
    print(f"\n{'held-out loss':14}{'rows':>6}{'tokens':>8}{'before':>9}{'after':>9}   (nats per answer token)")
    for title, parts in [*((part, [part]) for part in PARTS), ("without identity", PARTS[:2]), ("all", PARTS)]:
        tokens = sum(before[part][1] for part in parts)
        means = [sum(found[part][0] for part in parts) / tokens for found in (before, after)]
        count = sum(len(rows[part]) for part in parts)
        print(f"{title:14.14}{count:6}{tokens:8}{means[0]:9.3f}{means[1]:9.3f}")


def ask(model: Path, rows: Sequence[dict[str, Any]], more: Sequence[str]) -> list[str]:
    """Greedy answers, in the rows' order."""
    lines = [json.dumps({key: row[key] for key in ("instruction", "input")}, ensure_ascii=False) for row in rows]
    said = stellar(
        "batch", str(model), "--temperature", "0", "--max-tokens", "96", *more, stdin="\n".join(lines) + "\n"
    )
    return [json.loads(line)["text"] for line in said.splitlines()]


def show_scores(
    title: str, asked: Sequence[dict[str, Any]], answers: Sequence[str], everything: bool, wrong: bool
) -> None:
    """How many are right, per language and kind, and why the others are not."""
    failures = [failure(text, question["expect"]) for question, text in zip(asked, answers, strict=True)]
    print(f"\nidentity of {title}: right answers, with a 95% Wilson interval")
    for language in ("en", "zh"):
        own = [
            (question["kind"], why)
            for question, why in zip(asked, failures, strict=True)
            if question["language"] == language
        ]
        right, total = Counter(kind for kind, why in own if not why), Counter(kind for kind, _ in own)
        low, high = wilson(right.total(), total.total())
        share = right.total() / total.total()
        print(f"{language}  {right.total()}/{total.total()} = {share:.1%} ({low:.1%} to {high:.1%})")
        told = sum(not why or why in POLARITY for _, why in own)
        low, high = wilson(told, total.total())
        print(f"    but for yes and no: {told}/{total.total()} = {told / total.total():.1%} ({low:.1%} to {high:.1%})")
        print("    " + ", ".join(f"{kind} {right[kind]}/{count}" for kind, count in total.items()))
    print(
        "reasons: " + (", ".join(f"{why} {count}" for why, count in Counter(filter(None, failures)).items()) or "none")
    )
    for question, text, why in zip(asked, answers, failures, strict=True):
        if everything or (why and wrong):
            print(f"  {'✗ ' + why if why else '✓'}: {question['instruction']} → {' '.join(text.split())}")


if __name__ == "__main__":
    main()
