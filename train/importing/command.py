"""The command `stellar data import`: options to one call, its report to stdout. Knows click, and no format."""

from __future__ import annotations

import json
from pathlib import Path

import click

from .choices import FORMATS, LANGUAGES, Choices, Names
from .phrasings import MOST

_FILE = click.Path(path_type=Path)


@click.command("import")
@click.argument("files", nargs=-1, required=True, type=_FILE, metavar="FILE…")
@click.option("--out", required=True, type=_FILE, metavar="FILE", help="The triples: JSON lines, or a list (.json).")
@click.option(
    "--format",
    "format",
    type=click.Choice(FORMATS),
    default="auto",
    show_default=True,
    help="What the files are; auto goes by each row's keys and each table's columns.",
)
@click.option(
    "--phrasings",
    type=click.IntRange(1, MOST),
    default=1,
    show_default=True,
    help="Astro-QA: put each question in so many ways; a split into training and validation keeps them together.",
)
@click.option("--seed", default=42, show_default=True, help="Astro-QA: seed of the choice among phrasings.")
@click.option(
    "--language",
    type=click.Choice(LANGUAGES),
    default="auto",
    show_default=True,
    help="Astro-QA: the language to put questions in; auto takes each sheet's own.",
)
@click.option(
    "--turns",
    type=click.Choice(["first", "all"]),
    default="first",
    show_default=True,
    help="Conversations: the first exchange alone, or also each later one whose question stands alone.",
)
@click.option(
    "--system",
    type=click.Choice(["drop", "prepend"]),
    default="drop",
    show_default=True,
    help="Conversations: leave a system message out, or put it before the instruction.",
)
@click.option("--instruction-column", default="", metavar="NAME", help="Tables and JSON: where the instruction is.")
@click.option("--input-column", default="", metavar="NAME", help="Tables and JSON: where the input is.")
@click.option("--output-column", default="", metavar="NAME", help="Tables and JSON: where the answer is.")
@click.option("--strict", is_flag=True, help="Write nothing and fail if a row has to be left out.")
@click.option("--json", "as_json", is_flag=True, help="Print what became of each file as JSON on stdout.")
def import_data(
    files: tuple[Path, ...],
    out: Path,
    format: str,
    phrasings: int,
    seed: int,
    language: str,
    turns: str,
    system: str,
    instruction_column: str,
    input_column: str,
    output_column: str,
    strict: bool,
    as_json: bool,
) -> None:
    """Turn Alpaca, ShareGPT, CSV and Astro-QA files into instruction triples.

    Reads .json, .jsonl, .csv, .tsv and .xlsx; a folder stands for all such files below it. Triples have no history:
    a conversation gives its first exchange unless --turns says otherwise. Question sheets are known by their columns.
    A row without an answer, or with one that cannot be told, is left out, counted and named.

    \b
    Example:
      stellar data import Astro-QA/data --out astro-qa.jsonl --phrasings 3
      stellar data import alpaca_data.json chats.jsonl --out general.jsonl
      stellar data import faq.csv --out faq.jsonl --instruction-column 标题 --output-column 正文
    """
    from stellar_local.console import say

    from .job import run
    from .report import NothingImported

    names = Names(instruction_column, input_column, output_column)
    choices = Choices(
        format, language, names, phrasings, seed, all_turns=turns == "all", keep_system=system == "prepend"
    )
    try:
        report = run(files, out, choices, strict)
    except NothingImported as error:
        if as_json:
            click.echo(json.dumps(error.report.as_json(), ensure_ascii=False, indent=2))
        raise
    left_out = f"; {report.left_out} rows left out" if report.left_out else ""
    say(f"{out}: {report.triples} triples{left_out}")
    if as_json:
        click.echo(json.dumps(report.as_json(), ensure_ascii=False, indent=2))
