"""The command `stellar data build`: a recipe, or sources named on the command line, to a training file.

Knows click; what the options mean is the recipe's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from stellar_local.console import say
from stellar_local.errors import UsageError
from stellar_local.files import ensure_folder, exclusive, real

from .. import corpus

_DIGITS = 18  # of a number on the command line: more are no number of rows


@click.command()
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="The training file to write; with --recipe also a folder for train.json, val.json and build.json.",
)
@click.option(
    "--recipe", metavar="FILE|NAME", help="A recipe: a TOML file, or the name of a shipped one (stellarspeak)."
)
@click.option(
    "--source", "sources", multiple=True, type=click.Path(path_type=Path), help="A file of triples; repeatable."
)
@click.option(
    "--category",
    "categories",
    multiple=True,
    type=click.Choice(corpus.CATEGORIES),
    help="A part of the shipped corpus; repeatable. Without --source, --category and --recipe: all of it.",
)
@click.option("--repeat", multiple=True, metavar="NAME=N", help="Put each row of a category or source in N times.")
@click.option("--limit", multiple=True, metavar="NAME=N", help="Take at most N rows of a category or source.")
@click.option(
    "--seed", type=int, help="Seed of the order and of what is drawn. [default: the recipe's, 42 if it has none]"
)
def build(
    out: Path,
    recipe: str | None,
    sources: Sequence[Path],
    categories: Sequence[str],
    repeat: Sequence[str],
    limit: Sequence[str],
    seed: int | None,
) -> None:
    """Join sources into one shuffled training file without duplicates.

    A recipe also balances categories, removes near duplicates and whatever stands in an evaluation set, and holds
    questions out for validation; the shipped one is a pattern for your own. A source's NAME is its file name without
    the ending. The same options always give the same files.

    \b
    Example:
      stellar data build --out train.json --source mine.jsonl --category identity --repeat identity=2
      stellar data build --recipe stellarspeak --out data
    """
    if recipe is not None:
        if sources or categories or repeat or limit:
            raise UsageError(
                "--recipe names the sources itself", "leave --source, --category, --repeat and --limit out"
            )
        _by_recipe(recipe, out, seed)
        return
    _by_options(out, sources, categories, _numbers(repeat, "--repeat"), _numbers(limit, "--limit"), seed)


def _by_recipe(name: str, out: Path, seed: int | None) -> None:
    from dataclasses import replace

    from ..likeness.evaluation import files_of
    from .pipeline import build as run
    from .recipe import find_recipe, load_recipe
    from .report import Outputs, tell, write

    path = find_recipe(name)
    recipe = load_recipe(path)
    if seed is not None:
        recipe = replace(recipe, seed=seed)
    outputs = Outputs(out)
    evaluations = [file for given in recipe.evaluations for _, file in files_of(*given)]
    outputs.check([path, *evaluations, *(file for source in recipe.sources for file in source.files)])
    ensure_folder(outputs.folder)  # before long work
    # The files are of one build: two at once would leave training rows of one and held-out rows of the other.
    with exclusive(outputs.folder / f".{outputs.train.name}.lock", outputs.train):
        built = run(recipe)
        write(built, path, outputs)
    tell(built, outputs)


def _by_options(
    out: Path,
    paths: Sequence[Path],
    categories: Sequence[str],
    repeat: dict[str, int],
    limit: dict[str, int],
    seed: int | None,
) -> None:
    """The recipe that the options amount to: everything is kept but what is the same to the letter."""
    from .pipeline import build as run
    from .recipe import MOST_WEIGHT, Recipe, Source
    from .rows import DUPLICATE

    names = list(categories if categories or paths else corpus.CATEGORIES)
    files = {name: tuple(corpus.shipped_files(name)) for name in names}
    for path in paths:
        if path.stem in files:
            raise UsageError(f"two sources are named {path.stem}", "rename one of the files")
        files[path.stem] = (path,)
    if real(out) in [real(path) for path in paths]:
        raise UsageError(f"--out {out} is one of the sources", "write the training file elsewhere")
    if out.is_dir():
        raise UsageError(f"--out {out} is a folder", "without --recipe, name the training file")
    for what, numbers in (("--repeat", repeat), ("--limit", limit)):
        for name, number in numbers.items():
            if name not in files:
                raise UsageError(f"{what} names {name}, which is no part of this corpus", f"it has {', '.join(files)}")
            if number < 1:
                raise UsageError(f"{what} {name}={number}: the number must be at least 1")
            if what == "--repeat" and number > MOST_WEIGHT:
                raise UsageError(f"{what} {name}={number}: the number must be at most {MOST_WEIGHT}")
    chosen = tuple(
        Source(name, own, name, weight=repeat.get(name, 1), limit=limit.get(name), keep_similar=True)
        for name, own in files.items()
    )
    built = run(Recipe(chosen, 42 if seed is None else seed, same_question="all"))
    ensure_folder(out.parent)
    corpus.write([row.triple for row in built.train], out)
    counts = dict.fromkeys(files, 0)
    for row in built.train:
        counts[row.source.name] += 1
    parts = ", ".join(f"{name} {count}" for name, count in counts.items())
    duplicates = built.removals.totals().get(DUPLICATE, 0)
    say(f"{out}: {len(built.train)} rows ({parts}); {duplicates} duplicates removed")


def _numbers(pairs: Sequence[str], what: str) -> dict[str, int]:
    """`identity=2` → {"identity": 2}. Raises UsageError."""
    out: dict[str, int] = {}
    for pair in pairs:
        name, _, number = pair.partition("=")
        if not name or not number.isdecimal() or len(number) > _DIGITS:
            raise UsageError(f"{what} {pair[:80]} is not NAME=NUMBER", f"for example {what} identity=2")
        out[name] = int(number)
    return out
