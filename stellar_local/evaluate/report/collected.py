"""What a folder of measurements holds, made safe to work with: numbers are numbers, texts are texts.

Nothing in a folder stops a report but a folder without any figures: whatever else is wrong is named. Knows the files'
forms through `results`; knows nothing of how models are compared or shown.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...errors import StellarError, UsageError
from ...texts import Texts
from ..results import Metric, Summary, read_log, read_summary
from .wording import name

_NEVER_SUMMED = ("answers", "votes", "judgements")  # logs of `stellar eval compare` that have no summaries of their own

OWN_SETTINGS = ("template", "reference")  # in which models in one table may differ; it is said then
_MOST = 1e18

Identity = tuple[str, str, tuple[str, ...]]
Fault = Callable[[Texts], str]  # a sentence on what is wrong, in the language of the page


@dataclass(frozen=True)
class Model:
    """A file that was measured. What is not known is "" or None; `bytes` and `parameters` are counts."""

    label: str
    file: str = ""
    level: str = ""
    sha256: str = ""
    name: str = ""
    bytes: float | None = None
    bits_per_weight: float | None = None
    parameters: float | None = None
    lora: tuple[str, ...] = ()

    @property
    def identity(self) -> Identity:
        """What makes it this model in every task: a label alone may have been given twice."""
        return self.label, self.sha256, self.lora


@dataclass(frozen=True)
class Run:
    """One task measured with one model. `records` are its items by their keys, None where there is no log."""

    task: str
    model: Model
    metrics: tuple[Metric, ...]
    notes: tuple[str, ...]
    settings: Mapping[str, Any]
    data: tuple[tuple[str, str], ...]  # file, SHA-256
    command: str
    versions: Mapping[str, str]
    machine: str
    started: str
    speed: float | None  # tokens a second
    path: Path
    records: dict[str, Mapping[str, Any]] | None = None
    sides: tuple[str, ...] = ()  # the labels of two models whose answers were judged; `model` is the judge then

    @property
    def conditions(self) -> str:
        """What must be the same for two runs to be compared: settings, and the data's hashes, whatever their files.

        A model's own affair is its template, and which more precise level it was compared with.
        """
        hashes = sorted(digest or file for file, digest in self.data)
        shared = {key: value for key, value in self.settings.items() if key not in OWN_SETTINGS}
        return json.dumps([shared, hashes], sort_keys=True, ensure_ascii=False, default=str)


@dataclass
class Collected:
    """All runs of a folder, those of judges apart, and what was wrong there."""

    runs: list[Run] = field(default_factory=list)
    judged: list[Run] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


def collect(folder: Path) -> Collected:
    """Read every summary and log of a folder.

    Raises UsageError for a folder that is not there, and StellarError where no summary in it can be read.
    """
    if not folder.is_dir():
        raise UsageError(f"no such folder: {folder}", "give the --out of stellar eval")
    found = Collected()
    paths = sorted(folder.glob("*--*.json"))
    for path in paths:
        try:
            summary = read_summary(path)
        except StellarError:
            found.faults.append(_named("report.fault_summary", path))
            continue
        run = _run(summary, found.faults)
        run = replace(run, records=_records(path.with_suffix(".jsonl"), found.faults))
        (found.judged if run.sides else found.runs).append(run)
    for path in sorted(folder.glob("*--*.jsonl")):
        if path.with_suffix(".json") not in paths and path.name.partition("--")[0] not in _NEVER_SUMMED:
            found.faults.append(_named("report.fault_unfinished", path))
    if not found.runs and not found.judged:
        what = "every summary in {} is damaged" if paths else "{} holds no results of stellar eval"
        raise StellarError(
            what.format(folder), "measure a model first, such as with: stellar eval likelihood MODEL --out DIR"
        )
    return found


def _named(key: str, path: Path, **values: object) -> Fault:
    return lambda texts: texts(key, file=name(path.name), **values)


def _run(summary: Summary, faults: list[Fault]) -> Run:
    header = summary.header
    metrics = tuple(metric for metric in summary.metrics if _is_sound(metric))
    if odd := len(summary.metrics) - len(metrics):
        faults.append(_named("report.fault_metrics", summary.path, count=odd))
    stem = summary.path.name.removesuffix(".json").partition("--")
    data = header.get("data")
    sides = tuple(_text(_mapping(header.get(side)).get("label")) for side in ("a", "b"))
    model = _model(_mapping(header.get("model")), name(stem[2]))
    if any(sides):
        judge = _mapping(header.get("judge"))
        model = Model(_text(judge.get("name")) or model.label, sha256=_text(judge.get("sha256")))
    return Run(
        task=_text(header.get("task")) or name(stem[0]),
        model=model,
        metrics=tuple(map(_finite, metrics)),
        notes=summary.notes,
        settings=_mapping(header.get("settings")),
        data=tuple(
            (_text(one.get("file")), _text(one.get("sha256")))
            for one in (data if isinstance(data, list) else [])
            if isinstance(one, Mapping)
        ),
        command=header["command"] if isinstance(header.get("command"), str) else "",
        versions={name(str(key)): _text(value) for key, value in _mapping(header.get("versions")).items()},
        machine=_text(header.get("machine")),
        started=_text(header.get("started")),
        speed=_speed(summary.speed),
        path=summary.path,
        sides=sides if any(sides) else (),
    )


def _model(value: Mapping[str, Any], label: str) -> Model:
    adapters = value.get("lora")
    return Model(
        label=_text(value.get("label")) or label,
        file=_text(value.get("file")),
        level=_text(value.get("level")),
        sha256=_text(value.get("sha256")),
        name=_text(value.get("name")),
        bytes=finite(value.get("bytes")),
        bits_per_weight=finite(value.get("bits_per_weight")),
        parameters=finite(value.get("parameters")),
        lora=tuple(map(_adapter, adapters if isinstance(adapters, list) else [])),
    )


def _adapter(value: Any) -> str:
    """An adapter's file, its scale where it is not 1, and the beginning of its hash."""
    if not isinstance(value, Mapping):
        return name(str(value))
    scale, digest = finite(value.get("scale")), _text(value.get("sha256"))
    parts = [
        _text(value.get("file")),
        f"× {scale:g}" if scale not in (None, 1.0) else "",
        digest and f"({digest[:12]}…)",
    ]
    return " ".join(filter(None, parts))


