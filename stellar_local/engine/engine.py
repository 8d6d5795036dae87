"""The engine: a thread that runs submitted requests, and the streams through which their answers come.

Knows threads and their events; what runs when is the scheduler's affair.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from ..errors import RequestError, ShortMemoryError, StellarError, UsageError
from ..native.context import Context
from .job import Event, Job, told
from .kept import Kept
from .request import Adapters, Answer, Request
from .scheduler import Scheduler

Result = TypeVar("Result")


class Stream:
    """The answer to one request as it comes: iterate for pieces of text, then read `answer`.

    Any thread may read it and call `cancel`; each piece is given once.
    """

    def __init__(self, engine: Engine, on_end: Callable[[Stream], None] | None) -> None:
        self._engine, self._on_end = engine, on_end
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._end: Answer | StellarError | None = None
        self._ended, self._begun = threading.Event(), threading.Event()
        self.job: Job | None = None  # the engine's side; None once it has ended

    def __iter__(self) -> Iterator[str]:
        """Pieces of text, each of whole characters; for a slow reader, all that has come meanwhile is one piece.

        Raises what the request failed with.
        """
        # Ctrl-C may take an event with it that was just got, the last one too.
        while not (self._ended.is_set() and self._events.empty()):
            event = self._events.get()
            if not isinstance(event, str):
                self._events.put(event)  # for whoever else reads, now or later
                break
            yield event + self._more()
        if isinstance(self._end, StellarError):
            raise self._end

    def _more(self) -> str:
        """What else of the text is there now."""
        parts: list[str] = []
        while not self._events.empty():
            event = self._events.get()
            if not isinstance(event, str):
                self._events.put(event)
                break
            parts.append(event)
        return "".join(parts)

    @property
    def answer(self) -> Answer:
        """The finished answer; waits for it. Raises what the request failed with."""
        self._ended.wait()
        if isinstance(self._end, StellarError):
            raise self._end
        assert self._end is not None
        return self._end

    @property
    def started(self) -> bool:
        """Whether the engine has begun to work on it."""
        job = self.job
        return job is None or job.started

    def cancel(self) -> None:
        """Stop generating within one step; the answer then holds what came, with finish_reason "cancelled"."""
        self._engine.cancel(self)

    def wait(self, timeout: float) -> bool:
        """Whether the first piece, or the end, is there; waits for it, `timeout` seconds at most."""
        return self._begun.wait(timeout)

    def wait_end(self, timeout: float) -> bool:
        """Whether the end is there; waits for it, `timeout` seconds at most."""
        return self._ended.wait(timeout)

    def put(self, event: Event) -> None:
        """The engine's side of the stream."""
        if isinstance(event, str):
            self._events.put(event)
            self._begun.set()
            return
        self._end, self.job = event, None
        self._ended.set()
        self._events.put(event)
        self._begun.set()
        if self._on_end:
            with suppress(Exception):  # of the callback's; the engine's thread has others to serve
                self._on_end(self)


class _Task:
    """What is to be done in the engine's thread, and what came of it once it has `ended`."""

    def __init__(self, action: Callable[[], Any]) -> None:
        self.action = action
        self.ended = threading.Event()
        self.outcome: Any = None

    def end(self, outcome: Any) -> None:
        self.outcome = outcome
        self.ended.set()


