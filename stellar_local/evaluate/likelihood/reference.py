"""The model that others are compared with: its log-probabilities at scored places, kept on disk for a while.

One model is in memory at a time. Rows are float32: 131 MB for 1,024 places of a vocabulary of 32,000, 525 MB for
LLaMA 3's. Knows the file of rows and who made it; draws no figures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from ...engine import Answer
from ...engine.likelihood import divergence, log_softmax
from ...errors import ExitCode, StellarError
from ...files import explain
from ...runtime import Runtime
from ..asking import Expand, Item, Score
from ..measuring import Measurement, logged
from ..results import Metric, log_path
from .passages import Part, Passage, parts_of

PLACES = 1024  # tokens that levels are compared at
_BLOCK = 16  # rows at once: of 128,000 tokens each takes 4 MB of numbers in between

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Place:
    """Where the rows of a part begin in the file, how many there are, and the digest of the tokens they follow."""

    at: int
    count: int
    digest: str


class Rows:
    """The rows of a file, float32 [places, n_vocab], by the parts they belong to. Close it before the file goes."""

    def __init__(self, path: Path, places: Mapping[str, Place], n_vocab: int) -> None:
        self._places, self._n_vocab = places, n_vocab
        total = max(place.at + place.count for place in places.values())
        try:
            if path.stat().st_size < 4 * total * n_vocab:
                raise StellarError(f"the file of log-probabilities is damaged: {path}", "remove it and run again")
            self._rows: Logits | None = np.memmap(path, np.float32, "r", shape=(total, n_vocab))
        except OSError as error:
            raise explain(error, path, "read") from error

    def has(self, part: Part, n_vocab: int) -> bool:
        """Whether there are rows for exactly these tokens after exactly that prompt, of this vocabulary."""
        place = self._places.get(part.key)
        return place is not None and n_vocab == self._n_vocab and place.digest == part.digest(place.count)

    def compare(self, key: str, at: int, logits: Logits) -> tuple[float, int, int]:
        """Logits of a part from its scored token `at` on against its rows: KL divergence in nats, summed; how many
        likeliest tokens are the same; and how many there are rows for.
        """
        assert self._rows is not None
        place = self._places[key]
        count = max(0, min(len(logits), place.count - at))
        nats, same = 0.0, 0
        for start in range(0, count, _BLOCK):
            end = min(start + _BLOCK, count)
            own = self._rows[place.at + at + start : place.at + at + end]
            found, equal = divergence(own, log_softmax(logits[start:end]))
            nats, same = nats + float(found.sum()), same + int(equal.sum())
        return nats, same, count

    def close(self) -> None:
        """Let go of the file: some systems remove none that is mapped."""
        self._rows = None


class _Keeping:
    """The task that fills the file of rows: one item that becomes as many as there are places for."""

    name = "reference"

    def __init__(self, passages: Sequence[Passage], places: int, system: str | None, data: Sequence[Path]) -> None:
        self._passages, self._places, self._system, self.data = passages, places, system, data
        self._file: IO[bytes] | None = None
        self.path = Path()
        self.problem: StellarError | None = None  # the first of a passage that gave no part

    @property
    def settings(self) -> dict[str, Any]:
        chunks = sorted({passage.chunk for passage in self._passages})
        passages = [passage.key for passage in self._passages]
        return {"places": self._places, "system": self._system, "passages": passages, "chunks": chunks}

    def items(self) -> Sequence[Item]:
        return [Expand("reference", self._expanded)]

    def _expanded(self, runtime: Runtime) -> list[Score]:
        if self._file is None:
            try:
                self.path.touch()
                self._file = self.path.open("r+b", buffering=0)
            except OSError as error:
                raise explain(error, self.path, "write") from error
        found: list[Score] = []
        at = 0
        for part in self._parts(runtime):
            count = min(part.scored, self._places - at)
            begun = replace(part, tokens=part.tokens[: len(part.tokens) - part.scored + count], scored=count)
            about = {"part": part.key, "at": at, "count": count, "digest": part.digest(count)}
            about["n_vocab"] = runtime.model.n_vocab
            found.append(Score(f"reference#{len(found)}", begun.made, self._look(at), about))
            at += count
            if at >= self._places:
                break
        return found

    def _parts(self, runtime: Runtime) -> Iterator[Part]:
        """Parts by turns of the languages, so that a few places are of both, made as they are asked for."""
        languages = list(dict.fromkeys(passage.language for passage in self._passages))
        waiting = [self._of_language(language, runtime) for language in languages]
        while waiting:
            for parts in list(waiting):
                part = next(parts, None)
                if part is None:
                    waiting.remove(parts)
                else:
                    yield part

    def _of_language(self, language: str, runtime: Runtime) -> Iterator[Part]:
        for passage in self._passages:
            if passage.language == language:
                try:
                    yield from parts_of(passage, runtime, self._system)
                except StellarError as error:  # it is told of where it is measured
                    self.problem = self.problem or error

    def _look(self, start: int) -> Any:
        def look(at: int, logits: Logits) -> None:
            try:
                assert self._file is not None
                self._file.seek(4 * (start + at) * logits.shape[1])
                for first in range(0, len(logits), _BLOCK):
                    data = memoryview(log_softmax(logits[first : first + _BLOCK]).tobytes())
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
    """The reference's rows, None where a signal with this `code` ended the run."""

    rows: Rows | None
    folder: Path
    code: ExitCode | None = None

    def discard(self) -> None:
        """Remove the files: everything has been compared."""
        if self.rows is not None:
            self.rows.close()
        with suppress(OSError):
            for file in (*self.folder.glob("*.f32"), *self.folder.glob("reference--*")):
                file.unlink(missing_ok=True)
            self.folder.rmdir()


def keep(
    model: Path, how: Measurement, passages: Sequence[Passage], places: int, system: str | None, data: Sequence[Path]
) -> Kept:
    """Run the reference, without --lora, over as many passages as `places` hold. Raises StellarError, also where
    nothing was kept. No other process may do so in the same folder.
    """
    task = _Keeping(passages, places, system, data)
    folder = how.out / ".reference"
    flags = {**how.flags, "lora": (), "level": None}
    own = replace(how, models=[model], labels=(), out=folder, hashes=how.out, flags=flags, limit=None, all_levels=False)
    task.path = log_path(folder, "rows", model.name).with_suffix(".f32")
    try:
        one = next(iter(logged(task, own)))
    finally:
        task.close()
    if isinstance(one, StellarError):
        raise one
    if one.code is not None:
        return Kept(None, folder, one.code)
    if one.failed:  # what is compared with must be whole; the same command tries again
        raise StellarError(f"the reference {one.subject.label} failed: {one.failed[0]['error']['message']}")
    made = [record for record in one.records if "part" in record]
    if not made:
        why = task.problem or StellarError(f"{model} gave nothing to compare with", "see what is said of it above")
        raise why
    found = {record["part"]: Place(record["at"], record["count"], record["digest"]) for record in made}
    return Kept(Rows(task.path, found, made[0]["n_vocab"]), folder)
