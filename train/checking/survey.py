"""One pass over the files: every row measured, compared and looked at; what is wrong collected by place.

Holds a few numbers, the normalised text and an excerpt of each row, never the rows themselves, but for the samples to
show. What leaks, and what repeats an earlier row, is found at the end: what is form, and no likeness, hangs on all.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stellar_local.console import one_line, progress
from stellar_local.errors import StellarError, UsageError
from stellar_local.tables.language import language_of

from ..corpus import Located, Triple, scan
from ..likeness import duplicates
from ..likeness.forms import Form
from ..likeness.overlap import Evaluation, Meeting
from .findings import (
    BARE,
    CONFLICT,
    DUPLICATE,
    EMPTY_FILE,
    ENDLESS,
    LEAK,
    NEAR,
    OVER,
    UNREADABLE,
    Finding,
    Findings,
)
from .lengths import Length, Lengths, Ruler
from .suspicions import suspicions

_EXCERPT = 120  # characters of a row that a finding quotes
_KINDS = {duplicates.SAME: DUPLICATE, duplicates.SAME_QUESTION: CONFLICT, duplicates.NEAR: NEAR}


@dataclass
class Source:
    """One file: what its rows' lengths are by language, and how many places hold no row."""

    path: Path
    broken: int = 0
    languages: dict[str, Lengths] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """How many whole rows it has."""
        return sum(len(lengths.prompts) for lengths in self.languages.values())


@dataclass(frozen=True)
class Shown:
    """A row to show, with its length."""

    place: str
    row: Triple
    length: Length


@dataclass(frozen=True)
class Survey:
    """Everything that a pass found. `evaluation` is None where there was nothing to compare with."""

    ruler: Ruler
    sources: list[Source]
    findings: Findings
    samples: list[Shown]
    evaluation: Evaluation | None


def survey(paths: Sequence[Path], ruler: Ruler, evaluation: Evaluation | None, show: int = 0) -> Survey:
    """Look at every row. `show` rows are drawn as samples, always the same ones of the same files.

    Raises UsageError where the template does not fit the vocabulary.
    """
    found = Survey(ruler, [Source(path) for path in paths], Findings(), [], evaluation)
    _Pass(found, show).run()
    return found


@dataclass(frozen=True)
class _Compared:
    """A row that is compared with the others: the number of its source, its line, a hash of it to the letter."""

    source: int
    line: int
    letters: int
    excerpt: str
    form: Form
    meeting: Meeting | None


class _Pass:
    """The state of one pass: what has been seen so far."""

    def __init__(self, found: Survey, show: int) -> None:
        self._found, self._show = found, show
        self._rows = 0
        self._compared: list[_Compared] = []
        self._random = random.Random(0)

    def run(self) -> None:
        sizes = [source.path.stat().st_size for source in self._found.sources]
        with progress("check", sum(sizes)) as bar:
            for number, (source, size) in enumerate(zip(self._found.sources, sizes, strict=True)):
                bar.describe(f"check {source.path.name}")
                told = 0
                try:
                    for located in scan(source.path):
                        if located.row is None:
                            source.broken += 1
                            self._add(located, located.kind, located.problem, located.excerpt)
                        else:
                            self._row(number, source, located, located.row)
                            # The keys and quotes of a row take about 50 bytes in the file.
                            told += (step := min(_bytes(located.row) + 50, size - told))
                            bar.advance(step)
                except UsageError:  # of the template, which fits no file
                    raise
                except StellarError as error:
                    source.broken += 1
                    self._found.findings.add(UNREADABLE, Finding(str(source.path), 0, error.message, ""))
                if not source.rows and not source.broken:
                    self._found.findings.add(EMPTY_FILE, Finding(str(source.path), 0, "the file is empty", ""))
                bar.advance(size - told)
        self._leaks()
        self._repeats()

    def _add(self, located: Located, kind: str, detail: str, text: str) -> None:
        self._found.findings.add(kind, Finding(str(located.path), located.line, detail, _excerpt(text)))

    def _row(self, number: int, source: Source, located: Located, row: Triple) -> None:
        ruler = self._found.ruler
        length = ruler.measure(row)
        language = language_of(f"{row.instruction}\n{row.input}\n{row.output}")
        cutoff = ruler.cutoff if ruler.tokenizer is not None else None
        source.languages.setdefault(language, Lengths()).add(length, cutoff)
        question = f"{row.instruction} {row.input}"
        if cutoff is not None:
            whole = f"{length.total} tokens: prompt {length.prompt}, answer {length.answer}"
            if length.answer < 1 or length.prompt >= cutoff:
                self._add(located, BARE, whole, question)
            elif length.total > cutoff:
                self._add(located, OVER, whole, question)
            elif not length.ends:
                self._add(located, ENDLESS, "", question)
        self._rows += 1
        form = Form.of(row)
        evaluation = self._found.evaluation
        meeting = evaluation.meeting(row, form) if evaluation is not None else None
        self._compared.append(_Compared(number, located.line, hash(row), _excerpt(question), form, meeting))
        for kind, detail in suspicions(row):
            self._add(located, kind, detail, question if not detail else row.output)
        self._draw(Shown(f"{located.path}:{located.line}", row, length))

    def _leaks(self) -> None:
        """Name every row that overlaps with the evaluation sets: it has to go, whatever else it repeats."""
        evaluation, rows = self._found.evaluation, self._compared
        if evaluation is None:
            return
        leaks = evaluation.overlaps(
            [row.meeting for row in rows if row.meeting is not None], [row.form for row in rows]
        )
        for row, leak in zip(rows, leaks, strict=True):
            if leak:
                source = str(self._found.sources[row.source].path)
                self._found.findings.add(LEAK, Finding(source, row.line, leak, row.excerpt))
        self._compared = [row for row, leak in zip(rows, leaks, strict=True) if not leak]

    def _repeats(self) -> None:
        """Name every row that repeats an earlier one, of whichever file."""
        rows = self._compared
        for repeat in duplicates.repeats([row.form for row in rows], duplicates.Rules()):
            row, first = rows[repeat.row], rows[repeat.first]
            place = f"line {first.line}"
            if first.source != row.source:
                place = f"{self._found.sources[first.source].path}:{first.line}"
            detail = f"as {place}"
            if repeat.kind == duplicates.NEAR:
                detail += f", {repeat.degree:.0%} alike"
            elif repeat.kind == duplicates.SAME and first.letters != row.letters:
                detail += ", but for case, white space and punctuation"
            source = str(self._found.sources[row.source].path)
            self._found.findings.add(_KINDS[repeat.kind], Finding(source, row.line, detail, row.excerpt))

    def _draw(self, row: Shown) -> None:
        """Keep a fair sample of what has been seen so far (Vitter's algorithm R)."""
        samples, seen = self._found.samples, self._rows
        if len(samples) < self._show:
            samples.append(row)
        elif self._show and (place := self._random.randrange(seen)) < self._show:
            samples[place] = row


def _excerpt(text: str) -> str:
    return one_line(text)[:_EXCERPT].strip()


def _bytes(row: Triple) -> int:
    return sum(len(text.encode("utf-8")) for text in (row.instruction, row.input, row.output))
