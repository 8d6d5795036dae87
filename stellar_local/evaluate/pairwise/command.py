"""The command `stellar eval compare`: its options. Knows click; what they ask for is done by the comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ...config import RuntimeOptions, SamplingOptions
from ...flags import options_of, system_option, verbose_option
from ..flags import json_option, limit_option, out_option, parallel_option
from .verdicts import SCORINGS

_FILE = click.Path(path_type=Path)


@click.command()
@click.argument("a", type=_FILE, metavar="A")
@click.argument("b", type=_FILE, metavar="B")
@click.option(
    "--questions",
    multiple=True,
    required=True,
    type=_FILE,
    metavar="FILE",
    help="JSON lines with turns, text, prompt, question or instruction (may be repeated).",
)
@click.option(
    "--judge",
    metavar="human|openai|MODEL",
    help="You, in this terminal; a model behind --endpoint; or a model on this machine [default: human in a terminal].",
)
@click.option("--judge-name", metavar="NAME", help="What the judge is called; each of several people needs a name.")
@click.option("--answers-only", is_flag=True, help="Have the models answer, and judge later.")
@click.option("--endpoint", metavar="URL", help="OpenAI-compatible endpoint, such as https://api.openai.com/v1.")
@click.option("--judge-model", metavar="NAME", help="The model to ask there.")
@click.option(
    "--api-key-env",
    default="OPENAI_API_KEY",
    show_default=True,
    metavar="VARIABLE",
    help="The environment variable that holds the key; it may be unset where none is needed.",
)
@click.option(
    "--scoring",
    type=click.Choice(SCORINGS),
    default="verdict",
    show_default=True,
    help="Ask a judging model who is better, or for two scores from 1 to 10.",
)
@click.option("--one-order", is_flag=True, help="Judge with A's answer first only: half the calls, but a biased judge.")
@click.option("--workers", type=click.IntRange(1, 64), default=4, show_default=True, metavar="N", help="Calls at once.")
@click.option(
    "--timeout", type=click.FloatRange(1, 3600), default=120.0, show_default=True, metavar="S", help="Of one call."
)
@click.option(
    "--judge-max-tokens",
    type=click.IntRange(16, 1 << 20),
    default=1024,
    show_default=True,
    metavar="N",
    help="Longest judgement; more for models that think first.",
)
@click.option("--offline", is_flag=True, help="Make no call: use the judgements that --out has.")
@click.option("--price-in", type=click.FloatRange(0), metavar="X", help="Price of a million tokens of prompts.")
@click.option("--price-out", type=click.FloatRange(0), metavar="X", help="Price of a million tokens of judgements.")
@out_option
@click.option("--label", "labels", multiple=True, metavar="NAME", help="What tables call A and B, in order.")
@limit_option
@parallel_option
@json_option
@system_option
@options_of(RuntimeOptions)
@options_of(SamplingOptions, without=("logprobs", "top_logprobs"))
@verbose_option
def compare(a: Path, b: Path, **given: Any) -> None:
    """Compare A and B on the same questions, blind, by people or by a model.

    A and B are models, which answer one after the other, or files of answers (.jsonl, such as `stellar batch --out` or
    FastChat write). People judge side by side without names, sides by chance, each vote saved at once; a model judges
    every pair in both orders, and where they disagree it is a tie. The win rate is A's, ties counted half, with a 95%
    bootstrap interval and a sign test. Run again, it goes on; what was judged is never asked again.

    Answers are greedy and have at most 1,024 tokens unless options say otherwise. --lora, --template and --system are
    for A and B, not for a judging model.

    \b
    Example: stellar eval compare old.gguf new.gguf --questions BayLing-80.singleturn.zh.jsonl --judge-name anna
             stellar eval compare old.gguf new.gguf --questions question.jsonl --judge openai \\
               --endpoint https://api.openai.com/v1 --judge-model gpt-4o
             stellar eval compare a.jsonl b.jsonl --questions question.jsonl --judge judge.gguf --scoring scores
    """
    from .comparison import Comparison

    code = Comparison([a, b], given).run()
    if code:
        raise SystemExit(code)
