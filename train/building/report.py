"""What a build did: the files train.json, val.json and build.json, and the lines that people read.

Knows the record's keys; the record holds no time and no absolute path, so that it is the same on every run.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import stellar_local
from stellar_local.console import say, warn
from stellar_local.errors import UsageError
from stellar_local.files import atomic_text, explain, real, sha256

from .. import corpus
from ..likeness.evaluation import files_of
from .pipeline import Built, summed_up
from .rows import Row
from .sifting import EVALUATION, SAME_QUESTION

_SHOWN = 3  # examples on stderr, of each reason that a person should look into


class Outputs:
    """Where the three files go: into a folder, or beside a training file that is named, with its name before theirs
    unless that is train.json.
    """

    def __init__(self, out: Path) -> None:
        if out.suffix == ".json" and not out.is_dir():
            beside = "" if out.name == "train.json" else f"{out.stem}-"
            self.folder, self.train = out.parent, out
        elif out.suffix in (".jsonl", ".csv", ".txt", ".toml"):
            raise UsageError(f"--out {out} is neither a folder nor a .json file", "the training file is a JSON list")
        else:
            beside, self.folder, self.train = "", out, out / "train.json"
        self.validation = self.folder / f"{beside}val.json"
        self.record = self.folder / f"{beside}build.json"

    def check(self, inputs: Sequence[Path]) -> None:
        """Raises UsageError if one of the inputs would be written over."""
        for path in (self.train, self.validation, self.record):
            if real(path) in [real(one) for one in inputs]:
                raise UsageError(f"{path} would be written over: the recipe reads it", "choose another --out")


def write(built: Built, recipe: Path, outputs: Outputs) -> None:
    """Write the files, each whole or not at all, the record last: where its hashes agree, all is of one build.

    Raises UsageError where validation is empty but an older validation file is there: it would be taken for this one's.
    """
    if not built.validation and outputs.validation.exists():
        raise UsageError(f"{outputs.validation} is of an earlier build; this one has no validation", "remove it first")
    if built.validation:
        corpus.write([row.triple for row in built.validation], outputs.validation)
    corpus.write([row.triple for row in built.train], outputs.train)
    text = json.dumps(record(built, recipe, outputs), ensure_ascii=False, indent=2) + "\n"
    # Names of files may be no UTF-8.
    atomic_text(outputs.record, text.encode("utf-8", "replace").decode("utf-8"))


def record(built: Built, recipe: Path, outputs: Outputs) -> dict[str, Any]:
    """All that is known of a build, for build.json."""
    plan = built.recipe
    shares = dict(plan.shares)
    train, validation = _by(built.train, "source"), _by(built.validation, "source")
    categories, held_out = _by(built.train, "category"), _by(built.validation, "category")
    return {
        "stellar_local": stellar_local.__version__,
        "recipe": {"file": recipe.name, "sha256": _hash(recipe)},
        "seed": plan.seed,
        "train": _file(outputs.train, built.train),
        "validation": _file(outputs.validation, built.validation) if built.validation else None,
        "split": {"salt": plan.split, "share": plan.share, "rows": plan.rows, "cut": built.cut},
        "duplicates": {"near": plan.near, "same_question": plan.same_question},
        "decontaminate": {
            "ngram": plan.ngram,
            "texts": built.texts,
            "files": [
                {"file": name, "sha256": _hash(path)} for given in plan.evaluations for name, path in files_of(*given)
            ],
        },
        "categories": {
            name: {
                "train": count,
                "share": round(count / len(built.train), 6),
                "wanted": shares.get(name),
                "validation": held_out[name],
            }
            for name, count in categories.items()
        },
        "sources": [
            {
                "name": source.name,
                "given": source.given,
                "category": source.category,
                "files": [{"file": path.name, "sha256": _hash(path)} for path in source.files],
                "read": built.read[source.name],
                "removed": built.removals.of(source.name),
                "validation": validation[source.name],
                "distinct": built.distinct[source.name],
                "train": train[source.name],
                "languages": dict(_by([row for row in built.train if row.source is source], "language")),
            }
            for source in plan.sources
        ],
        "removed": {
            reason: {"rows": count, "examples": built.removals.examples[reason]}
            for reason, count in built.removals.totals().items()
        },
        "warnings": built.warnings,
    }


def tell(built: Built, outputs: Outputs) -> None:
    """Say on stderr what was written and what was left out."""
    rows = f"{len(built.train):,} rows"
    say(f"{outputs.train}: {rows} ({_listed(built.train, 'category')}; {_listed(built.train, 'language')})")
    if built.validation:
        inside = f"{_listed(built.validation, 'category')}; {_listed(built.validation, 'language')}"
        say(f"{outputs.validation}: {len(built.validation):,} rows ({inside})")
    say(f"removed: {summed_up(built.removals)}")
    for reason in (EVALUATION, SAME_QUESTION):
        for one in built.removals.examples.get(reason, [])[:_SHOWN]:
            say(f"  {one['source']} ({one['file']}, line {one['line']}): {reason}, {one['because']}")
    if built.recipe.rows:
        say(f"note: with rows = {built.recipe.rows}, new sources can move a question to training;")
        say(f"  share = {built.cut:.6f} holds out the same ones and never moves any")
    for text in built.warnings:
        warn(text)


def _by(rows: Sequence[Row], what: str) -> Counter[str]:
    """Rows counted by source, category or language, in a fixed order."""
    found = {
        "source": lambda row: row.source.name,
        "category": lambda row: row.source.category,
        "language": lambda row: row.language,
    }
    return Counter(sorted(map(found[what], rows)))


def _listed(rows: Sequence[Row], what: str) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in _by(rows, what).items())


def _file(path: Path, rows: Sequence[Row]) -> dict[str, Any]:
    return {
        "file": path.name,
        "sha256": _hash(path),
        "rows": len(rows),
        "languages": dict(_by(rows, "language")),
    }


def _hash(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise explain(error, path, "read") from error
