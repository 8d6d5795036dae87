"""Which requests run, in which sequences, and what the next decode call holds.

Each step is one decode call that mixes a token for every running request with chunks of prompts. What requests have in
common at their beginning is computed once: a new one shares the cells of the longest prefix in memory, or waits a
moment for a running one that is about to compute it. A request starts when the cells it will probably need are free;
when memory runs out all the same, what finished requests left goes first, then the youngest request gives up its place
and goes on later. Knows token ids; the thread around it is the engine's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import accumulate, islice

from ..errors import StellarError
from ..native.context import Chunk, Context, Decoded
from ..native.sampler import best_tokens
from .job import Job, told
from .memory import Memory, shared_length
from .prefixes import Prefixes
from .request import Adapters

_WORTH_WAITING = 8  # tokens: for a shorter common prefix a request does not wait until another has computed it
_FIRST_GUESS = 128  # tokens that an answer is thought to need before any has finished
_MOST_FAILURES = 3  # decode calls that may fail under a request before it is given up
ALIGNMENT = 128  # tokens: in deterministic mode prompts are computed, and kept, in chunks that end at multiples of it


class Scheduler:
    """Runs jobs over a context, `parallel` at once; sequences beyond these keep prefixes for later requests.

    With `deterministic`, an answer depends on nothing but its request: one runs at a time, prompts are computed in
    chunks at fixed places, and only such chunks are reused, so that every token goes through the same arithmetic.
    """

    def __init__(self, context: Context, parallel: int, deterministic: bool = False) -> None:
        self.context, self.parallel, self.deterministic = context, parallel, deterministic
        self.memory = Memory(context)
        self.waiting: deque[Job] = deque()
        self.running: list[Job] = []  # oldest first
        self.computed = self.generated = 0  # tokens of prompts, tokens of answers
        self.abortable = True  # whether a decode call may be cut short: not twice in a row, or none would ever end
        self._adapters: Adapters = ()
        self._usual = float(_FIRST_GUESS)
        self._overtaken = 0
        self._blocked: Job | None = None  # found not to fit, since when nothing has ended
        self._sequences = 1 if deterministic else context.sequences
        self._alignment = min(ALIGNMENT, context.n_batch) if deterministic else 1
        self.prefixes = Prefixes(self.memory, context.unified, context.capacity, self._alignment)

    def add(self, job: Job) -> None:
        """Queue a job."""
        self.waiting.append(job)

    def cancel(self, job: Job) -> None:
        """End a job with what it has."""
        if job.sequence < 0:
            self.waiting.remove(job)
            self._blocked = None
        else:
            self._leave(job)
        job.finish("cancelled")

    def step(self) -> None:
        """Start what can start, run one decode call, take the tokens that come of it."""
        self._admit()
        if not self.running:
            return
        while not self._has_room(planned := self._plan()):
            pass
        if not planned:
            return
        fillers = self._fillers(planned)
        chunks = sorted([*(chunk for _, chunk in planned), *fillers])
        try:
            outcome = self.context.decode(chunks)
        except StellarError as error:
            self._failed([job for job, _ in planned], error)
            return
        for filler in fillers:
            self.context.truncate(filler.sequence, filler.position)
        self.abortable = outcome is not Decoded.ABORTED
        if outcome is Decoded.DONE:
            for job, chunk in planned:
                self.memory.append(job.sequence, chunk.tokens)
                self.computed += max(0, min(len(job.request.tokens) - chunk.position, len(chunk.tokens)))
                job.doubtful = False
            self._take([(job, chunk.outputs) for job, chunk in planned if chunk.outputs])
            return
        for job, _ in planned:
            self.memory.truncate(job.sequence, len(self.memory.tokens[job.sequence]))
        if outcome is Decoded.FULL:  # against our account, in which it had room
            full = StellarError("llama.cpp has no room left in its KV memory", "give a larger --ctx")
            self._failed([job for job, _ in planned], full)

    def _take(self, outputs: list[tuple[Job, int]]) -> None:
        """Give each job its rows of the logits, as many as stand beside it: to sample from, or to score with."""
        logits = self.context.logits
        rows = list(accumulate((count for _, count in outputs), initial=0))
        likeliest = best_tokens(logits, [row for row, (job, _) in zip(rows, outputs, strict=False) if job.greedy])
        for row, (job, count) in zip(rows, outputs, strict=False):
            try:
                if job.request.scored:
                    reason = job.score(logits[row : row + count])
                else:
                    reason = job.take(logits, row, likeliest.get(row))
            except BaseException as error:  # a grammar's panic is no Exception; no other request may suffer from it
                self._leave(job)
                job.fail(told(error))
                continue
            self.generated += not job.request.scored
            if reason:
                if not job.request.scored:
                    self._usual += (max(job.generated, 1) - self._usual) / 16
                self._leave(job)
                job.finish(reason)

    def _leave(self, job: Job) -> None:
        """Take a job out of its sequence, whose tokens stay for later requests until their cells are needed."""
        self.running.remove(job)
        if self.deterministic:
            size = len(job.request.tokens)
            kept = min(size - size % self._alignment, len(self.memory.tokens[job.sequence]))
            self.memory.truncate(job.sequence, kept)
        elif job.request.scored:
            # Every cell in use costs time in each decode: of texts that are only read, keep what others begin with.
            kept = max((shared_length(job.tokens, other.tokens) for other in self.waiting), default=0)
            self.memory.truncate(job.sequence, min(kept, len(self.memory.tokens[job.sequence])))
        self.prefixes.touch(job.sequence)
        job.sequence = -1
        self._blocked = None

    def fail_all(self, error: StellarError) -> None:
        """Fail every job, running or waiting."""
        jobs = [*self.running, *self.waiting]
        for job in self.running:
            self.memory.truncate(job.sequence, 0)
        self.running.clear()
        self.waiting.clear()
        self._blocked = None
        for job in jobs:
            job.fail(error)

    def _failed(self, jobs: list[Job], error: StellarError) -> None:
        """A decode call failed: forget what it may have damaged. Each request gets a second chance, alone.

        Not in deterministic mode: to compute again at once what was computed token by token would be other arithmetic.
        """
        self._blocked = None
        for job in sorted(jobs, key=lambda one: -one.number):
            self.running.remove(job)
            self.memory.truncate(job.sequence, 0)
            job.sequence = -1
            job.failures += 1
            if job.doubtful or job.failures == _MOST_FAILURES or self.deterministic:
                job.fail(error)
            else:
                job.doubtful = True
                self.waiting.appendleft(job)

    # -- what the next decode call holds

    def _plan(self) -> list[tuple[Job, Chunk]]:
        """The chunks of the next call: requests that generate go first, so that a long prompt does not hold them up;
        then prompts, the oldest first.
        """
        room = self.context.n_batch
        rows = self.context.outputs - sum(not job.request.scored for job in self.running)  # left for scoring
        pending = [(len(job.tokens) - len(self.memory.tokens[job.sequence]), job) for job in self.running]
        pending.sort(key=lambda pair: pair[0] > 1)  # `running` is in the order of arrival
        planned: list[tuple[Job, Chunk]] = []
        for size, job in pending:
            done = len(self.memory.tokens[job.sequence])
            taken = min(size, room)
            if self.deterministic and done < len(job.request.tokens):
                taken = min(taken, self._alignment - done % self._alignment)
            if not taken:
                break
            outputs = int(taken == size)
            if job.request.scored:
                unseen = max(job.looks_from - done, 0)
                taken = min(taken, unseen + rows)
                outputs = max(taken - unseen, 0)
                rows -= outputs
                if not taken:
                    continue
            part = job.tokens[done : done + taken]
            planned.append((job, Chunk(job.sequence, done, part, outputs)))
            room -= taken
        planned.sort(key=lambda pair: pair[1])  # as the call has them
        return planned

    def _fillers(self, planned: list[tuple[Job, Chunk]]) -> list[Chunk]:
        """Tokens for nothing, in the sequences between those of a call.

        Where each sequence has a share of its own, llama.cpp computes at once only those with neighbouring numbers, in
        their order: each gap costs a pass over all weights, which on a GPU is far more than a few tokens are.
        """
        if self.context.unified or not self.context.offloaded:
            return []
        taken = {chunk.sequence for _, chunk in planned}
        fillers: list[Chunk] = []
        room = self.context.n_batch - sum(len(chunk.tokens) for _, chunk in planned)
        for sequence in range(min(taken), max(taken) + 1):
            held = len(self.memory.tokens[sequence])
            if sequence not in taken and held < self.context.capacity and len(fillers) < room:
                fillers.append(Chunk(sequence, held, [0]))
        return fillers

    def _has_room(self, planned: list[tuple[Job, Chunk]]) -> bool:
        """Make room for a call; false if that took a job out of it, so that it must be planned anew."""
        needed = sum(len(chunk.tokens) for _, chunk in planned)
        while self.memory.free < needed:
            running = len(self.running)
            if not self._make_room():
                self._failed(list(self.running), StellarError("the KV memory is too small for one request"))
            if len(self.running) < running:
                return False
        return True

    def _make_room(self) -> bool:
        """Forget the sequence that was left longest ago; where there is none, the youngest job gives up its place.

        Returns false if only one job is left, which has all the memory already.
        """
        self._blocked = None
        if self.prefixes.forget_one(self._idle()):
            return True
        if len(self.running) < 2:
            return False
        job = max(self.running, key=lambda one: one.number)
        self.running.remove(job)
        self.memory.truncate(job.sequence, 0)
        job.sequence = -1
        self.waiting.appendleft(job)
        return True

    def _idle(self) -> Iterator[int]:
        busy = {job.sequence for job in self.running}
        # In one sequence the cells of a text lie in order, as the deterministic mode needs them.
        return (sequence for sequence in range(self._sequences) if sequence not in busy)

    # -- which jobs start

    def _admit(self) -> None:
        """Start waiting jobs, oldest first. Those that must wait for a prefix, or for other adapters, are passed by."""
        if not self.waiting or len(self.running) >= self._lanes():
            return
        self._choose_adapters()
        reserved = 0  # for those that only wait for a prefix
        for job in list(islice(self.waiting, 2 * self.parallel)):
            if len(self.running) + reserved >= self._lanes() or (job is self._blocked and self.running):
                return
            if job.request.scored and self._is_full():
                return
            if job.adapters != self._adapters:
                if self._overtaken >= 4 * self.parallel:
                    return  # let the running ones end, so that these get their turn
                continue
            if job.awaits and self._computes(*job.awaits):
                reserved += 1
                continue
            source, shared = self.prefixes.longest(job.shareable, job.adapters)
            if job.awaits is None:  # once: there may always be another that computes a longer one
                job.awaits = self._coming(job, shared)
                if job.awaits:
                    reserved += 1
                    continue
            if self.running and not self._fits(job, shared, source):
                self._blocked = job
                return
            if not job.started:
                self._overtaken = 0 if job is self.waiting[0] else self._overtaken + 1
            self.waiting.remove(job)
            try:
                self._start(job, source, shared)
            except BaseException as error:
                if job.sequence >= 0:
                    self._leave(job)
                job.fail(told(error))

    def _is_full(self) -> bool:
        """Whether what runs fills the next call: another text to read would only take cells."""
        return (
            sum(len(job.tokens) - len(self.memory.tokens[job.sequence]) for job in self.running) >= self.context.n_batch
        )

    def _lanes(self) -> int:
        """How many may run now: one alone where a decode call failed, to find out whose fault it was."""
        return 1 if self.waiting[0].doubtful or any(job.doubtful for job in self.running) else self.parallel

    def _choose_adapters(self) -> None:
        wanted = self.waiting[0].adapters
        if not self.running and wanted != self._adapters:
            self.context.set_adapters(dict(wanted))
            self._adapters = wanted

    def _computes(self, other: Job, length: int) -> bool:
        """Whether a job is running and has not yet computed its first `length` tokens."""
        return other.sequence >= 0 and len(self.memory.tokens[other.sequence]) < length

    def _coming(self, job: Job, shared: int) -> tuple[Job, int] | None:
        """A running job that is about to compute a longer common prefix, and that prefix's length."""
        tokens = job.shareable
        for other in self.running:
            if self._computes(other, len(other.request.tokens)) and other.adapters == job.adapters:
                common = min(shared_length(other.tokens, tokens), len(tokens) - 1)
                if common >= shared + _WORTH_WAITING:
                    return other, common
        return None

    def _expected(self, job: Job) -> int:
        """Cells that a job's answer will probably still need: as many as answers usually have, and some."""
        if job.request.scored:
            return 0
        left = job.limit - job.generated
        return min(left, max(int(1.25 * self._usual) - job.generated, 16))

    def _fits(self, job: Job, shared: int, source: int) -> bool:
        promised = sum(
            len(other.tokens) - len(self.memory.tokens[other.sequence]) + self._expected(other)
            for other in self.running
        )
        needed = promised + len(job.tokens) - shared + self._expected(job) - self.memory.free
        for sequence in self._idle():
            if needed <= 0:
                break
            if sequence != source:
                needed -= self.memory.releases(sequence)
        return needed <= 0

    def _start(self, job: Job, source: int, shared: int) -> None:
        """Give a job a sequence with its prefix in it."""
        job.sequence, shared = self.prefixes.take(self._idle(), source, shared, job.adapters)
        self.running.append(job)
        self.running.sort(key=lambda one: one.number)
        job.start(shared)
