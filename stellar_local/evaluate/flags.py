"""The options that all evaluations share, defined once, and what a command line of them asks for."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from ..config import RuntimeOptions, SamplingOptions, resolve
from ..errors import UsageError
from ..flags import MOST_PARALLEL, options_of, verbose_option
from .measuring import Measurement

Function = TypeVar("Function", bound=Callable[..., Any])

_FILE = click.Path(path_type=Path)
DEFAULTS = {"temperature": 0.0}  # where a command says nothing else: answers that can be had again
# What an evaluation decides itself, or cannot use.
_NOT_SAMPLED = ("logprobs",)
_OWN = ("out", "labels", "all_levels", "limit", "parallel", "deterministic", "as_json", "verbose", "models")

out_option = click.option(
    "--out",
    type=_FILE,
    default=Path("evaluation"),
    show_default=True,
    metavar="DIR",
    help="Where logs and summaries go; run again, it goes on with what is there.",
)
limit_option = click.option(
    "--limit", type=click.IntRange(1), metavar="N", help="Measure the first N items only; more later go on from there."
)
parallel_option = click.option(
    "--parallel",
    type=click.IntRange(1, MOST_PARALLEL),
    metavar="N",
    help=f"Items at once, 1 to {MOST_PARALLEL} [default: 16, or what fits; up to {MOST_PARALLEL} on a graphics card].",
)
deterministic_option = click.option(
    "--deterministic",
    is_flag=True,
    help="Figures that do not depend on which items run together: one at a time, slower. Else rounding changes some "
    "answers when a run is done otherwise or gone on with.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="The figures as JSON on stdout.")


def evaluation_options(sampling: bool = True) -> Callable[[Function], Function]:
    """A decorator: MODEL…, and every option of measuring and of running a model; with those of `sampling`."""
    options = [
        click.argument("models", nargs=-1, required=True, type=_FILE, metavar="MODEL…"),
        out_option,
        click.option(
            "--label", "labels", multiple=True, metavar="NAME", help="What tables call a model; one for each, in order."
        ),
        click.option("--all-levels", is_flag=True, help="Measure every level of a converted folder."),
        limit_option,
        parallel_option,
        deterministic_option,
        json_option,
        options_of(RuntimeOptions),
        *([options_of(SamplingOptions, without=_NOT_SAMPLED, defaults=DEFAULTS)] if sampling else []),
        verbose_option,
    ]

    def decorate(function: Function) -> Function:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def measurement(given: Mapping[str, Any]) -> Measurement:
    """How to measure, by the shared options that a command was given. Raises UsageError for those that contradict."""
    if given["deterministic"] and (given["parallel"] or 1) > 1:
        raise UsageError("--deterministic runs one item at a time", "leave --parallel out")
    if given["all_levels"] and given.get("level"):
        raise UsageError("--level and --all-levels contradict", "leave one out")
    return Measurement(
        models=given["models"],
        out=given["out"],
        flags={name: value for name, value in given.items() if name not in _OWN},
        labels=given["labels"],
        all_levels=given["all_levels"],
        limit=given["limit"],
        parallel=given["parallel"],
        deterministic=given["deterministic"],
        verbose=given["verbose"],
        json=given["as_json"],
        command=command_line(),
    )


def command_line() -> str:
    """The command as it was called, for whoever wants to measure again."""
    return " ".join(["stellar", *map(shlex.quote, sys.argv[1:])])


def sampling_of(given: Mapping[str, Any], **defaults: Any) -> SamplingOptions:
    """The sampling options of the command line over an evaluation's own defaults, temperature 0 among them.

    Neither the user's configuration nor the environment changes them: an evaluation is to be repeatable.
    """
    return resolve(SamplingOptions, given, {}, environ={}, model={**DEFAULTS, **defaults})
