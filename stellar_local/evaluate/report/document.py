"""A whole report: what goes where, and what a reader must know before trusting it."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import datetime, timezone

from ... import __version__
from ...texts import Texts
from .appendix import appendix
from .blocks import Items, Page, Section
from .collected import OWN_SETTINGS, Collected
from .comparison import Comparison, Models, compare, order_models
from .items import failures
from .judged import judged_sections
from .overview import cost_section, glance_section, models_section, title_of
from .section import task_section
from .wording import known, name


def build(collected: Collected, texts: Texts, command: str, title: str | None = None, base: str | None = None) -> Page:
    """The report on all runs of a folder. `command` is the one that writes it, `base` the label of the first model.

    Raises UsageError where no model has that label.
    """
    models = order_models(collected, base)
    comparisons = compare(collected, models)
    sections: list[Section | None] = [_warnings(collected, models, comparisons, texts)]
    if comparisons:
        sections += [
            models_section(models, comparisons, texts),
            glance_section(models, comparisons, texts),
            cost_section(models, comparisons, texts),
            *(task_section(one, models, texts) for one in comparisons),
        ]
    sections += judged_sections(collected, texts)
    sections.append(appendix(collected, models, comparisons, command, texts))
    written = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    return Page(
        name(title) if title else texts("report.title", name=_subject(collected, models)),
        texts.language,
        _facts(collected, models, comparisons, texts),
        tuple(one for one in sections if one is not None),
        texts("report.end", version=__version__, python=platform.python_version(), time=written),
    )


def _subject(collected: Collected, models: Models) -> str:
    """What the report is on: the models' own names, where they have few."""
    names = list(dict.fromkeys(model.name for model in models.models if model.name))
    names = names or [model.label for model in models.models]
    return " / ".join(names[:3]) + (" …" if len(names) > 3 else "")


def _facts(collected: Collected, models: Models, comparisons: Sequence[Comparison], texts: Texts) -> tuple[str, ...]:
    runs = [*collected.runs, *collected.judged]
    tasks = dict.fromkeys(run.task for run in [*(one.runs[0] for one in comparisons), *collected.judged])
    days = sorted(run.started[:10] for run in runs if run.started)
    machines = dict.fromkeys(run.machine for run in runs if run.machine)
    return (
        *([texts("report.fact_models", count=len(models.models))] if models.models else []),
        texts(
            "report.fact_tasks",
            count=len(tasks),
            names=(", " if texts.language == "en" else "、").join(known(texts, "task", one) for one in tasks),
        ),
        *([days[0] if days[0] == days[-1] else f"{days[0]} … {days[-1]}"] if days else []),
        *(machines if len(machines) == 1 else [texts("report.fact_machines", count=len(machines))] if machines else []),
    )


def _warnings(collected: Collected, models: Models, comparisons: Sequence[Comparison], texts: Texts) -> Section | None:
    """What is missing, odd or not to be compared; None where nothing is."""
    found = [fault(texts) for fault in collected.faults]
    if len(models.models) == 1:
        found.append(texts("report.one_model"))
    labels = [model.label for model in models.models]
    if twice := [label for label in dict.fromkeys(labels) if labels.count(label) > 1]:
        found.append(texts("report.label_twice", labels=", ".join(twice)))
    if apart := dict.fromkeys(known(texts, "task", one.task) for one in comparisons if one.number):
        found.append(texts("report.apart_tasks", tasks=", ".join(apart)))
    for comparison in comparisons:
        title, runs = title_of(comparison, texts), comparison.runs
        if len({one.items - one.failed for run in runs if (one := failures(run)) is not None}) > 1:
            found.append(texts("report.counts_differ", task=title))
        for setting in OWN_SETTINGS:
            if len({str(run.settings.get(setting)) for run in runs}) > 1:
                found.append(texts(f"report.{setting}_differs", task=title))
        if len({run.machine for run in runs if run.speed}) > 1:
            found.append(texts("report.machines_differ", task=title))
        if len({str(sorted(run.versions.items())) for run in runs}) > 1:
            found.append(texts("report.versions_differ", task=title))
        if missing := [models.name(run.model) for run in runs if not run.data]:
            found.append(texts("report.no_data", task=title, models=", ".join(missing)))
    if sizeless := [models.name(one) for one in models.models if not one.bytes]:
        found.append(texts("report.no_size", models=", ".join(sizeless)))
    if collected.runs and not any(run.speed for run in collected.runs):
        found.append(texts("report.no_speed"))
    return Section("warnings", texts("report.warnings"), (Items(tuple(found), warning=True),)) if found else None
