"""The command `stellar eval`: its own commands by name, imported when they are asked for. Knows names only."""

from __future__ import annotations

import click

from ..mounting import Commands

# name → (module, attribute, the line in `stellar eval --help`)
_MOUNTED = {
    "astro-qa": (
        "stellar_local.evaluate.astro_qa.command",
        "astro_qa",
        "Astro-QA: seven types of questions, in Chinese and English.",
    ),
    "identity": ("stellar_local.evaluate.identity.command", "identity", "Does the model know who it is?"),
    "likelihood": (
        "stellar_local.evaluate.likelihood.command",
        "likelihood",
        "How likely texts are to it; how far a level is from another.",
    ),
    "text": ("stellar_local.evaluate.text.command", "text", "Free answers against reference answers: chrF and BLEU."),
    "compare": (
        "stellar_local.evaluate.pairwise.command",
        "compare",
        "Two models' answers, judged by people or by a model.",
    ),
    "report": ("stellar_local.evaluate.report.command", "report", "One page of all that was measured."),
}


@click.group(name="eval", cls=Commands, mounted=_MOUNTED)
def evaluate() -> None:
    """Measure how good models are, on the quantized files that will really run.

    Every command measures any number of models, keeps each item's result in a folder (--out), goes on there when it
    is run again, and gives 95% intervals. `report` makes one page of all.

    \b
    Example: stellar eval identity demo/model --all-levels
             stellar eval likelihood demo/model --all-levels --data held-out.jsonl
             stellar eval report evaluation
    """
