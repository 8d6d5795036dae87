"""Which samples make up each optimizer step of a run: a pure function of its settings.

Nothing is kept from one step to the next, so a run that goes on after a kill sees what it would have seen, and
every process of a distributed run knows the whole. Knows lengths, not samples.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

_GROUP = 50  # batches in a group that is sorted by length: enough for even lengths, few enough to stay random


class Steps(Sequence[list[int]]):
    """The steps of a run in order; each is the indexes of its samples. The last step of a pass may be smaller."""

    def __init__(
        self, lengths: Sequence[int], batch_size: int, epochs: float, max_steps: int, seed: int, by_length: bool
    ) -> None:
        self._lengths, self._batch, self._seed, self._by_length = lengths, batch_size, seed, by_length
        self.per_epoch = math.ceil(len(lengths) / batch_size)
        self._count = max_steps or math.ceil(epochs * self.per_epoch)
        self._epoch, self._order = -1, list[list[int]]()

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> list[int]:  # type: ignore[override] # one step, no slices
        if not 0 <= index < self._count:
            raise IndexError(index)
        epoch, place = divmod(index, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._batches(epoch)
        return self._order[place]

    @property
    def epochs(self) -> float:
        """The passes over the data that the run makes: not always what was asked, as a step is never cut."""
        return round(self._count / self.per_epoch, 2)

    def ends_epoch(self, done: int) -> bool:
        """Whether a pass over the data, or the run, is complete after `done` steps."""
        return done % self.per_epoch == 0 or done == self._count

    def _batches(self, epoch: int) -> list[list[int]]:
        draw = random.Random(self._seed * 1_000_003 + epoch)
        order = list(range(len(self._lengths)))
        draw.shuffle(order)
        size = self._batch
        if not self._by_length:
            return [order[start : start + size] for start in range(0, len(order), size)]
        batches = []
        for start in range(0, len(order), size * _GROUP):
            group = sorted(order[start : start + size * _GROUP], key=self._lengths.__getitem__, reverse=True)
            batches += [group[at : at + size] for at in range(0, len(group), size)]
        draw.shuffle(batches)
        # The longest first: what does not fit into memory shows itself at once, not hours later.
        longest = max(range(len(batches)), key=lambda i: max(self._lengths[j] for j in batches[i]))
        batches[0], batches[longest] = batches[longest], batches[0]
        return batches
