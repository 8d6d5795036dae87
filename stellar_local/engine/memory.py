"""What each sequence of a context holds: its tokens, and how many cells that takes.

A cell that several sequences share counts once, so that admission can promise the cells that are really free. Knows
tokens and cells; whose they are, and which may go, is the scheduler's affair.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..native.context import Context


def shared_length(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two sequences have in common at their beginning."""
    low, high = 0, min(len(first), len(second))
    if first[:high] == second[:high]:
        return high
    while high - low > 1:  # slices compare in C, so halving beats a loop over tokens
        middle = (low + high) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle
    return low


class Memory:
    """The KV memory of a context as lists of tokens, kept in step with llama.cpp's.

    Unified memory is one pool of cells; otherwise each sequence has a pool of its own and shares no cell.
    """

    def __init__(self, context: Context) -> None:
        self._context, self._unified = context, context.unified
        self.tokens: list[list[int]] = [[] for _ in range(context.sequences)]
        self._cells: list[list[int]] = [[] for _ in range(context.sequences)]
        self._users = [0] * context.n_ctx
        self._free = list(range(context.n_ctx)) if self._unified else []

    @property
    def free(self) -> int:
        """Cells that hold nothing, which any sequence may take. In separate memory nobody competes: all of them."""
        return len(self._free) if self._unified else len(self._users)

    def append(self, sequence: int, tokens: Sequence[int]) -> None:
        """A sequence was decoded further by these tokens. There must be as many free cells."""
        if self._unified:
            cells = self._cells[sequence]
            for _ in tokens:
                cell = self._free.pop()
                self._users[cell] = 1
                cells.append(cell)
        self.tokens[sequence] += tokens

    def share(self, source: int, target: int, length: int) -> None:
        """Let `target`, whatever it held, hold the first `length` tokens of `source`, in the same cells if it can."""
        self.truncate(target, 0)
        self._context.copy(source, target, length)
        self.tokens[target] = self.tokens[source][:length]
        cells = self._cells[target] = self._cells[source][:length]
        for cell in cells:
            self._users[cell] += 1

    def truncate(self, sequence: int, length: int) -> None:
        """Keep only the first `length` tokens of a sequence, also of what a failed batch may have left behind."""
        self._context.truncate(sequence, length)
        self._forget(sequence, length, len(self.tokens[sequence]))

    def shift(self, sequence: int, start: int, count: int) -> None:
        """Take `count` tokens from `start` on out of a sequence. Raises StellarError where that cannot be.

        Others keep only what comes before in cells that they share with it: a cell has one place for all.
        """
        for other, cells in enumerate(self._cells):
            if other != sequence and not set(cells[start:]).isdisjoint(self._cells[sequence][start:]):
                self.truncate(other, start)
        self._context.shift(sequence, start, count)
        self._forget(sequence, start, start + count)

    def _forget(self, sequence: int, start: int, end: int) -> None:
        cells = self._cells[sequence]
        for cell in cells[start:end]:
            self._users[cell] -= 1
            if not self._users[cell]:
                self._free.append(cell)
        del cells[start:end], self.tokens[sequence][start:end]

    def releases(self, sequence: int) -> int:
        """Cells that would be free if the sequence were forgotten: what nobody else holds."""
        if not self._unified:
            return len(self.tokens[sequence])
        return list(map(self._users.__getitem__, self._cells[sequence])).count(1)
