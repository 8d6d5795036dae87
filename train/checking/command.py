"""The command `stellar data check`: options to one pass, its findings to stdout and to the exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from stellar_local.console import is_dumb, say
from stellar_local.errors import ExitCode, UsageError
from stellar_local.files import ensure_folder, real, regular_target, require_file

from ..config import TrainConfig

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("files", nargs=-1, required=True, type=_PATH, metavar="FILE…")
@click.option("--base", type=_PATH, metavar="DIR", help="The base model: its tokenizer counts; without it, characters.")
@click.option(
    "--template", default=TrainConfig.template, show_default=True, help="Prompt template: a name or a .json file."
)
@click.option(
    "--cutoff-len",
    default=TrainConfig.cutoff_len,
    show_default=True,
    type=click.IntRange(min=2),
    help="Longest sample in tokens, as it will be given to `stellar train`.",
)
@click.option(
    "--against",
    multiple=True,
    type=_PATH,
    metavar="EVAL",
    help="An evaluation set whose questions must not be trained on: JSON, JSONL, TXT, CSV, TSV, XLSX or a folder of "
    "these; repeatable.",
)
@click.option(
    "--histogram", type=_PATH, metavar="PNG", help="Draw the samples' lengths, with the cutoff, to this file."
)
@click.option(
    "--show", default=0, type=click.IntRange(min=0), metavar="N", help="Print N samples, what is learned marked."
)
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON document.")
@click.option("--strict", is_flag=True, help="Exit with 1 for warnings too, not for broken rows alone.")
def check(
    files: Sequence[Path],
    base: Path | None,
    template: str,
    cutoff_len: int,
    against: Sequence[Path],
    histogram: Path | None,
    show: int,
    as_json: bool,
    strict: bool,
) -> None:
    """Say what is wrong with training files before a GPU is touched.

    Counts, lengths in tokens and what exceeds the cutoff, by file and language; broken rows, duplicates, leaks and
    what looks suspicious, by file and line. Duplicates and leaks are what `stellar data build` takes out by a recipe
    that says nothing else. Exits with 1 where rows are broken.

    \b
    Example:
      stellar data check train.json --base ./base --against astro-qa/ --histogram lengths.png
      stellar data check mine.jsonl --show 3
    """
    from stellar_local.prompts import load_template

    from ..likeness.evaluation import files_of, texts_of
    from ..likeness.overlap import Evaluation
    from ..tokenizer import load_tokenizer
    from . import histogram as picture
    from . import report
    from .findings import BROKEN, WARNING
    from .lengths import Ruler
    from .preview import preview
    from .survey import survey

    seen: set[Path] = set()
    for path in files:
        require_file(path, "training file")
        if real(path) in seen:
            raise UsageError(f"{path} is given twice", "give each file once")
        seen.add(real(path))
    named = [file for path in against for file in files_of(str(path), path)]
    evaluation = [path for _, path in named]
    for path in evaluation:
        if real(path) in seen:
            raise UsageError(f"{path} is given as a training file and with --against", "give it as one of them")
    if histogram is not None:
        if real(histogram) in seen | {real(path) for path in evaluation}:
            raise UsageError(f"--histogram {histogram} is one of the files to read", "write the picture elsewhere")
        picture.require_matplotlib()
        ensure_folder(regular_target(histogram).parent)  # before long work
    ruler = Ruler(load_template(template), load_tokenizer(base) if base is not None else None, cutoff_len)
    known = Evaluation(text for name, path in named for text in texts_of(name, path)) if against else None
    found = survey(files, ruler, known, show)
    if histogram is not None:
        lengths = [(s.path.name, [n for part in s.languages.values() for n in part.totals()]) for s in found.sources]
        picture.draw(histogram, lengths, ruler.unit, cutoff_len if base is not None else None)
        say(f"histogram: {histogram}")
    if as_json:
        click.echo(report.as_json(found, base, evaluation))
    else:
        click.echo(report.as_text(found, base))
        if found.samples:
            styled = sys.stdout.isatty() and not is_dumb() and "NO_COLOR" not in os.environ
            click.echo("\n" + preview(found.samples, ruler, styled))
    if found.findings.count(BROKEN) or (strict and found.findings.count(WARNING)):
        raise SystemExit(int(ExitCode.FAILED))