class Engine:
    """Runs requests over a context, which it owns from now on; close the engine before the model.

    `parallel` requests run at once [default: one a sequence]; further sequences of the context keep what requests
    have in common for later ones. With `deterministic` one runs at a time, and its answer depends on nothing else.
    `longest` bounds prompt and answer together, in tokens [default: the context].

    Usable without the command line: `with Engine(Context(model, 4096)) as engine: engine.submit(Request(ids)).answer`.
    """

    def __init__(
        self, context: Context, parallel: int | None = None, deterministic: bool = False, longest: int | None = None
    ) -> None:
        self.context = context
        self.parallel = 1 if deterministic else context.sequences if parallel is None else parallel
        if not 0 < self.parallel <= context.sequences:
            raise UsageError(f"{self.parallel} requests need as many sequences, the context has {context.sequences}")
        self.longest = min(longest or context.capacity, context.capacity)
        self._scheduler = Scheduler(context, self.parallel, deterministic)
        self._kept = Kept(context, self._scheduler.memory, self._scheduler.prefixes)
        self._count = 0
        self._new: list[Job] = []
        self._cancelled: list[Stream] = []
        self._tasks: list[_Task] = []
        self._wake = threading.Condition()
        self._closing = False
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._run, name="stellar-engine", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            raise ShortMemoryError("there is no memory for another thread", "close other programs") from error

    @property
    def work(self) -> tuple[int, int]:
        """Tokens of prompts computed and tokens generated so far, those of unfinished answers included."""
        return self._scheduler.computed, self._scheduler.generated

    def submit(self, request: Request, on_end: Callable[[Stream], None] | None = None) -> Stream:
        """Queue a request. Raises RequestError if its prompt is empty or leaves no room to answer, if its sampling
        options name tokens that the model does not have, or if nothing can follow the answer that it begins with.

        `on_end` is called with the stream, in the engine's thread, once its answer or failure is there; it must be
        quick, and what it raises is lost.
        """
        size, room = len(request.tokens), self.longest
        if not size:
            raise RequestError("empty_prompt", "the prompt has no tokens")
        if size >= room:
            raise RequestError(
                "context_length_exceeded",
                f"the prompt has {size} tokens, the context holds {room}",
                "shorten it, or allow more (--ctx, --per-request)",
            )
        if min(request.tokens) < 0 or max(request.tokens) >= self.context.model.n_vocab:
            raise RequestError("invalid_request", "the prompt has token ids that the model lacks", "tokenize it anew")
        if not 0 <= request.begun <= size:
            raise RequestError("invalid_request", f"{request.begun} of {size} tokens cannot be the answer's beginning")
        if not 0 <= request.scored < size or (request.scored and request.begun):
            raise RequestError("invalid_request", f"{request.scored} of {size} tokens cannot be scored after others")
        stream = Stream(self, on_end)
        limit = 0 if request.scored else min(request.sampling.max_tokens or room, room - size)
        job = Job(self.context.model, request, limit, stream.put)
        with self._wake:
            try:
                self._require_open()
            except StellarError:
                job.release()
                raise
            self._count += 1
            job.number, stream.job = self._count, job
            self._new.append(job)
            self._wake.notify()
        return stream

    def _require_open(self) -> None:
        if self._closing or os.getpid() != self._process:
            raise StellarError("the engine is closed" if self._closing else "the engine belongs to another process")

    def held(self, tokens: Sequence[int], adapters: Adapters = ()) -> int:
        """How many of these tokens, from the first on, are in memory, and need not be computed again.

        This and the other methods on what is in memory wait for the engine's thread. They raise StellarError while a
        request waits or runs, and if the engine is closed.
        """
        return self._between(lambda: self._kept.held(tokens, adapters))

    def shift(self, tokens: Sequence[int], start: int, count: int, adapters: Adapters = ()) -> bool:
        """Take `count` tokens from `start` on out of memory that begins with these tokens up to there, and move up
        what follows, so that a prompt without them need not be computed again; see Context.shift. It costs about a
        token. False if no memory begins so. Raises StellarError where llama.cpp cannot.
        """
        return self._between(lambda: self._kept.shift(tokens, start, count, adapters))

    def save(
        self,
        path: Path,
        tokens: Sequence[int],
        adapters: Adapters = (),
        worth: Callable[[int, int], bool] | None = None,
    ) -> int:
        """Write the memory that begins with most of these tokens to a file; returns how many tokens it holds.

        0, and no file, if there is none, or if `worth` says no to how many of `tokens` it is, and to its size in bytes.
        Raises StellarError where it cannot be written: a part may be there then.
        """
        return self._between(lambda: self._kept.save(path, tokens, adapters, worth))

    def restore(self, path: Path, tokens: Sequence[int], adapters: Adapters = ()) -> int:
        """Take up what a file written by `save` holds of these tokens, so that a prompt that begins with them need not
        be computed; returns how many of them are in memory then. Whoever keeps the file knows that this model and these
        adapters made it. Raises StateError if it is of no use here; memory is as sound as before then.
        """
        return self._between(lambda: self._kept.restore(path, tokens, adapters))

    def _between(self, action: Callable[[], Result]) -> Result:
        """Run an action in the engine's thread, between two steps; wait for it, give what it returns or raises."""
        if threading.current_thread() is self._thread:
            raise StellarError("the engine's own thread cannot wait for itself")
        task = _Task(action)
        with self._wake:
            self._require_open()
            self._tasks.append(task)
            self._wake.notify()
        try:
            task.ended.wait()
        except BaseException:  # Ctrl-C: it never begins, or what it works on is left to it until it has ended
            with self._wake:
                if task in self._tasks:
                    self._tasks.remove(task)
                    raise
            task.ended.wait()
            raise
        if isinstance(task.outcome, StellarError):
            raise task.outcome
        outcome: Result = task.outcome
        return outcome

    def cancel(self, stream: Stream) -> None:
        """Cancel a stream's request, waiting or running; a finished one is left alone."""
        with self._wake:
            job = stream.job
            if job is None:
                return
            self._cancelled.append(stream)
            if job.sequence >= 0 and self._scheduler.abortable:
                self.context.abort()  # cuts short the decode that may be running; the others' part is run again
            self._wake.notify()

    def _run(self) -> None:
        scheduler = self._scheduler
        while True:
            with self._wake:
                while not (
                    self._closing
                    or self._new
                    or self._cancelled
                    or self._tasks
                    or scheduler.waiting
                    or scheduler.running
                ):
                    self._wake.wait()
                if self._closing:
                    break
                new, self._new = self._new, []
                cancelled, self._cancelled = self._cancelled, []
                tasks, self._tasks = self._tasks, []
                if cancelled:
                    self.context.clear_abort()
            try:
                for job in new:
                    scheduler.add(job)
                for stream in cancelled:
                    if stream.job:  # it may have ended meanwhile
                        scheduler.cancel(stream.job)
                scheduler.step()
            except BaseException as error:  # the thread must live on, and the submitters must hear of it
                scheduler.fail_all(told(error))
            self._perform(tasks)
        for job in self._new:
            scheduler.add(job)
        closed = StellarError("the engine was closed")
        scheduler.fail_all(closed)
        for task in self._tasks:
            task.end(closed)
        self.context.close()

    def _perform(self, tasks: list[_Task]) -> None:
        for task in tasks:
            try:
                if self._scheduler.waiting or self._scheduler.running:
                    raise StellarError("the engine is answering", "wait for the answer, or cancel it")
                task.end(task.action())
            except BaseException as error:
                task.end(told(error))

    def close(self) -> None:
        """Stop at once: unfinished requests fail, the context is freed. Any thread may call it, any number of times."""
        if os.getpid() != self._process:
            return  # the thread and the context are the parent's
        with self._wake:
            if not self._closing:
                self._closing = True
                self.context.abort()
                self._wake.notify()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
