"""What was measured, told: figures on stdout, as a table or as JSON, notes and how to go on on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import click

from .. import console
from ..console import say
from ..errors import ExitCode
from ..records import escaped
from .results import Summary
from .tables import compared


def show(summaries: Sequence[Summary], code: ExitCode, as_json: bool) -> None:
    """Show the figures of all models, side by side, and what is to be known of them."""
    if as_json:
        shown = [
            {
                "model": summary.label,
                "metrics": [metric.as_json() for metric in summary.metrics],
                "notes": list(summary.notes),
                "speed": dict(summary.speed),
                "file": str(summary.path),
            }
            for summary in summaries
        ]
        click.echo(escaped(json.dumps(shown, ensure_ascii=False, indent=1)))
    elif summaries:
        headers, rows = compared(summaries)
        if rows:
            console.table(headers, rows, file=sys.stdout, lines=False)
    for note in dict.fromkeys(note for summary in summaries for note in summary.notes):
        say(note)
    if code in (ExitCode.INTERRUPTED, ExitCode.TERMINATED):
        say("interrupted: to go on, run the same command again")
