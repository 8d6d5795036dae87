"""A model made ready to talk to: opened, with its template, its engine, and conversations over them.

Joins native, engine and prompts. Knows nothing of terminals, streams of lines or folders of levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType

from .chat_template import ChatTemplate
from .config import RuntimeOptions, SamplingOptions, model_defaults
from .engine import Answer, Engine, Request, Stream
from .native.context import Context
from .native.model import ALL_LAYERS, Model
from .prompts import BOS, EOS, Renderer, Special, Text, Turn, load_template, parse_template, token_ids

DEFAULT_CONTEXT = 4096
FALLBACK_TEMPLATE = "bayling"
TEMPLATE_KEY = "stellar.template"  # GGUF metadata that stellar convert writes: the template file's JSON text


def template_of(model: Model) -> Renderer | None:
    """The template a GGUF brings: ours if stellar convert wrote it, else its Jinja chat template, else None."""
    metadata = model.header.metadata
    if source := metadata.get(TEMPLATE_KEY):
        return parse_template(str(source), str(metadata.get(TEMPLATE_KEY + ".name", "the model's own")))
    if source := metadata.get("tokenizer.chat_template"):
        return ChatTemplate(
            str(source), model.special_texts(), model.token_text(model.bos), model.token_text(model.eos)
        )
    return None


class Runtime:
    """A loaded model with an engine of `sequences` sequences. Close it, or use it as a context manager.

    `sampling` holds the model's own defaults of sampling options by name, `notes` what the user should be told about
    choices made while opening. Raises ModelError, UsageError.
    """

    def __init__(self, path: Path, options: RuntimeOptions, sequences: int = 1) -> None:
        self.notes: list[str] = []
        chosen = load_template(options.template) if options.template else None  # before the slow part
        self.model = Model(path, gpu_layers=ALL_LAYERS if options.gpu_layers is None else options.gpu_layers)
        try:
            self.sampling, unusable = model_defaults(SamplingOptions, self.model.header.metadata)
            self.notes += unusable
            self.template: Renderer = chosen or template_of(self.model) or self._fallback()
            trained = self.model.n_ctx_train
            size = options.ctx or min(DEFAULT_CONTEXT, trained)
            if size > trained:
                self.notes.append(f"the context of {size} exceeds the {trained} tokens this model was trained on")
            self.engine = Engine(Context(self.model, size, sequences, threads=options.threads or 0, kv_type=options.kv))
        except BaseException:
            self.model.close()
            raise

    def _fallback(self) -> Renderer:
        self.notes.append(f"this model brings no chat template; using {FALLBACK_TEMPLATE} (choose with --template)")
        return load_template(FALLBACK_TEMPLATE)

    def tokens(self, turns: Sequence[Turn], system: str | None = None) -> tuple[int, ...]:
        """A conversation as the token ids of its prompt, BOS included where template and model want it."""
        segments = self.template.render(turns, system)
        ids = token_ids(segments, self.model.tokenize, self.special)
        bos, wanted = self.model.bos, self.template.add_bos
        if (self.model.add_bos if wanted is None else wanted) and bos is not None and ids[:1] != [bos]:
            ids.insert(0, bos)
        return tuple(ids)

    def special(self, token: str) -> int | None:
        """The id of a template's special token, or None where the vocabulary lacks it."""
        if token in (EOS, BOS):
            return self.model.eos if token == EOS else self.model.bos
        return self.model.special(token)

    def request(self, turns: Sequence[Turn], sampling: SamplingOptions, system: str | None = None) -> Request:
        """Render and tokenize a conversation into a request. The template's stops are added to the sampling's."""
        texts = tuple(part.text for part in self.template.stop if isinstance(part, Text))
        named = (self.special(part.token) for part in self.template.stop if isinstance(part, Special))
        return Request(
            tokens=self.tokens(turns, system),
            sampling=replace(sampling, stop=sampling.stop + texts),
            stop_tokens=frozenset(token for token in named if token is not None),
            replace=self.template.identity,
        )

    def close(self) -> None:
        """Stop the engine and free the model."""
        self.engine.close()
        self.model.close()

    def __enter__(self) -> Runtime:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass
class Conversation:
    """Turns with memory. What the model reads again is rendered anew; the engine finds what it has in memory.

    `dropped` counts the oldest turns that no longer fit and were left out of the last prompt.
    """

    runtime: Runtime
    sampling: SamplingOptions
    system: str | None = None
    turns: list[Turn] = field(default_factory=list)
    dropped: int = 0
    _asked: str = field(default="", init=False)

    def ask(self, text: str) -> Stream:
        """Send a message; hand the finished stream's answer to `keep`.

        Whole oldest turns are left out while the prompt does not fit beside an answer. Raises RequestError if the
        message alone does not.
        """
        turns = [*self.turns, Turn(text)]
        room = self.runtime.engine.context.n_ctx
        # A quarter of the context stays free for the answer, or less if less was asked for.
        wanted = min(self.sampling.max_tokens or room // 4, room // 4)
        self.dropped = 0
        while True:
            request = self.runtime.request(turns[self.dropped :], self.sampling, self.system)
            if len(request.tokens) + wanted <= room or self.dropped == len(self.turns):
                break
            self.dropped += 1
        stream = self.runtime.engine.submit(request)
        self._asked = text
        return stream

    def keep(self, answer: Answer) -> None:
        """Remember the last question with its answer, also one cut short; an empty one is forgotten."""
        if answer.text.strip():
            self.turns.append(Turn(self._asked, answer.text))

    def clear(self) -> None:
        """Forget all turns; the system line stays."""
        self.turns.clear()
        self.dropped = 0
