"""A model made ready to talk to: opened, with its template, its engine, and conversations over them.

Joins native, engine and prompts. Knows nothing of terminals, streams of lines or folders of levels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from .chat_template import ChatTemplate
from .config import RuntimeOptions, SamplingOptions, model_defaults
from .engine import Answer, Engine, Grammar, Request, Stream, Structures
from .errors import RequestError, UsageError
from .native.adapter import Adapter
from .native.context import Context
from .native.model import ALL_LAYERS, Model
from .prompts import BOS, EOS, Renderer, Special, Text, Turn, load_template, parse_template, token_ids

DEFAULT_CONTEXT = 4096  # tokens, where nobody says otherwise
_MOST_SCALE = 100  # of a LoRA adapter; beyond, numbers overflow
KEPT_PREFIXES = 8  # sequences beyond the running ones, which keep what earlier prompts began with
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


def _parse_adapters(texts: Sequence[str]) -> dict[str, tuple[Path, float]]:
    """FILE[:SCALE] texts → file and scale by the file's stem. Raises UsageError."""
    found: dict[str, tuple[Path, float]] = {}
    for text in texts:
        head, colon, tail = text.rpartition(":")
        try:
            path, scale = (Path(head), float(tail)) if colon and not Path(text).exists() else (Path(text), 1.0)
        except ValueError:
            path, scale = Path(text), 1.0  # a colon of the path's own, as in C:\\adapter.gguf
        if not abs(scale) <= _MOST_SCALE:
            raise UsageError(f"--lora {text}: the scale must be a number from -{_MOST_SCALE} to {_MOST_SCALE}")
        if path.stem in found:
            raise UsageError(f"--lora names two adapters {path.stem}", "rename one of the files")
        found[path.stem] = path, scale
    return found


def asked_cells(options: RuntimeOptions, parallel: int = 1, per_request: int | None = None) -> int | None:
    """The tokens of KV memory that a user asks for; None: as many as are usual."""
    return per_request * parallel if per_request else options.ctx


class Runtime:
    """A loaded model with an engine that runs `parallel` requests at once. Close it, or use it as a context manager.

    They share the context; with `per_request` each has that many tokens of its own instead.

    `sampling` holds the model's own defaults of sampling options by name, `adapters` the scales of the --lora adapters
    by their files' stems, `notes` what the user should be told about choices made while opening. Raises ModelError,
    UsageError.
    """

    def __init__(
        self,
        path: Path,
        options: RuntimeOptions,
        parallel: int = 1,
        deterministic: bool = False,
        per_request: int | None = None,
    ) -> None:
        self.notes: list[str] = []
        chosen = load_template(options.template) if options.template else None  # before the slow part
        adapters = _parse_adapters(options.lora)
        self.model = Model(path, gpu_layers=ALL_LAYERS if options.gpu_layers is None else options.gpu_layers)
        try:
            self.sampling, unusable = model_defaults(SamplingOptions, self.model.header.metadata)
            self.notes += unusable
            self.template: Renderer = chosen or template_of(self.model) or self._fallback()
            self._loaded = {name: Adapter(self.model, file) for name, (file, _) in adapters.items()}
            self.adapters = {name: scale for name, (_, scale) in adapters.items()}
            self._structures = Structures(self.model)
            self.engine = self._engine(options, parallel, deterministic, per_request)
        except BaseException:
            self.model.close()
            raise

    def _engine(self, options: RuntimeOptions, parallel: int, deterministic: bool, per_request: int | None) -> Engine:
        trained = self.model.n_ctx_train
        size = asked_cells(options, parallel, per_request) or min(DEFAULT_CONTEXT, trained)
        # With memory of their own, idle sequences would take what no other can use.
        sequences = parallel if per_request or deterministic or parallel == 1 else parallel + KEPT_PREFIXES
        if parallel == 1 and size > trained:
            self.notes.append(f"the context of {size} exceeds the {trained} tokens this model was trained on")
        context = Context(
            self.model,
            size,
            sequences,
            threads=options.threads or 0,
            kv_type=options.kv,
            unified=per_request is None,
        )
        # Several requests share the context; one alone may fill it, but not beyond what the model was trained on.
        longest = min(per_request or trained, trained) if parallel > 1 else per_request
        try:
            return Engine(context, parallel, deterministic, longest)
        except BaseException:
            context.close()
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

    def request(
        self,
        turns: Sequence[Turn],
        sampling: SamplingOptions,
        system: str | None = None,
        *,
        schema: dict[str, Any] | bool | None = None,
        grammar: str | None = None,
        lora: Mapping[str, float | None] | None = None,
    ) -> Request:
        """Render and tokenize a conversation into a request. The template's stops are added to the sampling's.

        `schema` is a JSON schema, `grammar` a GBNF text that the answer must follow. `lora` are the adapters to use by
        their files' stems, and their scales (None: as given with --lora, or 1 where that is 0); None in all is what
        --lora says. Raises UsageError where the template cannot render it, RequestError for a grammar that cannot be
        used or an adapter that was not loaded.
        """
        texts = tuple(part.text for part in self.template.stop if isinstance(part, Text))
        named = (self.special(part.token) for part in self.template.stop if isinstance(part, Special))
        return Request(
            tokens=self.tokens(turns, system),
            sampling=replace(sampling, stop=sampling.stop + texts),
            stop_tokens=frozenset(token for token in named if token is not None),
            replace=self.template.identity,
            grammar=self.structure(schema, grammar),
            adapters=self._named(self.adapters if lora is None else lora),
        )

    def structure(self, schema: dict[str, Any] | bool | None, grammar: str | None) -> Grammar | None:
        """What answers under a JSON schema or a GBNF text must look like, None for neither. Raises RequestError."""
        if schema is not None:
            return self._structures.schema(schema)
        return None if grammar is None else self._structures.gbnf(grammar)

    def _named(self, lora: Mapping[str, float | None]) -> tuple[tuple[Adapter, float], ...]:
        if unknown := sorted(set(lora) - set(self._loaded)):
            known = ", ".join(self._loaded) or "none"
            raise RequestError(
                "unknown_adapter", f"no such adapter: {', '.join(unknown)}", f"loaded with --lora: {known}"
            )
        scales = {name: (self.adapters[name] or 1.0) if scale is None else scale for name, scale in lora.items()}
        if wrong := [name for name, scale in scales.items() if not abs(scale) <= _MOST_SCALE]:
            raise RequestError("invalid_field", f"the scale of adapter {wrong[0]} must be within ±{_MOST_SCALE}")
        return tuple((self._loaded[name], float(scale)) for name, scale in sorted(scales.items()) if scale)

    def close(self) -> None:
        """Stop the engine and free the model."""
        try:
            self.engine.close()
        finally:
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
        room = self.runtime.engine.longest
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
