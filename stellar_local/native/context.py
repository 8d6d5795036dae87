"""A context over a model: decoding batches of several sequences, their KV memory, logits, adapters, abort.

Knows llama.cpp's preconditions (each is checked here, since breaking one aborts the process); knows nothing of
requests or text. Not thread-safe: one thread decodes. `abort` alone may be called from another.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Mapping, Sequence
from enum import Enum
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import ModelError, ShortMemoryError, StellarError, UsageError
from .adapter import Adapter
from .attention import check_attention, faster_without_flash, rotates
from .cores import default_threads
from .devices import note_computing
from .library import api, complaints, deferred_interrupt, speaks_of_memory
from .model import Model
from .observe import Observer

_FLASH = {"auto": -1, "off": 0, "on": 1}  # enum llama_flash_attn_type
KV_TYPES = {"f16": 1, "q8_0": 8, "q4_0": 2}  # ggml_type numbers of the cache types we offer


class Decoded(Enum):
    """What became of a batch."""

    DONE = 0
    FULL = 1  # no KV cells for it; the memory is as before
    ABORTED = 2  # `abort` was called; part of the batch may be in memory


class Chunk(NamedTuple):
    """Tokens that continue one sequence from `position` on, and of how many of the last ones logits are wanted."""

    sequence: int
    position: int
    tokens: Sequence[int]
    outputs: int = 0


class Context:
    """KV memory and compute buffers for up to `sequences` sequences.

    With `unified` memory they share `n_ctx` cells, and may have cells in common; else each has a share of its own,
    `n_ctx` by `sequences`, which is faster to attend to, as no one looks at the others' cells. `capacity` is what one
    sequence can hold, `offloaded` whether a GPU computes, `rotated` whether keys are kept rotated. A batch holds up to
    `n_batch` tokens and asks for logits of up to `outputs` of them [default: one a sequence]; both cost compute memory.
    With `flash_attn` "auto" flash attention is used where it is faster and the devices have it; `flash` tells whether
    values lie in memory as it wants them. An `observer` sees what batches compute. Close it before its model. Raises
    ShortMemoryError if llama.cpp cannot allocate it, UsageError for impossible sizes and for a quantized cache without
    flash attention.
    """

    def __init__(
        self,
        model: Model,
        n_ctx: int,
        sequences: int = 1,
        n_batch: int = 512,
        threads: int = 0,
        kv_type: str = "f16",
        outputs: int = 0,
        unified: bool = True,
        flash_attn: str = "auto",
        observer: Observer | None = None,
    ) -> None:
        self._api, self._observer = api(), observer
        if not 0 < sequences <= self._api.llama_max_parallel_sequences():
            raise UsageError(f"between 1 and {self._api.llama_max_parallel_sequences()} sequences can run at once")
        if n_ctx <= 0:
            raise UsageError("the context must hold at least one token")
        if n_batch <= 0:
            raise UsageError("a batch must hold at least one token")
        check_attention(kv_type, flash_attn)
        self.model, self.sequences, self.unified = model, sequences, unified or sequences == 1
        self.kv_type, self.rotated = kv_type, kv_type != "f16" and rotates(model)
        self.offloaded = model.gpu_layers > 0 and bool(self._api.llama_supports_gpu_offload())
        n_batch = min(n_batch, n_ctx)
        heads = int(self._api.llama_model_n_head(model.handle))
        if flash_attn == "auto" and faster_without_flash(heads, self.offloaded, n_ctx, sequences, n_batch, kv_type):
            flash_attn = "off"
        self.flash = flash_attn != "off" and model.header.architecture != "grok"  # for which llama.cpp turns it off
        params = self._api.llama_context_default_params()
        params.n_ctx, params.n_seq_max, params.kv_unified = n_ctx, sequences, self.unified
        params.n_batch = params.n_ubatch = n_batch
        params.n_outputs_max = self.outputs = max(min(outputs, n_batch), sequences)
        params.flash_attn_type = _FLASH[flash_attn]
        params.type_k = params.type_v = KV_TYPES[kv_type]
        params.n_threads = params.n_threads_batch = threads or default_threads()
        params.no_perf = True
        if observer:
            params.cb_eval = observer.callback
        # The abort callback runs once per graph node, so it must cost nothing: C's strlen reads our flag, a string
        # that is empty until abort() makes it one character long. No Python runs inside a decode, but an observer's.
        self._flag = ctypes.create_string_buffer(2)
        self._strlen = ctypes.CDLL(ctypes.util.find_msvcrt() if hasattr(ctypes.util, "find_msvcrt") else None).strlen
        params.abort_callback = ctypes.cast(self._strlen, self._api.ggml_abort_callback)
        params.abort_callback_data = ctypes.cast(self._flag, ctypes.c_void_p)
        complaints()
        self.handle: Any = None
        self._counted = True  # in the model's contexts, until it is closed
        model.contexts += 1
        try:
            with deferred_interrupt():
                self.handle = self._api.llama_init_from_model(model.handle, params)
        except KeyboardInterrupt:
            self.close()
            raise
        if not self.handle:
            self.close()
            reason = complaints()
            raise (ShortMemoryError if not reason or speaks_of_memory(reason) else ModelError)(
                f"cannot create a context of {n_ctx} tokens: {reason or 'not enough memory'}",
                "give a smaller --ctx, or --kv q8_0",
            )
        self.n_ctx: int = self._api.llama_n_ctx(self.handle)
        self.capacity: int = self._api.llama_n_ctx_seq(self.handle)
        self.n_batch: int = self._api.llama_n_batch(self.handle)
        self._memory: Any = self._api.llama_get_memory(self.handle)
        self._lengths = [0] * sequences
        self.spoilt = False  # whether memory may hold what is no number, and whose cells flash attention does not skip
        self.settled = True  # whether `shift` and `copy` have left nothing to do for the next decode
        self._wanted = 0
        self._batch = self._new_batch()

    def _new_batch(self) -> Any:
        """A llama_batch over NumPy arrays, which are filled a column at a time: ctypes would cost µs an entry."""
        size = self.n_batch
        self._token, self._position, self._sequence = (np.zeros(size, np.int32) for _ in range(3))
        self._ones, self._output = np.ones(size, np.int32), np.zeros(size, np.int8)
        addresses = self._sequence.ctypes.data + 4 * np.arange(size, dtype=np.uintp)
        self._sequence_pointers = addresses  # each token has one sequence, so its list is one number of the column
        number = ctypes.POINTER(ctypes.c_int32)
        return self._api.llama_batch(
            n_tokens=0,
            token=self._token.ctypes.data_as(number),
            embd=None,
            pos=self._position.ctypes.data_as(number),
            n_seq_id=self._ones.ctypes.data_as(number),
            seq_id=addresses.ctypes.data_as(ctypes.POINTER(number)),
            logits=self._output.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )

    def decode(self, chunks: Sequence[Chunk]) -> Decoded:
        """Run one batch of at most `n_batch` tokens. Each chunk continues its sequence without a gap.

        The wanted logits are then in `logits`, in the chunks' order. On a GPU the work may still be going on when
        this returns; reading the logits waits for it. Raises StellarError on a broken precondition or an internal
        failure of llama.cpp, after which the memory of the batch's sequences should be thought lost.
        """
        count = self._fill(chunks)
        self._batch.n_tokens = count
        self._wanted = 0
        complaints()
        try:
            status = self._compute()
        except BaseException:
            for chunk in chunks:
                self.recount(chunk.sequence)
            raise
        if status == 0:
            self.settled = True
            for chunk in chunks:
                self._lengths[chunk.sequence] = chunk.position + len(chunk.tokens)
            self._wanted = sum(chunk.outputs for chunk in chunks)
            if not self.flash and self._wanted:  # what is no number makes all of a token's logits none
                self.spoilt = self.spoilt or bool(np.isnan(self.logits[:, 0]).any())
            return Decoded.DONE
        for chunk in chunks:
            self.recount(chunk.sequence)
        if status < 0 or status > 2:
            raise StellarError(f"llama.cpp failed to decode (status {status}): {complaints() or 'no reason given'}")
        return Decoded(status)

    def _compute(self) -> int:
        """llama_decode's status for the batch as it stands. Raises what an observer raised meanwhile."""
        if self._observer is None:
            return int(self._api.llama_decode(self.handle, self._batch))
        with deferred_interrupt():
            status = int(self._api.llama_decode(self.handle, self._batch))
        self._observer.settle()
        return status

    def warm(self) -> None:
        """Compute a full batch, and forget it: whatever is allocated with the first one, is allocated then."""
        self.decode([Chunk(0, 0, [0] * min(self.n_batch, self.capacity), 1)])
        self._api.llama_synchronize(self.handle)
        self.truncate(0, 0)
        if self.offloaded:
            note_computing()

    def _fill(self, chunks: Sequence[Chunk]) -> int:
        """Check the batch and write it into the columns; returns the number of tokens."""
        tokens: list[int] = []
        positions: list[int] = []
        sequences: list[int] = []
        outputs: list[int] = []
        expected: dict[int, int] = {}
        for sequence, position, part, wanted in chunks:
            if not 0 <= sequence < self.sequences:
                raise StellarError(f"sequence {sequence} does not exist: there are {self.sequences}")
            due = expected.get(sequence, self._lengths[sequence])
            if position != due:
                raise StellarError(f"position {position} does not continue sequence {sequence} at {due}")
            size = len(part)
            expected[sequence] = position + size
            tokens += part
            if size == 1:
                positions.append(position)
                sequences.append(sequence)
            else:
                positions += range(position, position + size)
                sequences += [sequence] * size
            if wanted:
                if not 0 <= wanted <= size:
                    raise StellarError(f"a chunk of {size} tokens has no logits of {wanted}")
                outputs += range(len(tokens) - wanted, len(tokens))
        count = len(tokens)
        if not 0 < count <= self.n_batch:
            raise StellarError(f"a batch holds 1 to {self.n_batch} tokens, not {count}")
        if len(outputs) > self.outputs:
            raise StellarError(f"a batch gives the logits of {self.outputs} tokens at most, not of {len(outputs)}")
        least, most = min(tokens), max(tokens)
        if least < 0 or most >= self.model.n_vocab:
            wrong = least if least < 0 else most
            raise StellarError(f"token {wrong} is outside the vocabulary of {self.model.n_vocab}")
        self._token[:count], self._position[:count], self._sequence[:count] = tokens, positions, sequences
        self._output[:count] = 0
        self._output[outputs] = 1
        return count

    @property
    def logits(self) -> npt.NDArray[np.float32]:
        """The logits that the last batch was asked for, float32 of shape (outputs, n_vocab), in the batch's order.

        A view of llama.cpp's memory, good until the next decode.
        """
        if not self._wanted:
            return np.empty((0, self.model.n_vocab), np.float32)
        pointer = self._api.llama_get_logits(self.handle)
        return np.ctypeslib.as_array(pointer, shape=(self._wanted, self.model.n_vocab))

    def length(self, sequence: int) -> int:
        """How many tokens of a sequence are in memory."""
        return self._lengths[sequence]

    def recount(self, sequence: int) -> int:
        """The length of a sequence by what llama.cpp has of it, where that may differ from our account."""
        self._lengths[sequence] = int(self._api.llama_memory_seq_pos_max(self._memory, sequence)) + 1
        return self._lengths[sequence]

    def truncate(self, sequence: int, length: int) -> None:
        """Forget a sequence's tokens from position `length` on.

        Without flash attention what is no number spoils even answers that do not look at it, as 0 times NaN is NaN.
        Once nothing is in memory any more, memory in which there was such a value is set to 0.
        """
        if length < self._lengths[sequence]:
            self._api.llama_memory_seq_rm(self._memory, sequence, length, -1)
            self._lengths[sequence] = length
        if self.spoilt and not any(self._lengths):
            self._api.llama_memory_clear(self._memory, True)
            self.spoilt = False

    def copy(self, source: int, target: int, length: int) -> None:
        """Make `target` hold the first `length` tokens of `source`: in the same cells where the memory is unified.

        Else the cells are copied, all of the source's, with the next decode; cheap beside computing them.
        """
        if not 0 <= length <= self._lengths[source]:
            raise StellarError(f"sequence {source} holds {self._lengths[source]} tokens, not {length}")
        self.truncate(target, 0)
        if length:
            end = length if self.unified else -1  # llama.cpp asserts that separate memory is copied whole
            self._api.llama_memory_seq_cp(self._memory, source, target, 0 if self.unified else -1, end)
            self._lengths[target] = self._lengths[source]
            self.settled = self.settled and self.unified
            self.truncate(target, length)
        self._lengths[target] = length

    @property
    def can_shift(self) -> bool:
        """Whether `shift` works. llama.cpp crashes where quantized keys are not rotated: it uses a rotation unasked."""
        movable = bool(self._api.llama_memory_can_shift(self._memory))
        return movable and (self.kv_type == "f16" or self.rotated)

    def shift(self, sequence: int, start: int, count: int) -> None:
        """Forget the `count` tokens of a sequence from position `start` on, and move the later ones up.

        They keep what they took from the forgotten ones, so that answers differ from those of a prompt that never had
        them. The next decode turns their keys, at the cost of about a token; it must not be aborted, or what it turned
        would be turned again. No other sequence may have cells in common with this one from there on: they would be
        moved for both. Raises StellarError if there are no such tokens, or where llama.cpp cannot move any
        (`can_shift`).
        """
        if not 0 <= start <= start + count <= self._lengths[sequence]:
            raise StellarError(f"sequence {sequence} has no {count} tokens from {start} on")
        if not self.can_shift:
            kind = "" if self.kv_type == "f16" else f" with --kv {self.kv_type}"
            raise StellarError(f"llama.cpp cannot shift this model's context{kind}", "leave out old turns instead")
        if count:
            self._api.llama_memory_seq_rm(self._memory, sequence, start, start + count)
            self._api.llama_memory_seq_add(self._memory, sequence, start + count, -1, -count)
            self._lengths[sequence] -= count
            self.settled = False

    def set_adapters(self, adapters: Mapping[Adapter, float]) -> None:
        """Run with these LoRA adapters at these scales from now on; what is in memory was computed with the old ones.

        A change costs some milliseconds: llama.cpp plans its graphs anew. Where an adapter makes numbers overflow, that
        may show in no logits that anybody asked for.
        """
        self.spoilt = not self.flash
        count = len(adapters)
        handles = (self._api.llama_adapter_lora_p_ctypes * count)(*(adapter.handle for adapter in adapters))
        scales = (ctypes.c_float * count)(*adapters.values())
        self._api.llama_set_adapters_lora(self.handle, handles, count, scales)

    def abort(self) -> None:
        """Make a running decode return as soon as its current operation ends (CPU and Metal; CUDA ends the batch)."""
        self._flag[0] = b"x"

    def clear_abort(self) -> None:
        """Allow decoding again after `abort`."""
        self._flag[0] = b"\0"

    def close(self) -> None:
        """Free the context's memory; safe to call twice."""
        if self.handle:
            self._api.llama_free(self.handle)
            self.handle = None
        if self._counted:
            self._counted = False
            self.model.contexts -= 1

    def __enter__(self) -> Context:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
