"""A report's sections on two models whose answers were judged: one column a judge, and both answers side by side.

Knows the records of `stellar eval compare`: the questions, both answers, and who won.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...texts import Texts
from .blocks import NO_SERIES, Answer, Block, Charts, Example, Heading, Items, Section, Text
from .collected import Collected, Run
from .comparison import Comparison, Models
from .figures import Figures
from .items import example_languages, heading_of, notes_of, side_text
from .wording import known

_SHOWN = {"a": 2, "b": 2, "tie": 1}  # items of each language, by who won
_SIDES = ("a", "b")
_MAJORITY = "majority of the people"  # the name under which a comparison keeps what most people say

Record = Mapping[str, Any]


def judged_sections(collected: Collected, texts: Texts) -> list[Section]:
    """A section for each two models that were judged; those with other data or settings stand apart."""
    pairs: dict[str, list[Run]] = defaultdict(list)
    for run in collected.judged:
        pairs[f"{run.sides}{run.conditions}"].append(run)
    return [_section(number, runs, texts) for number, runs in enumerate(pairs.values(), 1)]


def _section(number: int, runs: Sequence[Run], texts: Texts) -> Section:
    judges = [run.model for run in runs]
    names = {run.model.identity: _judge(run, texts) for run in runs}
    figures = Figures(Models(tuple(judges), names, names), texts)
    comparison = Comparison(runs[0].task, tuple(runs))
    # A judge who finds for A more often is no better judge: nothing is marked.
    lines = [replace(line, better="") for line in comparison.lines]
    first, second = runs[0].sides
    task = known(texts, "task", runs[0].task)
    blocks: list[Block] = [Text(texts("report.judged", first=first, second=second))]
    blocks.append(figures.table(texts("report.figures_caption", task=task), lines, runs))
    rates = [line for line in lines if line.kind == "share" and not line.group and not line.language][:1]
    charts = [figures.bars(line, replace(comparison, task=task)) for line in rates]
    blocks += [Charts(shown)] if (shown := tuple(one for one in charts if one is not None)) else []
    if notes := notes_of(runs, names):
        blocks += [Heading(texts("report.notes")), Items(notes)]
    if examples := _examples(runs, texts):
        blocks += [Heading(texts("report.examples")), Text(texts("report.judged_rule")), *examples]
    title = texts("report.judged_title", task=task, first=first, second=second)
    return Section(f"judged-{number}", title, tuple(blocks))


def _judge(run: Run, texts: Texts) -> str:
    """What a judge is called: by the name that was given, or, of many people at once, in the page's language."""
    return texts("report.majority") if run.model.label == _MAJORITY else run.model.label


def _examples(runs: Sequence[Run], texts: Texts) -> list[Example]:
    """Questions to show, by who won with the first judge, in the order of their keys' SHA-256."""
    records = next((run.records for run in runs if run.records), {}) or {}
    left: dict[str, Counter[str]] = defaultdict(lambda: Counter(_SHOWN))
    chosen: list[tuple[str, str, str]] = []
    for key in sorted(records, key=lambda key: hashlib.sha256(key.encode("utf-8", "replace")).digest()):
        winner, language = str(records[key].get("winner")), str(records[key].get("language", ""))
        if winner in _SHOWN and "error" not in records[key] and left[language][winner] > 0:
            left[language][winner] -= 1
            chosen.append((language, winner, key))
    languages, order = example_languages({one for one, _, _ in chosen}, texts), list(_SHOWN)
    chosen.sort(key=lambda one: (languages.index(one[0]), order.index(one[1])))
    return [_example(key, records[key], runs, texts) for _, _, key in chosen]


def _example(key: str, record: Record, runs: Sequence[Run], texts: Texts) -> Example:
    answers = []
    for number, side in enumerate(_SIDES):
        said = record.get(side)
        turns = said if isinstance(said, list) else [said]
        text, note = side_text("\n\n".join(map(str, turns)), texts)
        told = " · ".join(filter(None, (_told(run, key, side, texts) for run in runs)))
        answers.append(Answer(((f"{side.upper()}: {runs[0].sides[number]}", NO_SERIES),), "", told, text, note))
    return heading_of(key, [record], "", tuple(answers), texts)


def _told(run: Run, key: str, side: str, texts: Texts) -> str:
    """What one judge found, from one side's view."""
    winner = (run.records or {}).get(key, {}).get("winner")
    judge = _judge(run, texts)
    if winner == "tie":
        return texts("report.tie", judge=judge)
    if winner == side:
        return texts("report.better_answer", judge=judge)
    return texts("report.worse_answer", judge=judge) if winner in _SIDES else ""
