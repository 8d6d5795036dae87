"""`stellar doctor`: its options and exit code."""

from __future__ import annotations

import signal
from pathlib import Path

import click

from ..errors import ExitCode
from ..interrupts import caught
from ..texts import LANGUAGES, Texts, language_of


@click.command()
@click.argument("model", type=click.Path(path_type=Path), required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, in English, with stable ids.")
@click.option("--full", is_flag=True, help="Compute the SHA-256 of a model larger than 1 GiB as well.")
@click.option(
    "--timeout",
    "seconds",
    type=click.FloatRange(min=5, max=86_400),
    default=300,
    show_default=True,
    metavar="SECONDS",
    help="Longest time for the 64 tokens that are generated.",
)
@click.option(
    "--ui-lang", "language", type=click.Choice(LANGUAGES), help="Language of the report [default: by the locale]."
)
def doctor(model: Path | None, as_json: bool, full: bool, seconds: float, language: str | None) -> None:
    """Say whether this installation works and uses the GPU, and if not, the command that mends it.

    Looks at Python, llama.cpp, the GPU, its driver, the processor, memory and disks, and at MODEL, a .gguf file or a
    folder made by `stellar convert` [default: the demo's model, if it is installed]: its file, its template, and 64
    tokens generated with it. Exits with 0 if nothing failed, warnings or not, else with 1.

    \b
    Example: stellar doctor
             stellar doctor demo/model
             stellar doctor --json
    """
    from .examination import Examination, Order, examine
    from .report import Report, healthy
    from .report import as_json as told

    examination = Examination(Order(model, full, seconds))
    with caught(_end):
        if as_json:
            findings = list(examine(examination))
            click.echo(told(findings))
        else:
            report = Report(Texts(language or language_of()))
            report.labelled(id for id, _ in examination.checks())
            findings = []
            for finding in examine(examination, report.begin):
                findings.append(finding)
                report.show(finding)
            report.end(findings)
    if not healthy(findings):
        raise click.exceptions.Exit(ExitCode.FAILED)


def _end(number: int) -> None:
    """Ctrl-C and SIGTERM end us in order, so that no child process is left behind."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(ExitCode.TERMINATED)
