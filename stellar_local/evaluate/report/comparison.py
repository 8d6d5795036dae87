"""Which measurements may stand side by side, in which order, and what may be said of their differences.

Knows runs and metrics; knows nothing of pages.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from ...errors import UsageError
from ..results import Metric
from .collected import Collected, Identity, Model, Run
from .wording import name

_BASE = re.compile(r"(?<![a-z])base(?![a-z])|基座|基础模型", re.IGNORECASE)
_LONGEST_SETTING = 80
DIVERGENCE = "KL divergence"
_COMPOSITE = "DGscore"  # of Astro-QA
_MOST_HEADLINES, _MOST_HEADLINE_ROWS, _MOST_DRAWN = 3, 6, 8


@dataclass(frozen=True)
class Line:
    """One figure of all models: `values` has None where a model has none. A `detail` is for those who look for it."""

    name: str
    group: str
    language: str
    kind: str
    better: str
    values: tuple[Metric | None, ...]
    detail: bool = False

    @cached_property
    def marks(self) -> tuple[str, ...]:
        """For each value "best", "worse" or "".

        Best is a value whose interval overlaps no other's. Worse is one whose interval lies wholly on the wrong side of
        that of the best value. Nothing is said of values without an interval.
        """
        sign = {"higher": 1, "lower": -1}.get(self.better, 0)
        spans: dict[int, tuple[float, float, float]] = {}
        for index, one in enumerate(self.values):
            if one is not None and one.value is not None and one.low is not None and one.high is not None:
                low, high = sorted((sign * one.low, sign * one.high))
                spans[index] = (sign * one.value, low, high)
        marks = [""] * len(self.values)
        if sign and len(spans) > 1:
            top = max(spans, key=lambda index: spans[index][0])
            beaten = [index for index in spans if spans[index][2] < spans[top][1]]
            for index in beaten:
                marks[index] = "worse"
            if len(beaten) == len(spans) - 1:
                marks[top] = "best"
        return tuple(marks)


@dataclass(frozen=True)
class Comparison:
    """Runs of one task with the same data and the same settings, in the order of the models.

    `apart` says, where there are several comparisons of one task, in which settings or data this one differs.
    """

    task: str
    runs: tuple[Run, ...]
    number: int = 0
    apart: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """A name for links."""
        return re.sub(r"[^a-z0-9]+", "-", self.task.lower()).strip("-") + (f"-{self.number}" if self.number else "")

    @cached_property
    def lines(self) -> tuple[Line, ...]:
        """All figures, in the order in which the runs have them."""
        found: dict[tuple[str, str, str], dict[int, Metric]] = defaultdict(dict)
        for index, run in enumerate(self.runs):
            for metric in run.metrics:
                found[metric.name, metric.group, metric.language].setdefault(index, metric)
        lines = []
        for key, row in found.items():
            kinds = Counter((one.kind, one.better) for one in row.values())
            kind, better = kinds.most_common(1)[0][0]
            values = tuple(
                one if (one := row.get(index)) and one.kind == kind else None for index in range(len(self.runs))
            )
            lines.append(Line(*key, kind, better, values, all(one.detail for one in row.values())))
        return tuple(lines)

    @cached_property
    def headlines(self) -> tuple[Line, ...]:
        """The figures that stand for the whole task: a few metrics, each of all items, or of each language.

        How far a level is from its reference comes first, and a composite score early; mere counts are none.
        """
        judged = [line for line in self.lines if line.better and line.kind not in ("text", "count") and not line.detail]
        names = list(dict.fromkeys(line.name for line in judged))
        ranks = {name: float(rank) for rank, name in enumerate(names)}
        for metric in names:
            if metric == DIVERGENCE:
                ranks[metric] = -1.0
            elif metric.startswith(_COMPOSITE):
                ranks[metric] = min(ranks[metric], 0.5)
        found: list[Line] = []
        for metric in sorted(names, key=lambda name: ranks[name])[:_MOST_HEADLINES]:
            own = [line for line in judged if line.name == metric]
            choices = (
                [line for line in own if not line.group and not line.language],
                [line for line in own if not line.group],
                [line for line in own if not line.language],
                [line for line in own if line.group == own[0].group],
            )
            found += next(filter(None, choices))
        return tuple(found[:_MOST_HEADLINE_ROWS])

    @cached_property
    def drawn(self) -> tuple[Line, ...]:
        """One line of each metric that deserves bars: the headlines, then others that have intervals."""
        others = [
            line
            for line in self.lines
            if (line.better == "higher" or (line.better and line.kind != "share"))  # what went wrong is in the table
            and not line.detail
            and any(one and one.low is not None for one in line.values)
        ]
        found: dict[str, Line] = {}
        for line in (*self.headlines, *others):
            found.setdefault(line.name, line)
        return tuple(found.values())[:_MOST_DRAWN]


@dataclass(frozen=True)
class Models:
    """All models of a report in their order, each with its number and the name it has in tables and plots."""

    models: tuple[Model, ...]
    names: Mapping[Identity, str] = field(default_factory=dict)
    families: Mapping[Identity, str] = field(default_factory=dict)

    def index(self, model: Model) -> int:
        """Its number from 0."""
        return [one.identity for one in self.models].index(model.identity)

    def name(self, model: Model) -> str:
        """What it is called here: its label, with the beginning of its hash where another has the same."""
        return self.names[model.identity]

    def pairs(self, runs: Sequence[Run]) -> list[tuple[Run, Run]]:
        """What to compare with what: the best level of each family with the first model, the others with that level."""
        pairs, tops = [], {self.families[runs[0].model.identity]: runs[0]} if runs else {}
        for run in runs[1:]:
            family = self.families[run.model.identity]
            pairs.append((tops.get(family, runs[0]), run))
            tops.setdefault(family, run)
        return pairs


def order_models(collected: Collected, base: str | None = None) -> Models:
    """The models: those of the base first, each family from the most bits a weight to the fewest.

    The base is the model labelled `base`; else the family that calls itself so; else the first. Raises UsageError where
    no model has the label.
    """
    first: dict[Identity, Model] = {}
    for run in collected.runs:
        first.setdefault(run.model.identity, run.model)
    labels = Counter(model.label for model in first.values())
    if base is not None and base not in labels:
        raise UsageError(f"no model is labelled {base}", f"the labels are {', '.join(labels)}")
    families = {identity: _family(model) for identity, model in first.items()}
    lead = [
        families[identity]
        for identity, model in first.items()
        if (model.label == base if base is not None else _BASE.search(f"{model.label}\n{model.name}\n{model.file}"))
    ]
    ranks = {family: rank for rank, family in enumerate(dict.fromkeys([*lead, *families.values()]))}

    def place(model: Model) -> tuple[bool, int, float, float, str]:
        bits, size = model.bits_per_weight or 0.0, model.bytes or 0.0
        return base is None or model.label != base, ranks[families[model.identity]], -bits, -size, model.label

    names = {
        identity: model.label if labels[model.label] == 1 else f"{model.label} ({model.sha256[:8] or model.file})"
        for identity, model in first.items()
    }
    return Models(tuple(sorted(first.values(), key=place)), names, families)


def _family(model: Model) -> str:
    """What all levels of one model have in common: its name, or else its label without the level; and its adapters."""
    level = re.escape(model.level) + r"\W*$"
    stem = re.sub(level, "", model.name or model.label, flags=re.IGNORECASE).strip("-_. ")
    return "\n".join((stem, *model.lora))


def compare(collected: Collected, models: Models) -> list[Comparison]:
    """The runs by task; those with other data or settings apart. Tasks come in the order of their names."""
    tasks: dict[str, dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in collected.runs:
        tasks[run.task][run.conditions].append(run)
    found = []
    for task in sorted(tasks):
        parts = [sorted(runs, key=lambda run: models.index(run.model)) for runs in tasks[task].values()]
        parts.sort(key=lambda runs: (-len(runs), models.index(runs[0].model)))
        if len(parts) == 1:
            found.append(Comparison(task, tuple(parts[0])))
            continue
        told = [settings_of(runs[0]) | _data_of(runs[0]) for runs in parts]
        keys = [
            key for key in dict.fromkeys(key for one in told for key in one) if len({_at(one, key) for one in told}) > 1
        ]
        for number, (runs, settings) in enumerate(zip(parts, told, strict=True), 1):
            apart = tuple(f"{key}: {_at(settings, key)}" for key in keys)
            found.append(Comparison(task, tuple(runs), number, apart))
    return found


def settings_of(run: Run) -> dict[str, str]:
    """The settings, one level deep, each as one short line."""
    found: dict[str, str] = {}
    for key, value in run.settings.items():
        for part, one in value.items() if isinstance(value, dict) else [("", value)]:
            found[name(f"{key}.{part}" if part else str(key))] = _line(one)
    return found


def _data_of(run: Run) -> dict[str, str]:
    return {f"data {file}": f"{digest[:12]}…" for file, digest in run.data}


def _line(value: object) -> str:
    text = name(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))
    return text if len(text) <= _LONGEST_SETTING else text[:_LONGEST_SETTING] + "…"


def _at(settings: Mapping[str, str], key: str) -> str:
    return settings.get(key, "–")
