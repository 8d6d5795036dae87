"""The merged model as a Hugging Face folder, as one output of the pass: weights, the files around them, a record.

The folder is built under a temporary name, survives a kill there, and gets its own when it is complete.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stellar_local.errors import UsageError
from stellar_local.files import ensure_folder, exclusive, explain, partial_path

from .fingerprint import tool_versions
from .hf import stored_dtype, write_json, write_surroundings
from .job import Job
from .weights_out import WeightsStream

RECORD = "merge.json"


class MergedFolder:
    """The folder `path`. `finished` says that an earlier run with the same inputs made it; raises UsageError if another
    one did, or if it holds anything else.
    """

    def __init__(self, path: Path, job: Job) -> None:
        self.path, self._job = path, job
        tensors = job.shape.tensors()
        chosen = job.order.hf_dtype
        self._dtype = stored_dtype(chosen) if chosen else _base_dtype(job)
        self._inputs = f"{job.inputs} {self._dtype}"
        self.finished = self._is_finished()
        self._temporary = partial_path(path.absolute())
        self._weights = WeightsStream(self._temporary, tensors, self._dtype, self._inputs)
        self.form, self.write, self.end_tensor = self._weights.form, self._weights.write, self._weights.end_tensor

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from writing this folder. Raises StellarError."""
        path = self.path.absolute()
        ensure_folder(path.parent)
        with exclusive(path.with_name(f".{path.name}.lock"), path):
            yield

    def take_up(self) -> None:
        """Find what an earlier run left and may be kept. Raises StellarError."""
        self._weights.take_up()

    def open(self) -> None:
        """Begin writing, or go on. Raises StellarError."""
        try:
            if not self.done and self._temporary.exists():
                shutil.rmtree(self._temporary)
            self._temporary.mkdir(exist_ok=True)
        except OSError as error:
            raise explain(error, self._temporary, "write") from error
        self._weights.open()

    @property
    def done(self) -> int:
        """How many tensors are complete."""
        return self._weights.done

    @property
    def missing(self) -> int:
        """How many bytes are still to be written."""
        return self._weights.missing

    def finish(self) -> None:
        """Write what belongs beside the weights, and give the folder its name. Raises StellarError."""
        job = self._job
        try:
            self._weights.finish()
            write_surroundings(
                self._temporary,
                job.base,
                self._dtype,
                job.template,
                job.vocabulary.adds_bos,
                job.shape,
                [adapter.folder for adapter, _ in job.adapters],
            )
            record = {
                "inputs": self._inputs,
                "base": job.base.folder.resolve().name,
                "adapters": [
                    {"name": adapter.folder.resolve().name, "weight": weight} for adapter, weight in job.adapters
                ],
                "tools": tool_versions(),
            }
            write_json(self._temporary / RECORD, record)
            self._weights.forget()
            if self.path.is_dir():
                self.path.rmdir()
            self._temporary.replace(self.path)
        except OSError as error:
            raise explain(error, self.path, "write") from error

    def abandon(self, keep_work: bool) -> bool:
        """Close after an error; the unfinished folder stays for the next run if there is something to keep."""
        self._weights.close()
        kept = keep_work and bool(self.done)
        if not kept:
            shutil.rmtree(self._temporary, ignore_errors=True)
        return kept

    def _is_finished(self) -> bool:
        if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
            return False
        try:
            if json.loads((self.path / RECORD).read_text(encoding="utf-8"))["inputs"] == self._inputs:
                return True
        except (OSError, ValueError, KeyError, TypeError):
            pass
        raise UsageError(f"{self.path} exists already", "choose another folder for --hf, or remove it")


def _base_dtype(job: Job) -> str:
    found = job.base.source(job.shape.tensors()[0].name).dtype
    return "F32" if found == "F64" else found
