"""The output folder of a run: whose run it is, how far it got, and the files it ends with.

A run is known by its fingerprint: the settings that decide the adapter, and hashes of what they name. While it
works, `checkpoints/` holds the fingerprint, the last complete checkpoint and the best adapter so far; when it is
done, `training.json` does.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stellar_local.errors import ModelError, UsageError
from stellar_local.files import atomic_file, atomic_text, ensure_folder, read_text, sha256

from .adapter import ADAPTER_CONFIG, ADAPTER_FILES, ADAPTER_WEIGHTS
from .config import TrainConfig

RECORD, TEMPLATE, CHECKPOINTS = "training.json", "template.json", "checkpoints"
LOG, EVENTS, CURVE = "log.csv", "tensorboard", "loss.png"
_RUN, _COURSE, _BEST, _COMPLETE, _PREFIX = "run.json", "course.json", "best", "complete", "checkpoint-"
_PARTS = (_COURSE, ADAPTER_WEIGHTS, "optimizer.pt", "scheduler.pt", "trainer_state.json")
_HASHED = ("data", "val_data", "template", "base_config", "resume_from_checkpoint")
_OVERWRITE = "give another --out, or --overwrite to start anew"


def fingerprint(config: TrainConfig, template_source: str) -> dict[str, Any]:
    """What decides the adapter: settings and the hashes of data, template, base configuration and starting weights."""
    run = {
        **config.deciding(),
        "base": str(config.base.resolve()),
        "data": sha256(config.data),
        "template": hashlib.sha256(template_source.encode()).hexdigest(),
        "base_config": sha256(config.base / "config.json"),
    }
    if config.val_data is not None:
        run["val_data"] = sha256(config.val_data)
    if run["resume_from_checkpoint"]:
        folder = Path(config.resume_from_checkpoint)
        run["resume_from_checkpoint"] = next(
            (sha256(folder / name) for name in ADAPTER_FILES if (folder / name).is_file()), str(folder)
        )
    return run


class RunFolder:
    """One run's output folder, opened with the run's fingerprint."""

    def __init__(self, out: Path, run: Mapping[str, Any]) -> None:
        self.out, self.checkpoints = out, out / CHECKPOINTS
        self._run = dict(run)
        self._overwrite = False

    def open(self, overwrite: bool) -> bool:
        """Check the folder; returns True if this very run is already finished there.

        Raises UsageError if it holds another run or another adapter (which `overwrite` removes), StellarError if
        it cannot be written to.
        """
        ensure_folder(self.out)
        self._overwrite = overwrite
        if overwrite:
            return False
        finished = _read(self.out / RECORD)
        started = _read(self.checkpoints / _RUN)
        if finished is not None or started is not None:
            other = self._difference(started or {} if finished is None else finished.get("run", {}))
            if other and (finished is not None or self.last_checkpoint() is not None):  # else nothing would be lost
                raise UsageError(f"{self.out} holds another run: {other}", f"repeat its options, or {_OVERWRITE}")
        elif (self.out / ADAPTER_WEIGHTS).exists() or (self.out / ADAPTER_CONFIG).exists():
            raise UsageError(f"{self.out} already holds an adapter", _OVERWRITE)
        if finished is not None and (self.out / ADAPTER_WEIGHTS).is_file():
            self.discard_checkpoints()
            return True
        return False

    def begin(self) -> None:
        """Note whose run this is, before its first checkpoint: not earlier, so that a refused run leaves nothing.

        With `overwrite`, what was there goes only now, when base, data and modules are known to be right.
        """
        if self._overwrite:
            self._clear()
        ensure_folder(self.checkpoints)
        atomic_text(self.checkpoints / _RUN, json.dumps(self._run, ensure_ascii=False, indent=1))

    def _difference(self, run: Mapping[str, Any]) -> str:
        """The first setting in which `run` differs from this one, in words; "" if there is none."""
        for key in sorted(self._run.keys() | run.keys()):
            if self._run.get(key) != run.get(key):
                hashed = key in _HASHED
                return f"its {key} differs" if hashed else f"its {key} is {run.get(key)}, not {self._run.get(key)}"
        return ""

    def last_checkpoint(self) -> Path | None:
        """The newest checkpoint that was written completely; what a killed run left unfinished is removed."""
        found = [path for path in self.checkpoints.glob(f"{_PREFIX}*") if path.is_dir()]
        complete = [path for path in found if (path / _COMPLETE).is_file()]
        for path in set(found) - set(complete):
            shutil.rmtree(path, ignore_errors=True)
        return max(complete, key=step_of, default=None)

    def commit(self, step: int, course: Mapping[str, Any]) -> None:
        """Mark the checkpoint of `step` as complete, once its files are on the disk, and remove older ones.

        `course` is what the run needs to know beside the Trainer's own state, as JSON values.
        """
        current = self.checkpoints / f"{_PREFIX}{step}"
        atomic_text(current / _COURSE, json.dumps(course))
        for path in current.rglob("*"):
            if path.is_file():
                with path.open("rb+") as handle:
                    os.fsync(handle.fileno())
        atomic_text(current / _COMPLETE, "")
        for path in self.checkpoints.glob(f"{_PREFIX}*"):
            if path != current:
                shutil.rmtree(path, ignore_errors=True)

    def course(self, checkpoint: Path) -> dict[str, Any]:
        """What `commit` was given with this checkpoint. Raises ModelError where it is damaged or a part is missing."""
        check_parts(checkpoint)
        return _read(checkpoint / _COURSE) or {}

    def dtype(self) -> str:
        """The precision of the base in which this run began; "" where it is still to begin."""
        last = None if self._overwrite else self.last_checkpoint()
        return str(self.course(last).get("dtype", "")) if last else ""

    @property
    def best(self) -> Path:
        """Where the best adapter so far is kept, once there is one."""
        return self.checkpoints / _BEST

    def keep_best(self, save: Callable[[Path], None]) -> None:
        """Let `save` write the best adapter so far, and put it in the last one's place once it is complete."""
        fresh, old = self.checkpoints / f"{_BEST}.new", self.checkpoints / f"{_BEST}.old"
        shutil.rmtree(fresh, ignore_errors=True)
        save(ensure_folder(fresh))
        shutil.rmtree(old, ignore_errors=True)
        if self.best.exists():
            self.best.replace(old)
        fresh.replace(self.best)
        shutil.rmtree(old, ignore_errors=True)

    def finish(self, adapter: Path, template_source: str, record: Mapping[str, Any]) -> None:
        """Copy the verified adapter into place, then write template.json, and training.json last of all.

        Copied, not moved: a run that is killed before the end needs the best adapter once more.
        """
        for name in (ADAPTER_WEIGHTS, ADAPTER_CONFIG):
            with atomic_file(self.out / name) as temporary:
                shutil.copyfile(adapter / name, temporary)
        atomic_text(self.out / TEMPLATE, template_source)
        text = json.dumps({**record, "run": self._run}, ensure_ascii=False, indent=1)
        atomic_text(self.out / RECORD, text + "\n")
        self.discard_checkpoints()

    def discard_checkpoints(self) -> None:
        """Remove everything that only an unfinished run needs."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)

    def _clear(self) -> None:
        """Remove what a run of ours leaves, and nothing else that may be in the folder."""
        for name in (RECORD, ADAPTER_WEIGHTS, ADAPTER_CONFIG, TEMPLATE, LOG, CURVE):
            (self.out / name).unlink(missing_ok=True)
        for path in (self.out / EVENTS).glob("events.out.tfevents.*"):
            path.unlink(missing_ok=True)
        self.discard_checkpoints()


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder holds a whole checkpoint of a run of ours."""
    return (folder / _COMPLETE).is_file() and step_of(folder) > 0


def check_parts(checkpoint: Path) -> None:
    """Raise ModelError where a part is missing: Transformers would go on, silently and to another result."""
    if missing := [name for name in _PARTS if not (checkpoint / name).is_file()]:
        raise ModelError(f"the checkpoint lacks {missing[0]}: {checkpoint}", "begin anew with --overwrite")


def step_of(checkpoint: Path) -> int:
    """The optimizer step a checkpoint was written after; -1 for what has no checkpoint's name."""
    number = checkpoint.name.removeprefix(_PREFIX)
    return int(number) if number.isdigit() else -1


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        data = json.loads(read_text(path, "record of a run", errors="replace"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"the record of a run is damaged: {path}", _OVERWRITE) from error
    return data if isinstance(data, dict) else {}
