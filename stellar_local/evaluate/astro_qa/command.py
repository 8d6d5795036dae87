"""The command `stellar eval astro-qa`: options to a task. Knows click."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ...console import one_line, warn
from ...errors import UsageError
from ...flags import system_option
from ..flags import evaluation_options, measurement, sampling_of
from ..measuring import measure
from .questions import KINDS, LANGUAGES, load
from .task import GENERATION, LIKELIHOOD, AstroQA

_MOST_SAMPLES = 5
_SEVERAL = 0.7  # the temperature of several samples


@click.command("astro-qa")
@click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The folder of Astro-QA's spreadsheets, or one of them; question sheets are known by their columns.",
)
@click.option(
    "--types",
    default=",".join(KINDS),
    metavar="TYPE,…",
    help=f"Types of questions [default: all: {', '.join(KINDS)}].",
)
@click.option(
    "--language", type=click.Choice([*LANGUAGES, "both"]), default="both", show_default=True, help="Sheets of which."
)
@click.option(
    "--samples",
    type=click.IntRange(1, _MOST_SAMPLES),
    default=1,
    show_default=True,
    help=f"Answers to each question; one is greedy, several are drawn at temperature {_SEVERAL} by default.",
)
@click.option(
    "--mode",
    type=click.Choice(["both", GENERATION, LIKELIHOOD]),
    default="both",
    show_default=True,
    help="Answers that the model writes, or how likely it holds each option.",
)
@click.option("--official", is_flag=True, help="Also score as the published script does, its faults included.")
@system_option
@evaluation_options()
def astro_qa(
    data: Path,
    types: str,
    language: str,
    samples: int,
    mode: str,
    official: bool,
    system: str | None,
    **given: Any,
) -> None:
    """Put Astro-QA's questions to MODEL…: seven types, in Chinese and English.

    Single choices and judgments are measured twice: by what the model writes, out of which the answer is found however
    it is put, and by which option it holds likeliest. The two measure different things and cannot be compared. Multiple
    choices, matching questions and free text (chrF, BLEU) are written only. What cannot be asked is named and left out;
    the published matching sheets have no answers, so add a column Answer to score them.

    \b
    Example: stellar eval astro-qa --data Astro-QA/data demo/model
             stellar eval astro-qa --data Astro-QA/data --language zh --samples 5 --official base.gguf tuned.gguf
             stellar eval astro-qa --data Astro-QA/data --types single-4,judgment --mode likelihood demo/model
    """
    chosen = [name.strip() for name in types.split(",") if name.strip()]
    if unknown := [name for name in chosen if name not in KINDS]:
        raise UsageError(f"--types has no {unknown[0]}", f"choose among {', '.join(KINDS)}")
    sampling = sampling_of(given, **({"temperature": _SEVERAL} if samples > 1 else {}))
    if samples > 1 and sampling.temperature == 0:
        raise UsageError("several samples at temperature 0 are all the same", "give a --temperature, or one sample")
    loaded = load(data, chosen, LANGUAGES if language == "both" else (language,))
    for line in loaded.told():
        warn(one_line(line))
    modes = (GENERATION, LIKELIHOOD) if mode == "both" else (mode,)
    code = measure(AstroQA(loaded, sampling, samples, modes, system, official), measurement(given)).code
    if code:
        raise SystemExit(code)
