"""What is done with a memory between requests: how much of a text it holds, moving its later part up, files of it.

Knows sequences and tokens; nothing of requests. All of it is for when none runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import StellarError
from ..native import state
from ..native.context import Chunk, Context
from .memory import Memory, shared_length
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

    def save(
        self, path: Path, tokens: Sequence[int], adapters: Adapters, worth: Callable[[int, int], bool] | None = None
    ) -> int:
        """Write what is in memory of these tokens to a file, and forget what follows there; returns how many they are.

        0, and nothing is written, if none does, or `worth` says no to the number of those tokens and the file's size in
        bytes, or cells are still to be copied. Raises StellarError where it cannot be written.
        """
        sequence, shared = self._longest(tokens, adapters)
        if not shared or not self._context.settled:
            return 0
        self._memory.truncate(sequence, shared)  # what was taken back is nobody's business any more
        if worth and not worth(shared, state.size(self._context, sequence)):
            return 0
        state.save(self._context, sequence, path, self._memory.tokens[sequence])
        return shared

    def restore(self, path: Path, tokens: Sequence[int], adapters: Adapters) -> int:
        """Take up from a file what it holds of these tokens; returns how many of them are in memory then.

        The rest of the file's is forgotten. Raises StateError if it is of no use here, and another StellarError if it
        cannot be read; the memory is sound then.
        """
        stored = state.read_tokens(self._context, path)
        shared = shared_length(stored, list(tokens))
        if shared <= (held := self.held(tokens, adapters)):
            return held
        sequence, _ = self._prefixes.take(range(len(self._memory.tokens)), -1, 0, adapters)
        while self._memory.free < len(stored):
            self._prefixes.forget_one(range(len(self._memory.tokens)))
        self._memory.append(sequence, state.load(self._context, sequence, path, self._context.capacity))
        self._memory.truncate(sequence, shared)
        self._prefixes.touch(sequence)
        return shared
