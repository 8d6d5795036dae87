"""What a training run measured: a CSV table of its steps and evaluations, and the same numbers for TensorBoard.

Knows the two formats and how to go on with them after a kill; knows no trainer and draws nothing. A log that cannot
be written never stops a run: that is said once, and training goes on.
"""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from stellar_local.console import warn
from stellar_local.errors import StellarError
from stellar_local.files import atomic_text, explain, is_there, read_text


@dataclass(frozen=True)
class StepStats:
    """One optimizer step. `tokens` counts all samples without padding, `learned` those of them with a loss."""

    step: int  # from 1
    epoch: float
    loss: float  # nats: the mean over the learned tokens
    learning_rate: float
    grad_norm: float
    tokens: int
    learned: int
    seconds: float
    memory: int  # bytes at the peak on the device; 0 where unknown


_COLUMNS = [*(field.name for field in fields(StepStats)), "validation_loss"]
_HEADER = ",".join(_COLUMNS)


class RunLog:
    """Writes `folder`/`csv` and event files in `folder`/`events` (None: no events), a step at a time.

    The CSV has a header and two kinds of rows: of a step, with an empty last column, and of an evaluation, which has
    only `step` and `validation_loss`. Numbers have up to nine digits, which is all of a float32. Each row is in the
    file when the call returns, so that a kill loses none.

    Opened with `resume_step` above 0, the step of the checkpoint that a killed run goes on from, it takes out the
    rows after that step: the file becomes that of an uninterrupted run but for `seconds` and `memory`. With 0 the
    log begins anew. A file of that name that is no log is left alone, and no table is written.
    """

    def __init__(
        self, folder: Path, resume_step: int, csv: str = "log.csv", events: str | None = "tensorboard"
    ) -> None:
        self._table: _Growing | None = None
        self._events: _Events | None = None
        self._evaluated: set[int] = set()
        try:
            self._evaluated = _cut_back(folder / csv, resume_step)
            self._table = _Growing(folder / csv, "ab")
        except (StellarError, OSError) as error:
            _warn_unwritten(folder / csv, error)
        if events is None:
            return
        try:
            self._events = _Events(folder / events, resume_step + 1 if resume_step else 0)
        except OSError as error:
            _warn_unwritten(folder / events, error)
        except Exception as error:  # two packages that do not fit, protobuf's among them, have many ways to say so
            missing = isinstance(error, ImportError) and (error.name or "").split(".")[0] == "tensorboard"
            reason = "is not installed (pip install tensorboard)" if missing else f"cannot be used ({error})"
            warn(f"no TensorBoard files: the package tensorboard {reason}; {csv} has the same numbers")

    def step(self, stats: StepStats) -> None:
        """Log an optimizer step that is done."""
        self._row([*astuple(stats), ""])
        if self._events:
            values = {
                "train/loss": stats.loss,
                "train/learning_rate": stats.learning_rate,
                "train/grad_norm": stats.grad_norm,
                "train/epoch": stats.epoch,
            }
            if stats.seconds > 0:
                values["train/tokens_per_second"] = stats.tokens / stats.seconds
            if stats.memory:
                values["train/memory_gib"] = stats.memory / 2**30
            self._events.scalars(stats.step, values)

    def evaluation(self, step: int, loss: float) -> None:
        """Log the validation loss after `step`; one that is logged already, before a kill, is not logged again."""
        if step in self._evaluated:
            return
        self._evaluated.add(step)
        self._row([step, *[""] * (len(_COLUMNS) - 2), loss])
        if self._events:
            self._events.scalars(step, {"eval/loss": loss})

    def close(self) -> None:
        """Close the files; may be called again."""
        for log in (self._table, self._events):
            if log:
                log.close()
        self._table = self._events = None

    def _row(self, values: list[Any]) -> None:
        if self._table:
            cells = (f"{value:.9g}" if isinstance(value, float) else str(value) for value in values)
            self._table.add(f"{','.join(cells)}\n".encode())


def read_log(path: Path) -> tuple[list[StepStats], list[tuple[int, float]]]:
    """The steps of a run and its evaluations, (step, validation loss), from the CSV of a RunLog.

    The last line is left out where a kill tore it. Raises StellarError for a file that is missing or no such log, and
    for a broken row, with its line.
    """
    steps: list[StepStats] = []
    evaluations: list[tuple[int, float]] = []
    for number, line in enumerate(_rows(path), 2):
        try:
            row = _parsed(line)
        except ValueError as error:
            raise StellarError(f"{path}, line {number} is no row of a log: {error}", "remove the line") from error
        if isinstance(row, StepStats):
            steps.append(row)
        else:
            evaluations.append(row)
    return steps, evaluations


