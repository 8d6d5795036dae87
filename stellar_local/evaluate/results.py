"""What was measured, on disk: a log with one line an item, appended to as items are measured, and a summary of it.

A log, TASK--LABEL.jsonl, begins with a header that says what was measured and how; a run goes on with a log only if it
would measure the same. A summary, TASK--LABEL.json, holds the header and the figures. Knows files and forms; knows no
task and no model.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ..console import warn
from ..errors import ModelError, StellarError, UsageError
from ..files import atomic_text, exclusive, explain, is_there, read_text, regular_target
from ..records import escaped, to_line

FORMAT = 1
MARK = "stellar_eval"
# What of a header a run may change and go on: how it was called, and where and when.
_FREE = ("command", "started", "machine", "versions")
_NAME = re.compile(r"[^\w.+-]+")


@dataclass(frozen=True)
class Metric:
    """One figure. `value` is None where nothing could be measured; `low` and `high` are its 95% interval, `n` the items
    behind it. `group` says of which items (a kind, a subfield), `language` of which language, "" of all.

    `kind` is how it is written: share, score, nats, bits, perplexity, count, or text, which stands in `text`.
    `better` is higher, lower or "". A `detail` is left out where figures are printed in a terminal.
    """

    name: str
    value: float | None
    group: str = ""
    low: float | None = None
    high: float | None = None
    n: int = 0
    kind: str = "share"
    better: str = "higher"
    language: str = ""
    text: str = ""
    detail: bool = False

    def as_json(self) -> dict[str, Any]:
        """As it is written: without what is as usual; what is no number is null."""
        own = {item.name: item.default for item in fields(self)}
        given = {key: _finite(value) for key, value in asdict(self).items()}
        return {key: value for key, value in given.items() if key in ("name", "value") or value != own[key]}


@dataclass(frozen=True)
class Summary:
    """What a summary file says. `speed` has tokens, seconds and tokens a second of the last run that measured."""

    header: Mapping[str, Any]
    metrics: tuple[Metric, ...] = ()
    notes: tuple[str, ...] = ()
    speed: Mapping[str, Any] = field(default_factory=dict)
    path: Path = Path()

    @property
    def task(self) -> str:
        """The task's name."""
        return str(self.header.get("task", ""))

    @property
    def label(self) -> str:
        """The model's name in tables."""
        return str(self.header.get("model", {}).get("label", ""))


def log_path(folder: Path, task: str, label: str) -> Path:
    """Where the log of a task and a model stands."""
    return folder / f"{task}--{file_name(label)}.jsonl"


def file_name(label: str) -> str:
    """A label as files have it in their names: another sign for what does not belong there."""
    return _NAME.sub("_", label)


def summary_path(log: Path) -> Path:
    """Where a log's summary stands."""
    return log.with_suffix(".json")


class Log:
    """An open log: `done` are the records it has by their keys, without those that failed; those are measured again."""

    def __init__(self, path: Path, handle: Any, done: dict[str, dict[str, Any]]) -> None:
        self.path, self._handle, self.done = path, handle, done

    def add(self, record: Mapping[str, Any]) -> None:
        """Append a record, which has a key. It is on disk, for whatever ends this process, once this returns.

        Raises StellarError where it cannot be written; the log is whole then, without it.
        """
        line = (to_line(record) + "\n").encode("utf-8")
        _append(self.path, self._handle, line)
        if "error" not in record:
            self.done[str(record["key"])] = dict(record)


def _append(path: Path, handle: Any, line: bytes) -> None:
    before = os.fstat(handle.fileno()).st_size
    try:
        view = memoryview(line)
        while view:
            view = view[os.write(handle.fileno(), view) :]
    except BaseException as error:
        with suppress(OSError):
            os.ftruncate(handle.fileno(), before)
        if isinstance(error, OSError):
            raise explain(error, path, "write") from error
        raise


@contextmanager
def open_log(path: Path, header: Mapping[str, Any]) -> Iterator[Log]:
    """Open a log to go on with it, or begin it. No other process may write it meanwhile.

    A line that a killed process left half is taken away. Raises UsageError where the log was made with another header,
    naming what differs; StellarError where it is no log or cannot be written.
    """
    path = regular_target(path)
    with exclusive(path.with_name(path.name + ".lock"), path):
        done: dict[str, dict[str, Any]] = {}
        try:
            handle = path.open("ab+")
        except OSError as error:
            raise explain(error, path, "write") from error
        with handle:
            if b"\n" not in _beginning(path):  # nothing, or half a header
                with suppress(OSError):
                    os.truncate(path, 0)
            if os.fstat(handle.fileno()).st_size:
                found, records, end = _read(path)
                if differs := _difference(found, header):
                    raise UsageError(
                        f"{path} was measured otherwise: {differs}",
                        "give another --out or --label, or remove that file to measure anew",
                    )
                done = {str(one["key"]): one for one in records if "error" not in one}
                with suppress(OSError):
                    os.truncate(path, end)
            else:
                _append(path, handle, (to_line({MARK: FORMAT, **header}) + "\n").encode("utf-8"))
            yield Log(path, handle, done)


