"""A conversation: its turns, what of them the model reads again, and what happens when the context is full.

Knows turns and tokens; knows nothing of terminals or of files. What the model reads is rendered anew for each question,
with its own answers as the tokens it gave; so a prompt begins with what the engine has in memory, whatever was undone
or edited, and only the rest is computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from ..config import SamplingOptions
from ..engine import Answer, Grammar, Stream, Usage
from ..engine.memory import shared_length
from ..engine.request import Timing
from ..errors import RequestError, StellarError
from ..prompts import Turn
from ..runtime import Runtime
from .saved import SavedTurn

_FREE_SHARE = 4  # one part in so many of the context stays free for the answer
_LEAST_ROOM = 16  # tokens: with less left, an answer does not go on


@dataclass
class Overflow:
    """What was done because the context was full: `turns` that were left out, or `tokens` shifted out of the middle."""

    turns: int = 0
    tokens: int = 0


@dataclass
class Conversation:
    """Turns with memory.

    `overflow` is "drop": whole oldest turns are left out; "shift": half of the tokens after the system line go, and
    nothing is computed again; or "error". `dropped` counts the oldest turns that are left out.
    """

    runtime: Runtime
    sampling: SamplingOptions
    system: str | None = None
    overflow: str = "drop"
    grammar: Grammar | None = None
    turns: list[SavedTurn] = field(default_factory=list)
    dropped: int = 0
    current: Stream | None = field(default=None, init=False)  # the last that was asked of the engine
    _read: list[int] = field(default_factory=list, init=False)  # with "shift": what the model has in memory,
    _meant: list[int] = field(default_factory=list, init=False)  # and the tokens that it stands for

    # -- asking

    def ask(self, text: str, at: int | None = None) -> Reply:
        """Send a message after the first `at` turns [default: all]; the others go once its answer is kept.

        Raises RequestError if it does not fit, UsageError if the template cannot render it.
        """
        return Reply(self, text, len(self.turns) if at is None else at)

    def regenerate(self) -> Reply:
        """Answer the last question again. Raises RequestError where there is none."""
        return self.ask(self._last().question, len(self.turns) - 1)

    def go_on(self) -> Reply:
        """Let the last answer go on from where it ended. Raises RequestError where there is none."""
        return Reply(self, self._last().question, len(self.turns) - 1, self._last())

    def _last(self) -> SavedTurn:
        if not self.turns:
            raise RequestError("no_question", "there is no question yet", "ask one first")
        return self.turns[-1]

    def undo(self, count: int = 1) -> list[SavedTurn]:
        """Take back the last `count` turns; returns them. Raises RequestError if there are not as many."""
        if not 0 < count <= len(self.turns):
            raise RequestError("no_turn", f"there are {len(self.turns)} turns to take back", "/history shows them")
        gone = self.turns[-count:]
        del self.turns[-count:]
        self.reconsider()
        return gone

    def clear(self) -> None:
        """Forget all turns; the system line stays."""
        self.turns.clear()
        self.reconsider()

    def reconsider(self) -> None:
        """Let turns that were left out come back where they fit: after what changed the turns or the context."""
        self.dropped = 0
        self._read, self._meant = [], []

    def keep(self, reply: Reply) -> bool:
        """Remember a reply that has ended, in the place of what it replaces; false if it is empty, and forgotten."""
        answer = reply.answer
        if not answer.text.strip():
            return False
        kept = SavedTurn(reply.question, answer.text, self._own_tokens(answer), answer.finish_reason)
        self.turns[reply.at :] = [kept]
        if self.overflow == "shift" and kept.tokens:
            self.remember(reply)
        return True

    def remember(self, reply: Reply) -> None:
        """Note what the model has in memory after a reply, and what that stands for."""
        self._read, self._meant = [*reply.read, *reply.new], [*reply.meant, *reply.new]

    def _own_tokens(self, answer: Answer) -> list[int]:
        """An answer's tokens, if they say what its text says: not where a stop text was cut off its end."""
        said = self.runtime.model.text(answer.tokens)
        for mark, value in self.runtime.template.identity.items():
            said = said.replace(mark, value)
        return list(answer.tokens) if said.rstrip("\ufffd") == answer.text.rstrip("\ufffd") else []

    # -- what the model reads

    def tokens(self, turns: Sequence[SavedTurn], question: str | None, begun: str = "") -> tuple[int, ...]:
        """The prompt of some turns and, unless it is None, a question after them, with the answer's beginning."""
        rendered = [Turn(turn.question, turn.answer, tokens=tuple(turn.tokens)) for turn in turns]
        if question is not None:
            rendered.append(Turn(question))
        return self.runtime.tokens(rendered, self.system, begun) if rendered else ()

    def used(self) -> int:
        """Tokens of the context that the conversation takes."""
        shifted = len(self._meant) - len(self._read)
        return len(self.tokens(self.turns[self.dropped :], None)) - shifted

    def system_tokens(self) -> int:
        """Tokens of the system line and what stands before the first question."""
        first, second = (list(self.runtime.tokens([Turn(text)], self.system)) for text in ("a", "B"))
        return shared_length(first, second)

    def fitted(self, turns: Sequence[SavedTurn], question: str, begun: list[int], left: int | None) -> Fitted:
        """A prompt that leaves room for an answer of up to `left` tokens, as the overflow setting has it.

        `begun` are the tokens of the answer's beginning. Where nothing helps it is too long, as the engine will say.
        """
        room = self.runtime.engine.longest
        wanted = min(left or room // _FREE_SHARE, room // _FREE_SHARE)
        if self.overflow == "drop":
            return self._dropped(turns, question, begun, room, wanted)
        meant = [*self.tokens(turns, question), *begun]
        if self.overflow == "error":
            return Fitted(meant, meant)
        return self._shifted(turns, meant, len(begun), room, wanted)

    def _dropped(self, turns: Sequence[SavedTurn], question: str, begun: list[int], room: int, wanted: int) -> Fitted:
        # Before an earlier turn there is room again for what was left out.
        first = min(self.dropped, len(turns)) if len(turns) >= len(self.turns) - 1 else 0
        prompt = [*self.tokens(turns[first:], question), *begun]
        before = first
        if len(prompt) + wanted > room and first < len(turns):
            # A quarter more than must be: else each further turn would drop one, and all would be computed anew.
            aim = room - wanted - room // _FREE_SHARE
            low, high = first, len(turns)  # the least first turn for which it fits is in (low, high]
            while high - low > 1:
                middle = (low + high) // 2
                if len(self.tokens(turns[middle:], question)) + len(begun) <= aim:
                    high = middle
                else:
                    low = middle
            first = high
            prompt = [*self.tokens(turns[first:], question), *begun]
        return Fitted(prompt, prompt, first, Overflow(turns=first - before) if first > before else None)

    def _shifted(self, turns: Sequence[SavedTurn], meant: list[int], begun: int, room: int, wanted: int) -> Fitted:
        kept, gone = self.system_tokens(), len(self._meant) - len(self._read)
        shared = shared_length(meant, self._meant)
        if shared < kept + gone:  # what was shifted out is not what stands there now
            read, gone = meant, 0
        else:
            read = [*self._read[: shared - gone], *meant[shared:]]
        # The last question is never cut; an answer that fills the context by itself is.
        asked = shared_length(meant, list(self.tokens(turns, ""))) - gone if turns else 0
        old = len(read) if begun and len(read) - asked > room // 2 else asked
        excess = len(read) + wanted - room
        if excess <= 0:
            return Fitted(read, meant)
        count = min(max(excess, (old - kept) // 2), old - kept)
        if count <= 0:
            return Fitted(read, meant)  # the engine says whether it fits at all
        self.runtime.engine.shift(read[:old], kept, count, self.runtime.adapter_set())
        return Fitted(read[:kept] + read[kept + count :], meant, overflow=Overflow(tokens=count), kept=kept)


@dataclass
class Fitted:
    """A prompt to send: its tokens, the tokens it stands for, the first turn in it, and what was done to fit it in."""

    read: list[int]
    meant: list[int]
    first: int | None = None
    overflow: Overflow | None = None
    kept: int = 0


class Reply:
    """An answer on its way: iterate for pieces of text, then read `answer` and hand the reply to `keep`.

    Where the context fills up in the middle of the answer, room is made as the conversation's overflow setting says,
    and it goes on. `overflows` lists what was done; read it as pieces come.
    """

    def __init__(self, conversation: Conversation, question: str, at: int, base: SavedTurn | None = None) -> None:
        self._conversation, self.question, self.at = conversation, question, at
        self._turns = conversation.turns[:at]
        self._text = [base.answer] if base else []
        self._tokens = list(base.tokens or self._retold(base)) if base else []
        self._earlier = len(self._tokens)  # tokens of the answer that earlier replies gave
        self._answers: list[Answer] = []
        self._taken: Stream | None = None  # whose answer is among them already
        self._whole = not base or bool(base.tokens)  # whether the tokens say the text from its beginning
        self._cancelled = False
        self.overflows: list[Overflow] = []
        self.stream = self._submit()

    def _retold(self, base: SavedTurn) -> Sequence[int]:
        """The tokens of an answer that are not known as they were given: those of its text behind the prompt."""
        talk = self._conversation
        prompt = talk.tokens(self._turns, base.question)
        whole = talk.tokens(self._turns, base.question, base.answer)
        return whole[len(prompt) :] if whole[: len(prompt)] == prompt else talk.runtime.model.tokenize(base.answer)

    def _submit(self) -> Stream:
        talk, left = self._conversation, self._left()
        fitted = talk.fitted(self._turns, self.question, self._tokens, left)
        sampling = replace(talk.sampling, max_tokens=left)
        begun = min(len(self._tokens), len(fitted.read) - fitted.kept)
        self._whole = self._whole and begun == len(self._tokens)
        request = talk.runtime.request_of(tuple(fitted.read), sampling, begun=begun, grammar=talk.grammar)
        self._before_prompt = talk.runtime.engine.work[0]
        if talk.current is not None:
            talk.current.cancel()  # one that an interruption left behind
        stream = talk.current = talk.runtime.engine.submit(request)
        self.read, self.meant, self.new = fitted.read, fitted.meant, []  # type: list[int], list[int], list[int]
        if fitted.first is not None:
            talk.dropped = fitted.first
        if fitted.overflow:
            self.overflows.append(fitted.overflow)
        return stream

    def _left(self) -> int | None:
        most = self._conversation.sampling.max_tokens
        return None if most is None else most - (len(self._tokens) - self._earlier)

    def __iter__(self) -> Iterator[str]:
        """Pieces of text, each of whole characters. Raises what the request failed with."""
        while True:
            for piece in self.stream:
                self._text.append(piece)
                yield piece
            if self.stream is self._taken:  # before an interruption
                return
            answer, self._taken = self.stream.answer, self.stream
            self._answers.append(answer)
            self.new = list(answer.tokens[len(answer.tokens) - answer.usage.completion_tokens :])
            self._tokens += self.new
            if not self._is_cut(answer) or not self._goes_on():
                return

    def _is_cut(self, answer: Answer) -> bool:
        """Whether it ended because the context is full."""
        return answer.finish_reason == "length" and self._left() != 0 and not self._cancelled

    def _goes_on(self) -> bool:
        """Make room and ask for the rest; false where none can be made."""
        talk = self._conversation
        if talk.overflow == "error":
            return False
        if talk.overflow == "shift":
            if talk.grammar:  # its place in the document would be lost with the document's beginning
                return False
            talk.remember(self)
        else:
            alone = len(talk.tokens([], self.question)) + len(self._tokens)
            if talk.dropped >= len(self._turns) or alone + _LEAST_ROOM > talk.runtime.engine.longest:
                return False
        try:
            self.stream = self._submit()
        except StellarError:  # what came is worth more than the reason
            return False
        return True

    @property
    def computed(self) -> int:
        """How many tokens of the prompt were computed so far; those that were in memory are none of them."""
        return self._conversation.runtime.engine.work[0] - self._before_prompt

    @property
    def reading(self) -> tuple[int, int]:
        """How many tokens of the prompt are computed, and how many must be; (0, 0) before that is known."""
        job = self.stream.job
        return (self.computed, len(self.read) - job.cached) if job and job.started else (0, 0)

    def cancel(self) -> None:
        """Stop within one step; what came stays."""
        self._cancelled = True
        self.stream.cancel()

    @property
    def answer(self) -> Answer:
        """The finished answer in one, what earlier replies gave of it included. Read it after the pieces."""
        first, last = self._answers[0], self._answers[-1]
        made = sum(answer.usage.completion_tokens for answer in self._answers)
        again = sum(answer.timing.prompt + answer.timing.generation for answer in self._answers[1:])
        ended = "cancelled" if self._cancelled and last.finish_reason == "length" else last.finish_reason
        return replace(
            last,
            # The engine's own holds placeholders whole that were cut on the screen.
            text=last.text if self._whole else "".join(self._text),
            finish_reason=ended,
            tokens=tuple(self._tokens),
            seed=first.seed,
            usage=Usage(first.usage.prompt_tokens, made, first.usage.cached_tokens),
            timing=Timing(first.timing.queued, first.timing.prompt, first.timing.generation + again),
        )
