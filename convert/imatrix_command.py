"""The command `stellar imatrix`: options to an order, what was made to lines. Knows no format and no model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from stellar_local.config import RuntimeOptions
from stellar_local.flags import model_argument, options_of, verbose_option

_FILE = click.Path(path_type=Path)


@click.command()
@model_argument
@click.option(
    "--data",
    type=_FILE,
    multiple=True,
    required=True,
    metavar="FILE",
    help="Text to measure on, or training data (.json, .jsonl), shown to the model as in training. May be repeated.",
)
@click.option("--out", type=_FILE, required=True, metavar="FILE", help="The importance matrix to write, a GGUF.")
@click.option(
    "--ctx",
    "size",
    type=click.IntRange(32, 1 << 20),
    default=512,
    show_default=True,
    metavar="N",
    help="Tokens a chunk; each is read from its own beginning.",
)
@click.option("--chunks", "most", type=click.IntRange(min=1), metavar="N", help="Read N chunks at most. [default: all]")
@click.option("--process-output", "output", is_flag=True, help="Measure the last matrix too, as llama-imatrix can.")
@click.option("--no-perplexity", is_flag=True, help="Leave out the perplexity of the text, which takes a little time.")
@click.option("--json", "as_json", is_flag=True, help="Print a summary as JSON on stdout.")
@options_of(RuntimeOptions, without=("ctx", "kv", "lora"))
@verbose_option
def imatrix(
    model: Path,
    data: tuple[Path, ...],
    out: Path,
    size: int,
    most: int | None,
    output: bool,
    no_perplexity: bool,
    as_json: bool,
    verbose: bool,
    **flags: Any,
) -> None:
    """Measure which columns of MODEL's matrices matter: an importance matrix, as llama-imatrix makes them.

    MODEL is a .gguf file or a folder made by stellar convert, best at F16 or Q8_0. The lowest levels of stellar convert
    need the matrix (--imatrix), the others lose less with it. Give text in every language that the model is to speak,
    and none that it will be judged on. Stopped, the same command goes on where it was.

    \b
    Example: stellar imatrix stellarspeak-13b --level Q8_0 --data zh.jsonl --data en.jsonl --out stellarspeak.imatrix
             stellar convert --base bayling-13b --adapter stellarspeak-lora --imatrix stellarspeak.imatrix \\
                 --out stellarspeak-13b --levels IQ3_XXS,Q2_K
    """
    from dataclasses import replace

    from stellar_local.config import read_config, resolve
    from stellar_local.console import say

    from .imatrix_run import Order, make

    options = replace(resolve(RuntimeOptions, flags, read_config()), ctx=None, kv=None, lora=())
    made = make(Order(model, data, out, size, most, output, not no_perplexity, verbose), options)
    say(f"{made.path}: {made.entries} matrices, from {made.chunks} chunks of {made.size} tokens")
    if made.perplexity:
        say(f"perplexity of the text: {made.perplexity[0]:.4f} ± {made.perplexity[1]:.4f}")
    if as_json:
        figures = {"perplexity": made.perplexity[0], "error": made.perplexity[1]} if made.perplexity else {}
        summary = {"file": str(made.path), "entries": made.entries, "chunks": made.chunks, "ctx": made.size, **figures}
        click.echo(json.dumps(summary, ensure_ascii=False))
