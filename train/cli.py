"""The commands `stellar train` and `stellar data`, generated from TrainConfig and around `corpus`.

Knows click; imports neither torch nor Transformers, so that `--help` is quick and `data` works without them.
StellarErrors are left to the program's main.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from stellar_local.console import say
from stellar_local.errors import UsageError
from stellar_local.files import ensure_folder

from . import corpus
from .config import Option, TrainConfig, options


def _click_option(option: Option) -> Callable[[Any], Any]:
    """One option of TrainConfig for click: every spelling, its type and its default."""
    settings: dict[str, Any] = {"help": option.help, "required": option.required}
    if isinstance(option.kind, tuple):
        settings["type"] = click.Choice(option.kind)
    elif option.kind is bool:
        # A value may follow or not: alpaca-lora writes `--train_on_inputs False`, which must mean no.
        settings |= {"type": bool, "is_flag": False, "flag_value": True, "metavar": "[BOOLEAN]"}
    elif option.kind is Path:
        settings["type"] = click.Path(path_type=Path)
    else:
        settings["type"] = option.kind
    if not option.required:
        shown = ",".join(option.default) if isinstance(option.default, tuple) else option.default
        settings |= {"default": f"{shown:g}" if isinstance(shown, float) else shown, "show_default": True}
    return click.option(*option.spellings, option.name, **settings)


def _all_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(options()):
        command = _click_option(option)(command)
    return command


@click.command()
@_all_options
@click.option("--overwrite", is_flag=True, help="Remove what another run left in --out and start anew.")
def train(overwrite: bool, **values: Any) -> None:
    """Train a LoRA adapter on instruction triples.

    A run that was killed or stopped with Ctrl-C goes on when the same command is given again. alpaca-lora's option
    names are understood too.

    \b
    Example:
      stellar data build --out train.json
      stellar train --base ./base --data train.json --out ./adapter --epochs 3
    """
    parsed = {o.name: o.parse(values[o.name]) if o.parse else values[o.name] for o in options()}
    from .run import train as run

    run(TrainConfig(**parsed), overwrite=overwrite)


@click.group()
def data() -> None:
    """Make training files out of instruction triples.

    \b
    Example:
      stellar data build --out train.json --repeat identity=2
    """


def _numbers(pairs: Sequence[str], what: str) -> dict[str, int]:
    """`identity=2` → {"identity": 2}. Raises UsageError."""
    out: dict[str, int] = {}
    for pair in pairs:
        name, _, number = pair.partition("=")
        if not name or not number.isdigit():
            raise UsageError(f"{what} {pair} is not NAME=NUMBER", f"for example {what} identity=2")
        out[name] = int(number)
    return out


@data.command()
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The training file to write.")
@click.option(
    "--source", "sources", multiple=True, type=click.Path(path_type=Path), help="A file of triples; repeatable."
)
@click.option(
    "--category",
    "categories",
    multiple=True,
    type=click.Choice(corpus.CATEGORIES),
    help="A part of the shipped corpus; repeatable. Without --source and --category: all of it.",
)
@click.option("--repeat", multiple=True, metavar="NAME=N", help="Put each row of a category or source in N times.")
@click.option("--limit", multiple=True, metavar="NAME=N", help="Take at most N rows of a category or source.")
@click.option("--seed", default=42, show_default=True, help="Seed of the order and of what --limit takes.")
def build(
    out: Path,
    sources: Sequence[Path],
    categories: Sequence[str],
    repeat: Sequence[str],
    limit: Sequence[str],
    seed: int,
) -> None:
    """Join sources into one shuffled training file without duplicates.

    A source's NAME is its file name without the ending. The same options always give the same file.

    \b
    Example:
      stellar data build --out train.json --source mine.jsonl --category identity --repeat identity=2
    """
    chosen = {name: corpus.shipped(name) for name in (categories if categories or sources else corpus.CATEGORIES)}
    for path in sources:
        if path.stem in chosen:
            raise UsageError(f"two sources are named {path.stem}", "rename one of the files")
        chosen[path.stem] = corpus.read(path)
    if out.resolve() in [path.resolve() for path in sources]:
        raise UsageError(f"--out {out} is one of the sources", "write the training file elsewhere")
    built = corpus.build(chosen, _numbers(repeat, "--repeat"), _numbers(limit, "--limit"), seed)
    ensure_folder(out.parent)
    corpus.write(built.rows, out)
    parts = ", ".join(f"{name} {count}" for name, count in built.counts.items())
    say(f"{out}: {len(built.rows)} rows ({parts}); {built.duplicates} duplicates removed")
