"""The model that others are compared with: its log-probabilities at every scored place, kept on disk for a while.

One model is in memory at a time. Rows are float32: 131 MB for 1,024 places of a vocabulary of 32,000, 525 MB for
LLaMA 3's. Knows the file of rows and who made it; draws no figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from ...engine import Answer
from ...engine.likelihood import divergence, log_softmax
from ...errors import ExitCode, RequestError, StellarError
from ...files import explain
from ...runtime import Runtime
from ..asking import Expand, Item, Score
from ..measuring import Measurement, logged
from ..results import Metric, log_path
from .passages import Part, Passage, parts_of

PLACES = 1024  # tokens that levels are compared at


class Rows:
    """The rows of a file, float32 [places, n_vocab], by the parts they belong to."""

    def __init__(self, path: Path, places: Mapping[str, tuple[int, tuple[int, ...]]], n_vocab: int) -> None:
        self._places = places
        total = max((at + len(tokens) for at, tokens in places.values()), default=0)
        try:
            whole = path.stat().st_size >= 4 * total * n_vocab
            self._rows = np.memmap(path, np.float32, "r", shape=(total, n_vocab)) if whole and total else None
        except OSError as error:
            raise explain(error, path, "read") from error
        if self._rows is None:
            raise StellarError(f"the file of log-probabilities is damaged: {path}", "remove it and run again")

    def has(self, part: Part) -> bool:
        """Whether there are rows for exactly these tokens."""
        found = self._places.get(part.key)
        return found is not None and found[1] == part.tokens[-part.scored :]

    def compare(self, key: str, at: int, logits: npt.NDArray[np.float32]) -> tuple[float, int]:
        """KL divergence of these logits from the rows of a part from its place `at` on, in nats and summed, and how
        many likeliest tokens are the same. Raises RequestError for another vocabulary.
        """
        assert self._rows is not None
        if logits.shape[1] != self._rows.shape[1]:
            raise RequestError(
                "other_vocabulary", "the reference has another vocabulary", "compare levels of one model"
            )
        start = self._places[key][0] + at
        found, same = divergence(self._rows[start : start + len(logits)], log_softmax(logits))
        return float(found.sum()), int(same.sum())


class _Keeping:
    """The task that fills the file of rows: one item that becomes as many as there are places for."""

    name = "reference"

    def __init__(self, passages: Sequence[Passage], places: int, system: str | None, data: Sequence[Path]) -> None:
        self._passages, self._places, self._system, self.data = passages, places, system, data
        self._file: IO[bytes] | None = None
        self.path = Path()
        self.n_vocab = 0

    @property
    def settings(self) -> dict[str, Any]:
        return {"places": self._places, "system": self._system, "passages": len(self._passages)}

    def items(self) -> Sequence[Item]:
        return [Expand("reference", self._expanded)]

    def _expanded(self, runtime: Runtime) -> list[Score]:
        self.n_vocab = runtime.model.n_vocab
        if self._file is None:
            try:
                self.path.touch()
                self._file = self.path.open("r+b", buffering=0)
            except OSError as error:
                raise explain(error, self.path, "write") from error
        found: list[Score] = []
        at = 0
        for part in self._parts(runtime):
            if at + part.scored > self._places and found:
                break
            about = {"part": part.key, "at": at, "tokens": part.tokens[-part.scored :], "n_vocab": self.n_vocab}
            found.append(Score(f"reference#{len(found)}", part.made, self._look(at), about))
            at += part.scored
        return found

    def _parts(self, runtime: Runtime) -> list[Part]:
        """Parts by turns of the languages, so that a few places are of both."""
        by_language: dict[str, list[Part]] = {}
        for passage in self._passages:
            with suppress(StellarError):  # it is told of where it is measured
                by_language.setdefault(passage.language, []).extend(parts_of(passage, runtime, self._system))
        turns = [(number, part) for parts in by_language.values() for number, part in enumerate(parts)]
        return [part for _, part in sorted(turns, key=lambda pair: pair[0])]

    def _look(self, start: int) -> Any:
        def look(at: int, logits: npt.NDArray[np.float32]) -> None:
            data = memoryview(log_softmax(logits).tobytes())
            try:
                assert self._file is not None
                self._file.seek(4 * (start + at) * logits.shape[1])
                while data:
                    data = data[self._file.write(data) :]
            except OSError as error:
                raise explain(error, self.path, "write") from error

        return look

    def record(self, item: Score, outcome: Answer) -> dict[str, Any]:
        return dict(item.about)

    def summarise(self, records: Sequence[Mapping[str, Any]]) -> tuple[list[Metric], list[str]]:
        return [], []

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


@dataclass(frozen=True)
class Kept:
    """What is known of the reference: its rows, None where a signal ended the run; its label and its file's SHA-256."""

    rows: Rows | None
    label: str
    sha256: str
    folder: Path
    code: ExitCode | None = None

    def discard(self) -> None:
        """Remove the files: everything has been compared."""
        for file in (*self.folder.glob("*.f32"), *self.folder.glob("reference--*"), self.folder / ".hashes.json"):
            file.unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()


def keep(
    model: Path, how: Measurement, passages: Sequence[Passage], places: int, system: str | None, data: Sequence[Path]
) -> Kept:
    """Run the reference over as many passages as `places` hold. Raises StellarError, also where nothing was kept."""
    task = _Keeping(passages, places, system, data)
    folder = how.out / ".reference"
    own = replace(how, models=[model], labels=(), out=folder, limit=None, all_levels=False)
    task.path = log_path(folder, "rows", own.models[0].name).with_suffix(".f32")
    try:
        one = next(iter(logged(task, own)))
    finally:
        task.close()
    if isinstance(one, StellarError):
        raise one
    digest = str(one.header["model"]["sha256"])
    if one.code is not None:
        return Kept(None, one.subject.label, digest, folder, one.code)
    made = {record["part"]: (record["at"], tuple(record["tokens"])) for record in one.records if "part" in record}
    if not made:
        raise StellarError(f"{model} gave nothing to compare with", "see what is said of it above")
    n_vocab = next(record["n_vocab"] for record in one.records if "part" in record)
    return Kept(Rows(task.path, made, n_vocab), one.subject.label, digest, folder)
