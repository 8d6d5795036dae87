"""What sequences keep after their requests have ended, and which of it a new request can share.

Knows tokens and cells, and with which adapters they were computed; which request runs when is the scheduler's affair.
"""

from __future__ import annotations

from collections.abc import Iterable

from .memory import Memory, shared_length
from .request import Adapters

_WORTH_COPYING = 32  # of a sequence with memory of its own: a prefix of less than a 32nd is sooner computed again


class Prefixes:
    """The sequences of a memory as a store of prefixes. A shared prefix ends at a multiple of `alignment` tokens."""

    def __init__(self, memory: Memory, unified: bool, capacity: int, alignment: int = 1) -> None:
        self._memory, self._unified, self._capacity, self._alignment = memory, unified, capacity, alignment
        self._adapters: list[Adapters] = [()] * len(memory.tokens)  # with which each was computed
        self._used = [0] * len(memory.tokens)  # when it was last used
        self._clock = 0

    def touch(self, sequence: int) -> None:
        """Note that a sequence is of use."""
        self._clock += 1
        self._used[sequence] = self._clock

    def longest(self, tokens: list[int], adapters: Adapters) -> tuple[int, int]:
        """The sequence that shares most of these tokens (-1: none does), and how many.

        The last token is never shared: it must be decoded for its logits.
        """
        best, source = 0, -1
        for sequence in sorted(range(len(self._used)), key=lambda one: -self._used[one]):
            held = self._memory.tokens[sequence]
            # To be longer, a prefix must have the token after the longest yet: most don't, which is quickly seen.
            if len(held) > best and held[best] == tokens[best] and self._adapters[sequence] == adapters:
                shared = min(shared_length(held, tokens), len(tokens) - 1)
                shared -= shared % self._alignment
                if shared > best:
                    best, source = shared, sequence
        return source, best

    def take(self, idle: Iterable[int], source: int, shared: int, adapters: Adapters) -> tuple[int, int]:
        """Make one of the idle sequences hold the first `shared` tokens of `source`: it, and how many it holds.

        It is the one whose other tokens will cost least to compute again.
        """

        def loss(sequence: int) -> tuple[int, int, int]:
            size = len(self._memory.tokens[sequence])
            if sequence == source:  # taken over, it keeps the prefix
                return size - shared, self._used[sequence], sequence
            return (self._memory.releases(sequence), self._used[sequence], sequence) if size else (0, 0, sequence)

        target = min(idle, key=loss)
        if target != source and not self._unified and shared < self._capacity // _WORTH_COPYING:
            source, shared = -1, 0
        if target == source or source < 0:
            self._memory.truncate(target, shared)
        else:
            self._memory.share(source, target, shared)
            self.touch(source)
        self._adapters[target] = adapters
        return target, shared

    def forget_one(self, idle: Iterable[int]) -> bool:
        """Forget the idle sequence that was used longest ago; false if none holds anything."""
        held = [sequence for sequence in idle if self._memory.tokens[sequence]]
        if held:
            self._memory.truncate(min(held, key=lambda one: self._used[one]), 0)
        return bool(held)
