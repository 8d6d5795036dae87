"""The merged model as a Hugging Face folder, as one output of the pass: weights, the files around them, a record.

The folder is built under a temporary name, survives a kill there, and gets its own when it is complete.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stellar_local.console import say
from stellar_local.errors import UsageError
from stellar_local.files import ensure_folder, exclusive, explain, partial_path, sha256

from .fingerprint import tool_versions
from .hf import stored_dtype, write_json, write_surroundings
from .job import Job
from .llama import EMBEDDING, OUTPUT, Shape
from .tensor_file import JOURNAL_SUFFIX
from .weights_out import WeightsStream

RECORD = "merge.json"


class MergedFolder:
    """The folder `path`. `finished` says, once it is locked, that an earlier run with the same inputs made it."""

    def __init__(self, path: Path, job: Job) -> None:
        self.path, self._job = path, job
        tensors = job.shape.tensors()
        chosen = job.order.hf_dtype
        self._dtype = stored_dtype(chosen) if chosen else _base_dtype(job)
        self._inputs = f"{job.inputs} {self._dtype}"
        self.finished = False
        self._temporary = partial_path(path.absolute())
        self._weights = WeightsStream(self._temporary, tensors, self._dtype, self._inputs)
        self.form, self.write, self.end_tensor = self._weights.form, self._weights.write, self._weights.end_tensor

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from writing this folder, and look what it holds.

        Raises StellarError: UsageError if another run made it, or if it holds anything else.
        """
        path = self.path.absolute()
        ensure_folder(path.parent)
        with exclusive(path.with_name(f".{path.name}.lock"), path):
            self.finished = self._is_finished()
            yield

    def take_up(self) -> None:
        """Find what an earlier run left and may be kept; anything else of it is removed. Raises StellarError."""
        temporary = self._temporary
        ours = not temporary.exists() or (temporary / JOURNAL_SUFFIX).exists()
        if not ours and not (temporary.is_dir() and not any(temporary.iterdir())):
            raise UsageError(f"{temporary} is in the way", "choose another folder for --hf, or remove that one")
        try:
            if not self._weights.take_up() and temporary.exists():
                shutil.rmtree(temporary)
        except OSError as error:
            raise explain(error, self._temporary, "remove") from error

    def open(self) -> None:
        """Begin writing, or go on. Raises StellarError."""
        try:
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
        held = Shape.from_config(job.base.config).vocabulary
        # The others' copies of the tokenizer lack the tokens that these added.
        enlarging = [
            adapter.folder
            for adapter, _ in job.adapters
            if max(adapter.rows_of(name, held) for name in (EMBEDDING, OUTPUT)) > held
        ]
        try:
            self._weights.finish()
            write_surroundings(
                self._temporary,
                job.base,
                self._dtype,
                job.template,
                job.vocabulary.adds_bos,
                job.shape,
                enlarging,
            )
            record = {
                "inputs": self._inputs,
                "base": job.base_name,
                "adapters": job.adapter_records(),
                "tools": tool_versions(),
                "files": self._weights.records(),
            }
            write_json(self._temporary / RECORD, record)
            if self.path.is_dir():
                self.path.rmdir()
            self._temporary.replace(self.path)
            self._forget()
        except OSError as error:
            raise explain(error, self.path, "write") from error

    def abandon(self) -> bool:
        """Close after an error. A folder with whole tensors stays for the next run; whether there are any."""
        self._weights.close()
        if not self.done:
            shutil.rmtree(self._temporary, ignore_errors=True)
        return self.done > 0

    def discard(self) -> None:
        """Close and remove the unfinished folder."""
        self._weights.close()
        shutil.rmtree(self._temporary, ignore_errors=True)

    def _forget(self) -> None:
        """Remove the journal, which came along with the folder."""
        (self.path / JOURNAL_SUFFIX).unlink(missing_ok=True)

    def _is_finished(self) -> bool:
        if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
            return False
        try:
            record = json.loads((self.path / RECORD).read_text(encoding="utf-8"))
            mine, files = record["inputs"] == self._inputs, dict(record["files"])
        except (OSError, ValueError, KeyError, TypeError):
            mine, files = False, {}
        if not mine:
            raise UsageError(f"{self.path} exists already", "choose another folder for --hf, or remove it")
        say(f"{self.path.name} is there; checking it")
        for name, known in files.items():
            path = self.path / Path(name).name
            if not path.is_file() or path.stat().st_size != known["size"] or sha256(path) != known["sha256"]:
                raise UsageError(
                    f"{path} is not as it was written any more", f"remove {self.path} to have it written again"
                )
        self._forget()
        return True


def _base_dtype(job: Job) -> str:
    found = job.base.source(job.shape.tensors()[0].name).dtype
    return "F32" if found == "F64" else found