def _beginning(path: Path) -> bytes:
    """The file's first line, if it can be one of ours at all, else a line break: it is not to be touched."""
    try:
        with path.open("rb") as handle:
            data = handle.readline()
    except OSError as error:
        raise explain(error, path, "read") from error
    return data if data.startswith(f'{{"{MARK}"'.encode()) or not data else b"\n"


def read_log(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A log's header, and its records, of each key the last. Raises StellarError for what is no log."""
    header, records, _ = _read(path)
    return header, list({str(one["key"]): one for one in records}.values())


def _read(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]], int]:
    """Header, records, and where the last whole line ends."""
    no_log = StellarError(f"{path} is no log of an evaluation", "give another --out, or move that file away")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise explain(error, path, "read") from error
    end = data.rfind(b"\n") + 1
    lines = data[:end].split(b"\n")[:-1]
    header: dict[str, Any] | None = None
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        try:
            one = json.loads(line)
        except (ValueError, RecursionError):
            one = None
        if not isinstance(one, dict) or (number > 1 and not isinstance(one.get("key"), str)):
            if number == 1:
                raise no_log
            warn(f"{path}, line {number} is damaged and left out")
            continue
        if header is None:
            header = one
            if header.get(MARK) != FORMAT:
                raise no_log
        else:
            records.append(one)
    if header is None:
        raise no_log
    return header, records, end


def _difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """What of two headers is not the same, in words; "" if nothing is."""
    plain = json.loads(to_line(wanted))
    for key in dict.fromkeys([*plain, *found]):
        if key in _FREE or key == MARK:
            continue
        one, other = found.get(key), plain.get(key)
        if key == "model" and isinstance(one, dict) and isinstance(other, dict):
            one, other = ({name: part[name] for name in part if name not in ("file", "label")} for part in (one, other))
        if one != other:
            return "the data have changed" if key == "data" else _told(key, one, other)
    return ""


def _told(key: str, one: Any, other: Any) -> str:
    """The first value that differs, however deep it lies."""
    if isinstance(one, dict) and isinstance(other, dict):
        name = next(name for name in dict.fromkeys([*one, *other]) if one.get(name) != other.get(name))
        return _told(name, one.get(name), other.get(name))
    return f"{key} was {_shown(one)}, is {_shown(other)}"


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:79] + "…"


def write_summary(log: Path, summary: Summary) -> Path:
    """Write a summary beside its log, whole or not at all; returns its path. Raises StellarError."""
    path = summary_path(log)
    content = {
        MARK: FORMAT,
        "header": dict(summary.header),
        "metrics": [metric.as_json() for metric in summary.metrics],
        "notes": list(summary.notes),
        "speed": dict(summary.speed),
    }
    # Half characters, which a path may hold, fit into no file, and what is no number into no JSON.
    atomic_text(path, escaped(json.dumps(_finite(content), ensure_ascii=False, indent=1, allow_nan=False)) + "\n")
    return path


def _finite(value: Any) -> Any:
    """JSON values with null for what is no number."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_summaries(folder: Path) -> list[Summary]:
    """The summaries in a folder, by their files' names. What is damaged is told of and left out; other JSON is none.

    Raises UsageError for a folder that is not there.
    """
    if not is_there(folder) or not folder.is_dir():
        raise UsageError(f"no such folder: {folder}", "give the --out of stellar eval")
    found = []
    for path in sorted(folder.glob("*--*.json")):
        try:
            found.append(read_summary(path))
        except StellarError as error:
            warn(f"{error.message}; it is left out")
    return found


def read_summary(path: Path) -> Summary:
    """One summary. Raises ModelError for a damaged one."""
    try:
        content = json.loads(read_text(path, "summary"))
        if content[MARK] != FORMAT:
            raise ValueError
        known = {item.name for item in fields(Metric)}
        metrics = [Metric(**{key: value for key, value in one.items() if key in known}) for one in content["metrics"]]
        header, speed = dict(content["header"]), dict(content["speed"])
        return Summary(header, tuple(metrics), tuple(map(str, content["notes"])), speed, path)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{path} is no summary of an evaluation", "measure again") from error
