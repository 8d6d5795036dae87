"""A context over a model: decoding batches of several sequences, their KV memory, logits, abort.

Knows llama.cpp's preconditions (each is checked here, since breaking one aborts the process); knows nothing of
requests or text. Not thread-safe: one thread decodes. `abort` alone may be called from another.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ModelError, StellarError, UsageError
from .cores import physical_cores
from .library import api, complaints, deferred_interrupt
from .model import Model

KV_TYPES = {"f16": 1, "q8_0": 8, "q4_0": 2}  # ggml_type numbers of the cache types we offer
_CELL_PADDING = 256  # llama.cpp rounds a context up to this many cells


class Decoded(Enum):
    """What became of a batch."""

    DONE = 0
    FULL = 1  # no KV cells for it; the memory is as before
    ABORTED = 2  # `abort` was called; part of the batch may be in memory


@dataclass(frozen=True)
class Entry:
    """One token to decode: its position in its sequence, and whether its logits are wanted."""

    token: int
    position: int
    sequence: int
    output: bool = False


class Context:
    """KV memory and compute buffers for up to `sequences` sequences that share `n_ctx` cells (unified memory).

    Close it before its model. Raises ModelError if llama.cpp cannot allocate it, UsageError for impossible sizes.
    """

    def __init__(
        self,
        model: Model,
        n_ctx: int,
        sequences: int = 1,
        n_batch: int = 512,
        threads: int = 0,
        kv_type: str = "f16",
    ) -> None:
        self._api = api()
        if not 0 < sequences <= self._api.llama_max_parallel_sequences():
            raise UsageError(f"between 1 and {self._api.llama_max_parallel_sequences()} sequences can run at once")
        if n_ctx <= 0:
            raise UsageError("the context must hold at least one token")
        self.model, self.sequences = model, sequences
        params = self._api.llama_context_default_params()
        params.n_ctx, params.n_seq_max, params.kv_unified = n_ctx, sequences, True
        params.n_batch = params.n_ubatch = min(n_batch, n_ctx)
        params.type_k = params.type_v = KV_TYPES[kv_type]
        params.n_threads = params.n_threads_batch = threads or physical_cores()
        params.no_perf = True
        # The abort callback runs once per graph node, so it must cost nothing: C's strlen reads our flag, a string
        # that is empty until abort() makes it one character long. No Python runs inside a decode.
        self._flag = ctypes.create_string_buffer(2)
        self._strlen = ctypes.CDLL(ctypes.util.find_msvcrt() if hasattr(ctypes.util, "find_msvcrt") else None).strlen
        params.abort_callback = ctypes.cast(self._strlen, self._api.ggml_abort_callback)
        params.abort_callback_data = ctypes.cast(self._flag, ctypes.c_void_p)
        complaints()
        self.handle: Any = None
        self._batch: Any = None
        try:
            with deferred_interrupt():
                self.handle = self._api.llama_init_from_model(model.handle, params)
        except KeyboardInterrupt:
            self.close()
            raise
        if not self.handle:
            raise ModelError(
                f"cannot create a context of {n_ctx} tokens: {complaints() or 'not enough memory'}",
                "give a smaller --ctx, or --kv q8_0",
            )
        self.n_ctx: int = self._api.llama_n_ctx(self.handle)
        self.n_batch: int = self._api.llama_n_batch(self.handle)
        self._memory: Any = self._api.llama_get_memory(self.handle)
        self._batch = self._api.llama_batch_init(self.n_batch, 0, 1)
        self._outputs: set[int] = set()

    def decode(self, entries: Sequence[Entry]) -> Decoded:
        """Run one batch of at most `n_batch` tokens. Positions continue each sequence without a gap.

        Raises StellarError on a broken precondition or an internal failure of llama.cpp.
        """
        self._check(entries)
        batch = self._batch
        batch.n_tokens = len(entries)
        for row, entry in enumerate(entries):
            batch.token[row] = entry.token
            batch.pos[row] = entry.position
            batch.n_seq_id[row] = 1
            batch.seq_id[row][0] = entry.sequence
            batch.logits[row] = entry.output
        self._outputs = set()
        complaints()
        status = self._api.llama_decode(self.handle, batch)
        if status == 0:
            self._outputs = {row for row, entry in enumerate(entries) if entry.output}
        if status < 0 or status > 2:
            raise StellarError(f"llama.cpp failed to decode (status {status}): {complaints() or 'no reason given'}")
        return Decoded(status)

    def _check(self, entries: Sequence[Entry]) -> None:
        if not 0 < len(entries) <= self.n_batch:
            raise StellarError(f"a batch holds 1 to {self.n_batch} tokens, not {len(entries)}")
        expected: dict[int, int] = {}
        for entry in entries:
            if not 0 <= entry.token < self.model.n_vocab:
                raise StellarError(f"token {entry.token} is outside the vocabulary of {self.model.n_vocab}")
            if not 0 <= entry.sequence < self.sequences:
                raise StellarError(f"sequence {entry.sequence} does not exist: there are {self.sequences}")
            position = expected.get(entry.sequence)
            if position is None:
                position = self.length(entry.sequence)
            if entry.position != position:
                raise StellarError(
                    f"position {entry.position} does not continue sequence {entry.sequence} at {position}"
                )
            expected[entry.sequence] = position + 1

    def require_output(self, row: int) -> int:
        """Return `row` if its logits were asked for in the last batch; sampling another row would abort."""
        if row not in self._outputs:
            raise StellarError(f"no logits were asked for at row {row} of the last batch")
        return row

    def logits(self, row: int) -> npt.NDArray[np.float32]:
        """A copy of the logits of a row of the last batch, float32 of shape (n_vocab,)."""
        pointer = self._api.llama_get_logits_ith(self.handle, self.require_output(row))
        return np.array(np.ctypeslib.as_array(pointer, shape=(self.model.n_vocab,)), dtype=np.float32)

    def length(self, sequence: int) -> int:
        """How many tokens of a sequence are in memory."""
        return int(self._api.llama_memory_seq_pos_max(self._memory, sequence)) + 1

    def truncate(self, sequence: int, length: int) -> None:
        """Forget a sequence's tokens from position `length` on."""
        if length < self.length(sequence):
            self._api.llama_memory_seq_rm(self._memory, sequence, length, -1)

    def copy(self, source: int, target: int) -> None:
        """Make `target` share all cells of `source`; costs no memory, since the memory is unified."""
        self.truncate(target, 0)
        self._api.llama_memory_seq_cp(self._memory, source, target, -1, -1)

    def abort(self) -> None:
        """Make a running decode return as soon as its current operation ends (CPU and Metal; CUDA ends the batch)."""
        self._flag[0] = b"x"

    def clear_abort(self) -> None:
        """Allow decoding again after `abort`."""
        self._flag[0] = b"\0"

    def close(self) -> None:
        """Free the context's memory; safe to call twice."""
        if self._batch is not None:
            self._api.llama_batch_free(self._batch)
            self._batch = None
        if self.handle:
            self._api.llama_free(self.handle)
            self.handle = None

    def __enter__(self) -> Context:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