def _parsed(line: str) -> StepStats | tuple[int, float]:
    """A row as a step or as an evaluation; raises ValueError with what is wrong."""
    cells = _cells(line)
    if len(cells) != len(_COLUMNS):
        raise ValueError(f"{len(cells)} columns instead of {len(_COLUMNS)}")
    if cells[-1]:
        return int(_number(cells[0], "int")), _number(cells[-1], "float")
    return StepStats(*(_number(cell, str(field.type)) for cell, field in zip(cells, fields(StepStats), strict=False)))


def _number(cell: str, kind: str) -> Any:
    """A number, of kind "int" or "float"; raises ValueError. A spreadsheet may have written 7.5E+9 for an integer."""
    try:
        return int(float(cell)) if kind == "int" else float(cell)
    except (ValueError, OverflowError):
        raise ValueError(f"{cell[:40]!r} where a number should be") from None


def _rows(path: Path) -> list[str]:
    """The lines after the header, without one that a kill tore: what follows the last newline. Raises StellarError."""
    header, *lines = read_text(path, "the log").split("\n")
    if _cells(header) != _COLUMNS:
        raise StellarError(f"no log of a training run: {path}", f"its first line should be {_HEADER}")
    return lines[:-1]


def _cells(line: str) -> list[str]:
    """The cells of a row, also where a spreadsheet has quoted them."""
    return [cell.strip('"') for cell in line.rstrip("\r").split(",")]


def _cut_back(path: Path, last: int) -> set[int]:
    """Make the CSV at `path` one that ends with step `last`; returns the steps that have an evaluation in it.

    Rows that cannot be read go with the later steps. Raises StellarError.
    """
    there = is_there(path) and (not path.is_file() or path.stat().st_size > 0)
    lines = [line.rstrip("\r") for line in _rows(path)] if there else []
    kept: list[str] = []
    evaluated: set[int] = set()
    for line in lines if last else []:
        with suppress(ValueError):
            row = _parsed(line)
            step = row.step if isinstance(row, StepStats) else row[0]
            if step <= last:
                kept.append(line)
                evaluated.update([] if isinstance(row, StepStats) else [step])
    text = "".join(f"{line}\n" for line in [_HEADER, *kept])
    if not there or path.read_bytes() != text.encode("utf-8"):
        atomic_text(path, text)
    return evaluated


def _warn_unwritten(path: Path, error: StellarError | OSError) -> None:
    shown = error if isinstance(error, StellarError) else explain(error, path, "write")
    warn(f"{shown.message}; training goes on without it")


class _Growing:
    """A file that grows by whole pieces; what does not fit now, on a full disk, is written with a later piece."""

    def __init__(self, path: Path, mode: str) -> None:
        self._path = path
        self._file: io.FileIO = path.open(mode, buffering=0)  # type: ignore[assignment] # mode is a binary one
        self._size = self._file.seek(0, io.SEEK_END)
        self._waiting = bytearray()
        self._told = False

    def add(self, piece: bytes) -> None:
        """Write a piece, or keep it where that fails; the first failure is said."""
        self._waiting += piece
        written = 0
        try:
            while written < len(self._waiting):
                written += self._file.write(bytes(self._waiting[written:]))
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(self._size)  # no half row may stand before the next
            if not self._told:
                self._told = True
                shown = explain(error, self._path, "write").message
                warn(f"{shown}; training goes on, and the log is completed as soon as it can be")
            return
        self._size += written
        self._waiting.clear()

    def close(self) -> None:
        with suppress(OSError):
            self._file.close()


class _Events:
    """A TensorBoard event file, written record by record in this thread.

    torch's SummaryWriter writes in another thread and up to two minutes later: a kill would lose what is before
    a checkpoint, and a full disk ends that thread with a traceback.
    """

    def __init__(self, folder: Path, purge_step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary, self._records = Event, Summary, RecordWriter
        folder.mkdir(parents=True, exist_ok=True)
        seconds, rest = divmod(time.time_ns(), 10**9)  # readers take a folder's files in the order of their names
        self._file = _Growing(folder / f"events.out.tfevents.{seconds:010d}.{rest:09d}", "xb")
        self._add(Event(wall_time=time.time(), file_version="brain.Event:2"))
        # Readers drop what earlier files say of this step and later ones.
        self._add(Event(wall_time=time.time(), step=purge_step, session_log=SessionLog(status=SessionLog.START)))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write the values that a step has, by their tags."""
        summary = self._summary(value=[self._summary.Value(tag=tag, simple_value=v) for tag, v in values.items()])
        self._add(self._event(wall_time=time.time(), step=step, summary=summary))

    def _add(self, event: Any) -> None:
        record = io.BytesIO()
        self._records(record).write(event.SerializeToString())
        self._file.add(record.getvalue())

    def close(self) -> None:
        self._file.close()
