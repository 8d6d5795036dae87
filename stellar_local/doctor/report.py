"""How findings are shown: line by line for people, in their language, or as one JSON object in English."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click

from .. import __version__, console
from ..records import escaped
from ..texts import Texts
from .finding import Finding, State

_MARKS = {State.OK: "✓", State.WARNING: "!", State.FAILURE: "✗", State.SKIPPED: "-"}
_COLOURS = {State.OK: "green", State.WARNING: "yellow", State.FAILURE: "red", State.SKIPPED: None}


def healthy(findings: Iterable[Finding]) -> bool:
    """Whether nothing failed."""
    return all(finding.state is not State.FAILURE for finding in findings)


def as_json(findings: Sequence[Finding]) -> str:
    """All of it for programs: states and ids are stable, texts are English, `details` holds figures."""
    english = Texts("en")
    rows = [
        {
            "id": finding.id,
            "state": finding.state.value,
            "found": console.one_line(finding.said.text(english)),
            "fix": finding.fix or None,
            "details": dict(finding.details),
        }
        for finding in findings
    ]
    whole = {"healthy": healthy(findings), "version": __version__, "checks": rows}
    return escaped(json.dumps(whole, ensure_ascii=False, indent=2, default=str))


class Report:
    """The report in a terminal or a file, a check at a time as it is made."""

    def __init__(self, texts: Texts) -> None:
        self._texts = texts
        self._labels: dict[str, str] = {}
        self._live = sys.stdout.isatty() and not console.is_dumb()
        self._colour = self._live and not os.environ.get("NO_COLOR")
        self._columns = shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else 100
        self._width = 0

    def labelled(self, ids: Iterable[str]) -> None:
        """The checks that will come, so that their names can stand in one column."""
        self._labels = {id: self._texts(f"doctor.id_{id.replace('-', '_')}") for id in ids}
        self._width = max(map(console.cells, self._labels.values()))

    def begin(self, id: str) -> None:
        """Say what is being looked at, where the line can be taken back."""
        self.wipe()  # a check may have had nothing to say
        if self._live:
            click.echo(f"  … {self._labels[id]}", nl=False)

    def show(self, finding: Finding) -> None:
        """One finding: mark, name, what was found; and the command on a line of its own, to be copied."""
        self.wipe()
        label = self._labels[finding.id]
        mark = (
            click.style(_MARKS[finding.state], fg=_COLOURS[finding.state], bold=True)
            if self._colour
            else _MARKS[finding.state]
        )
        margin = " " * (self._width + 6)
        room = max(24, self._columns - len(margin))
        first, *more = console.folded(console.one_line(finding.said.text(self._texts)), room)
        click.echo(f"  {mark} {label}{' ' * (self._width - console.cells(label))}  {first}")
        for line in more:
            click.echo(margin + line)
        if finding.fix:
            click.echo(f"{margin}→ {console.one_line(finding.fix)}")

    def wipe(self) -> None:
        """Take back the line of `begin`."""
        if self._live:
            click.echo("\r\x1b[K", nl=False)

    def end(self, findings: Sequence[Finding]) -> None:
        """The verdict."""
        self.wipe()
        count: dict[str, Any] = {
            state.value: sum(finding.state is state for finding in findings) for state in (State.FAILURE, State.WARNING)
        }
        key = "doctor.healthy" if healthy(findings) else "doctor.unhealthy"
        click.echo("\n" + self._texts(key, **count))
