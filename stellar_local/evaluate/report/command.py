"""`stellar eval report`: its options, and the two files that it writes."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from ...console import say
from ...files import atomic_text
from ...texts import LANGUAGES, Texts, language_of

_ENDINGS = (".html", ".htm", ".md")


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write FILE.html and FILE.md [default: report, in DIR].",
)
@click.option("--title", metavar="TEXT", help="The page's title [default: by the models' names].")
@click.option(
    "--base", metavar="LABEL", help="The model that the others are compared with [default: one that is called base]."
)
@click.option("--language", type=click.Choice(LANGUAGES), help="Language of the report [default: by the locale].")
def report(folder: Path, out: Path | None, title: str | None, base: str | None, language: str | None) -> None:
    """Make one page of all measurements in DIR, the --out of the other commands of `stellar eval`.

    It shows the models side by side, task by task: figures with their intervals, plots, answers to the same questions,
    and the commands and hashes that are needed to make it again. As HTML, one file that needs no network and runs no
    scripts, and as Markdown. The paths of both go to stdout. What is missing or must not be compared is named there.

    \b
    Example: stellar eval report evaluation
             stellar eval report evaluation --language zh --out report-zh --title 星语者评测
    """
    from .collected import collect
    from .document import build
    from .markdown import markdown
    from .page import page

    texts = Texts(language or language_of())
    stem = out or folder / "report"
    stem = stem.with_suffix("") if stem.suffix.lower() in _ENDINGS else stem
    options = (("--out", out), ("--title", title), ("--base", base), ("--language", texts.language))
    given = [part for option, value in options if value is not None for part in (option, str(value))]
    built = build(collect(folder), texts, shlex.join(["stellar", "eval", "report", str(folder), *given]), title, base)
    for ending, text in ((".html", page(built, texts)), (".md", markdown(built, texts))):
        path = stem.with_name(stem.name + ending)
        atomic_text(path, text)
        click.echo(path)
    if any(section.id == "warnings" for section in built.sections):
        say(texts("report.see_warnings"))