def _records(path: Path, faults: list[Fault]) -> dict[str, Mapping[str, Any]] | None:
    if not path.is_file():
        faults.append(_named("report.fault_no_log", path))
        return None
    try:
        return {str(record["key"]): record for record in read_log(path)[1]}
    except StellarError:
        faults.append(_named("report.fault_log", path))
        return None


def _speed(speed: Mapping[str, Any]) -> float | None:
    """Tokens a second, as they are stored or from tokens and seconds; None where neither is there."""
    stored = finite(speed.get("tokens_per_second"))
    if stored is None:
        tokens, seconds = finite(speed.get("tokens")), finite(speed.get("seconds"))
        stored = tokens / seconds if tokens and seconds else None
    return stored if stored and stored > 0 else None


def _is_sound(metric: Metric) -> bool:
    texts = (metric.name, metric.group, metric.kind, metric.better, metric.language, metric.text)
    numbers = (metric.value, metric.low, metric.high)
    return (
        all(isinstance(one, str) for one in texts)
        and all(one is None or isinstance(one, int | float) and not isinstance(one, bool) for one in numbers)
        and isinstance(metric.n, int)
    )


def _finite(metric: Metric) -> Metric:
    """Without numbers that are none, and without an interval with one end, turned round, or of no value."""
    value, low, high = finite(metric.value), finite(metric.low), finite(metric.high)
    if value is None or low is None or high is None or low > high:
        low = high = None
    return replace(metric, value=value, low=low, high=high)


def finite(value: Any) -> float | None:
    """A number that can be reckoned with, as a float; None for all else, also for numbers beyond all measure."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _MOST:
        return None
    return float(value)


def _text(value: Any) -> str:
    return name(value) if isinstance(value, str) else ""


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
