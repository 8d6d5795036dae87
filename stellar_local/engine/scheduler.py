"""The engine: a thread that runs submitted requests over the sequences of one context.

Each step is one decode call that mixes a token for every running sequence with a chunk of a waiting prompt. A request
starts when a sequence is free and the memory it may need is not promised to others, so it never runs out half way.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType

from ..errors import RequestError, StellarError
from ..native.context import Context, Decoded, Entry
from .request import Answer, Request
from .slots import Job, Slot


@dataclass(frozen=True)
class _Failure:
    error: BaseException


class Stream:
    """The answer to one request as it comes: iterate for pieces of text, then read `answer`.

    `started` turns true when the engine begins to work on it. Belongs to the thread that submitted it; `cancel` may be
    called from any.
    """

    def __init__(self, engine: Engine, on_end: Callable[[Stream], None] | None = None) -> None:
        self._engine, self._on_end = engine, on_end
        self.started = False
        self._events: queue.SimpleQueue[str | Answer | _Failure] = queue.SimpleQueue()
        self._end: Answer | _Failure | None = None
        self.cancelled = False

    def __iter__(self) -> Iterator[str]:
        """Pieces of text, each of whole characters. Raises what the request failed with."""
        while self._end is None:
            event = self._events.get()
            if isinstance(event, str):
                yield event
            else:
                self._end = event
        if isinstance(self._end, _Failure):
            raise self._end.error

    @property
    def answer(self) -> Answer:
        """The finished answer; waits for it. Raises what the request failed with."""
        for _ in self:
            pass
        assert isinstance(self._end, Answer)
        return self._end

    def cancel(self) -> None:
        """Stop generating within one step; the answer then holds what came, with finish_reason "cancelled"."""
        self._engine.cancel(self)

    def put(self, event: str | Answer | _Failure) -> None:
        """The engine's side of the stream."""
        self._events.put(event)
        if self._on_end and not isinstance(event, str):
            self._on_end(self)


class Engine:
    """Runs requests over a context, which it owns from now on; close the engine before the model.

    Usable without the command line: `with Engine(Context(model, 4096)) as engine: engine.submit(Request(ids)).answer`.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self._slots = [Slot(context, sequence) for sequence in range(context.sequences)]
        self._waiting: deque[tuple[Stream, Job]] = deque()
        self._running: dict[int, Stream] = {}
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="stellar-engine", daemon=True)
        self._thread.start()

    def submit(self, request: Request, on_end: Callable[[Stream], None] | None = None) -> Stream:
        """Queue a request. Raises RequestError if its prompt is empty or leaves no room to answer.

        `on_end` is called with the stream, in the engine's thread, once its answer or failure is there; it must be
        quick and must not raise.
        """
        size, room = len(request.tokens), self.context.n_ctx
        if not size:
            raise RequestError("empty_prompt", "the prompt has no tokens")
        if size >= room:
            raise RequestError(
                "context_length_exceeded",
                f"the prompt has {size} tokens, the context holds {room}",
                "shorten it or give a larger --ctx",
            )
        stream = Stream(self, on_end)
        job = Job(request, min(request.sampling.max_tokens or room, room - size), stream.put)
        with self._wake:
            if self._closing:
                raise StellarError("the engine is closed")
            self._waiting.append((stream, job))
            self._wake.notify()
        return stream

    def cancel(self, stream: Stream) -> None:
        """Cancel a stream's request, waiting or running; a finished one is left alone."""
        with self._wake:
            stream.cancelled = True
            self.context.abort()  # cuts short the decode that may be running; the others' part is run again
            self._wake.notify()

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closing or self._waiting or self._running)
                if self._closing:
                    return
                self.context.clear_abort()
                self._drop_cancelled()
                self._admit()
            if self._running:
                self._step()

    def _drop_cancelled(self) -> None:
        for stream, job in [pair for pair in self._waiting if pair[0].cancelled]:
            self._waiting.remove((stream, job))
            stream.put(job.finish("cancelled"))
        for slot in self._slots:
            if slot.job and self._running[slot.sequence].cancelled:
                self._end(slot, slot.job.finish("cancelled"))

    def _admit(self) -> None:
        """Start waiting requests, oldest first, in the idle sequence that shares the longest prefix."""
        while self._waiting and (idle := [slot for slot in self._slots if slot.job is None]):
            stream, job = self._waiting[0]
            promised = sum(slot.cells for slot in self._slots if slot.job)
            if promised + job.reserved > self.context.n_ctx:
                return
            slot = max(idle, key=lambda one: one.shared(job.request.tokens))
            for other in idle:  # idle sequences' remains make room, those of the chosen one last
                held = sum(one.cells for one in self._slots if one is not slot)
                if other is not slot and held + job.reserved > self.context.n_ctx:
                    other.forget()
            self._waiting.popleft()
            self._running[slot.sequence] = stream
            stream.started = True
            slot.begin(job)

    def _step(self) -> None:
        """One decode call over all running sequences."""
        active = [slot for slot in self._slots if slot.job]
        pending = {slot.sequence: slot.pending() for slot in active}
        room = self.context.n_batch
        entries: list[Entry] = []
        sampled: list[tuple[Slot, int]] = []
        # Sequences that generate (one token each) go first, so that a long prompt does not hold them up.
        for slot in sorted(active, key=lambda one: len(pending[one.sequence])):
            tokens = pending[slot.sequence]
            chunk = tokens[: room - len(entries)]
            last = len(chunk) == len(tokens)
            for offset, token in enumerate(chunk):
                wanted = last and offset == len(chunk) - 1
                entries.append(Entry(token, len(slot.tokens) + offset, slot.sequence, wanted))
            if last and chunk:
                sampled.append((slot, len(entries) - 1))
            pending[slot.sequence] = chunk
        try:
            outcome = self.context.decode(entries)
            if outcome is Decoded.FULL:
                raise StellarError("llama.cpp has no room left in its KV memory", "give a larger --ctx")
            if outcome is Decoded.ABORTED:
                for slot in active:
                    slot.forget(len(slot.tokens))
                return
            for slot in active:
                slot.tokens += pending[slot.sequence]
            for slot, row in sampled:
                assert slot.job is not None
                reason = slot.job.sample(self.context, row)
                if reason:
                    self._end(slot, slot.job.finish(reason))
        except Exception as error:  # the thread must live on, and the submitters must hear of it
            for slot in active:
                if slot.job:
                    slot.job.release()
                    slot.forget()
                    self._end(slot, _Failure(error))

    def _end(self, slot: Slot, event: Answer | _Failure) -> None:
        slot.job = None
        self._running.pop(slot.sequence).put(event)

    def close(self) -> None:
        """Stop at once: unfinished requests fail, the context is freed. Safe to call twice."""
        with self._wake:
            self._closing = True
            self.context.abort()
            self._wake.notify()
        if self._thread is not threading.current_thread():
            self._thread.join()
        failure = _Failure(StellarError("the engine was closed"))
        for stream, job in self._waiting:
            job.release()
            stream.put(failure)
        self._waiting.clear()
        for slot in self._slots:
            if slot.job:
                slot.job.release()
                self._end(slot, failure)
        self.context.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
