"""What is done with a memory between requests: how much of a text it holds, and moving the later part of one up.

Knows sequences and tokens; nothing of requests. All of it is for when none runs.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import StellarError
from ..native.context import Chunk, Context
from .memory import Memory
from .prefixes import Prefixes
from .request import Adapters


class Kept:
    """The memory of a context as what finished requests have left there."""

    def __init__(self, context: Context, memory: Memory, prefixes: Prefixes) -> None:
        self._context, self._memory, self._prefixes = context, memory, prefixes

    def _longest(self, tokens: Sequence[int], adapters: Adapters) -> tuple[int, int]:
        """The sequence that begins with most of these tokens, -1 if none does, and how many."""
        return self._prefixes.longest([*tokens, -1], adapters)  # which leaves out the last: here, what is no token

    def held(self, tokens: Sequence[int], adapters: Adapters) -> int:
        """How many of these tokens, from the first on, are in memory."""
        return self._longest(tokens, adapters)[1]

    def shift(self, tokens: Sequence[int], start: int, count: int, adapters: Adapters) -> bool:
        """Take `count` tokens from `start` on out of a sequence that begins with these up to there, moving up what
        follows. False if none does. Raises StellarError where llama.cpp cannot.
        """
        sequence, shared = self._longest(tokens, adapters)
        if not 0 <= start < start + count <= shared:
            return False
        self._memory.shift(sequence, start, count)
        self._settle(sequence)
        return True

    def _settle(self, sequence: int) -> None:
        """Have done what the next decode would do first, by one of a token for nothing.

        In a request's it might be cut short half-way, which llama.cpp does not notice: it would turn keys twice.
        """
        held = self._memory.tokens[sequence]
        try:
            self._context.decode([Chunk(sequence, len(held), [0])])
        finally:
            ended = self._context.settled
            self._memory.truncate(sequence, len(held) if ended else 0)
        if not ended:
            raise StellarError("llama.cpp could not move what the context holds", "the conversation is read again")
