"""A model made ready to talk to: opened, with its template, its adapters and its engine.

Joins native, engine and prompts. Knows nothing of conversations, terminals, streams of lines or folders of levels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

from .answered import answered, joined
from .chat_template import ChatTemplate
from .config import RuntimeOptions, SamplingOptions, model_defaults
from .engine import Engine, Grammar, Request, Structures
from .errors import RequestError, UsageError
from .files import is_there
from .native.adapter import Adapter
from .native.context import Context
from .native.model import ALL_LAYERS, Model
from .prompts import BOS, EOS, Renderer, Special, Text, Turn, load_template, merged, parse_template, token_ids

DEFAULT_CONTEXT = 4096  # tokens, where nobody says otherwise
DEFAULT_KV = "f16"
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


def parse_adapter(text: str) -> tuple[Path, float]:
    """FILE[:SCALE] as file and scale. Raises UsageError for a scale that is out of range."""
    head, colon, tail = text.rpartition(":")
    try:
        path, scale = (Path(head), float(tail)) if colon and not is_there(Path(text)) else (Path(text), 1.0)
    except ValueError:
        path, scale = Path(text), 1.0  # a colon of the path's own, as in C:\\adapter.gguf
    return path, checked_scale(scale, f"--lora {text}: the scale")


def checked_scale(scale: float, name: str) -> float:
    """A LoRA scale that numbers can bear. Raises UsageError."""
    if not abs(scale) <= _MOST_SCALE:  # NaN fails this as well
        raise UsageError(f"{name} must be a number from -{_MOST_SCALE} to {_MOST_SCALE}")
    return scale


def _parse_adapters(texts: Sequence[str]) -> dict[str, tuple[Path, float]]:
    """FILE[:SCALE] texts → file and scale by the file's stem. Raises UsageError."""
    found: dict[str, tuple[Path, float]] = {}
    for text in texts:
        path, scale = parse_adapter(text)
        if path.stem in found:
            raise UsageError(f"--lora names two adapters {path.stem}", "rename one of the files")
        found[path.stem] = path, scale
    return found


def sequences_of(parallel: int, separate: bool) -> int:
    """How many sequences a context has for so many requests at once: some more, which keep what earlier prompts began
    with, unless each has memory of its own, where idle ones would take what no other can use.
    """
    return parallel if separate or parallel == 1 else parallel + KEPT_PREFIXES


def check_batch(batch_size: int, parallel: int) -> None:
    """Raise UsageError where a batch cannot hold the next token of so many requests at once."""
    if batch_size < parallel:
        raise UsageError(
            f"--batch-size {batch_size} has no room for the next token of {parallel} answers at once",
            f"give at least {parallel}, or a smaller --parallel",
        )


def asked_cells(options: RuntimeOptions, parallel: int = 1, per_request: int | None = None) -> int | None:
    """The tokens of KV memory that a user asks for; None: as many as are usual."""
    return per_request * parallel if per_request else options.ctx


class Runtime:
    """A loaded model with an engine that runs `parallel` requests at once. Close it, or use it as a context manager.

    They share the context; with `per_request` each has that many tokens of its own instead. `outputs` bounds how many
    logits of prompts are read at once, for measuring [default: one a sequence]. `prove` is given each
    context that is made, and whether adapters will run on it, before anything does, and raises what shows that it
    cannot be used.

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
        prove: Callable[[Context, bool], None] | None = None,
        outputs: int = 0,
    ) -> None:
        self.notes: list[str] = []
        self.options = options
        self._lanes, self._prove, self._outputs = (parallel, deterministic, per_request), prove, outputs
        check_batch(options.batch_size, parallel)
        chosen = load_template(options.template) if options.template else None  # before the slow part
        adapters = _parse_adapters(options.lora)
        self.model = Model(
            path,
            gpu_layers=ALL_LAYERS if options.gpu_layers is None else options.gpu_layers,
            mmap=options.mmap,
            mlock=options.mlock == "on",
            tensor_split=options.tensor_split,
        )
        self.notes += self.model.notes
        try:
            self.sampling, unusable = model_defaults(SamplingOptions, self.model.header.metadata)
            self.notes += unusable
            self.template: Renderer = chosen or self.own_template()
            self._loaded = {name: Adapter(self.model, file) for name, (file, _) in adapters.items()}
            self.adapters = {name: scale for name, (_, scale) in adapters.items()}
            self._structures = Structures(self.model)
            self.engine = self._engine(bool(self._loaded))
        except BaseException:
            self.model.close()
            raise

    def _engine(self, adapted: bool) -> Engine:
        options, trained = self.options, self.model.n_ctx_train
        parallel, deterministic, per_request = self._lanes
        size = asked_cells(options, parallel, per_request) or min(DEFAULT_CONTEXT, trained)
        sequences = sequences_of(parallel, deterministic or per_request is not None)
        if parallel == 1 and size > trained:
            self.notes.append(f"the context of {size} exceeds the {trained} tokens this model was trained on")
        context = Context(
            self.model,
            size,
            sequences,
            n_batch=options.batch_size,
            threads=options.threads or 0,
            kv_type=options.kv or DEFAULT_KV,
            outputs=self._outputs,
            unified=per_request is None,
            flash_attn=options.flash_attn,
        )
        # Several requests share the context; one alone may fill it, but not beyond what the model was trained on.
        longest = min(per_request or trained, trained) if parallel > 1 else per_request
        try:
            if self._prove:
                self._prove(context, adapted)
            return Engine(context, parallel, deterministic, longest)
        except BaseException:
            context.close()
            raise

    def own_template(self) -> Renderer:
        """The template that the model brings, or the one used where it brings none, which is noted."""
        if found := template_of(self.model):
            return found
        self.notes.append(f"this model brings no chat template; using {FALLBACK_TEMPLATE} (choose with --template)")
        return load_template(FALLBACK_TEMPLATE)

    def tokens(self, turns: Sequence[Turn], system: str | None = None, begun: str = "") -> tuple[int, ...]:
        """A conversation as the token ids of its prompt, BOS included where template and model want it.

        `begun` is the beginning of the answer, which follows the prompt.
        """
        segments = merged([*self.template.render(turns, system), Text(begun)])
        ids = token_ids(segments, self.model.tokenize, self.special)
        return (*self.begin(ids), *ids)

    def answered(self, turn: Turn, system: str | None = None) -> tuple[tuple[int, ...], int]:
        """An exchange with its response as token ids up to the token that ends it, BOS as in `tokens`, and how many of
        them are the answer's, its end included. Raises what rendering raises.
        """
        prompt, whole = answered(self.template, turn, system)
        ids, head, _ = joined(prompt, whole, self.model.tokenize, self.special)
        begin = self.begin(ids)
        return (*begin, *ids), len(ids) - head

    def begin(self, ids: Sequence[int]) -> list[int]:
        """The BOS that these ids want before them, if template and model want one and it is not there."""
        bos, wanted = self.model.bos, self.template.add_bos
        needed = (self.model.add_bos if wanted is None else wanted) and bos is not None and list(ids[:1]) != [bos]
        return [bos] if needed and bos is not None else []

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
        return self.request_of(self.tokens(turns, system), sampling, grammar=self.structure(schema, grammar), lora=lora)

    def request_of(
        self,
        tokens: tuple[int, ...],
        sampling: SamplingOptions,
        *,
        begun: int = 0,
        grammar: Grammar | None = None,
        lora: Mapping[str, float | None] | None = None,
    ) -> Request:
        """A request of a prompt's token ids, of which the last `begun` are the beginning of the answer."""
        texts = tuple(part.text for part in self.template.stop if isinstance(part, Text))
        named = (self.special(part.token) for part in self.template.stop if isinstance(part, Special))
        return Request(
            tokens=tokens,
            sampling=replace(sampling, stop=sampling.stop + texts),
            stop_tokens=frozenset(token for token in named if token is not None),
            replace=self.template.identity,
            grammar=grammar,
            adapters=self.adapter_set(lora),
            begun=begun,
        )

    def structure(self, schema: dict[str, Any] | bool | None, grammar: str | None) -> Grammar | None:
        """What answers under a JSON schema or a GBNF text must look like, None for neither. Raises RequestError."""
        if schema is not None:
            return self._structures.schema(schema)
        return None if grammar is None else self._structures.gbnf(grammar)

    def adapter_set(self, lora: Mapping[str, float | None] | None = None) -> tuple[tuple[Adapter, float], ...]:
        """Adapters and scales by the files' stems, as a request wants them; those of --lora by default."""
        lora = self.adapters if lora is None else lora
        if unknown := sorted(set(lora) - set(self._loaded)):
            known = ", ".join(self._loaded) or "none"
            raise RequestError(
                "unknown_adapter", f"no such adapter: {', '.join(unknown)}", f"loaded with --lora: {known}"
            )
        scales = {name: (self.adapters[name] or 1.0) if scale is None else scale for name, scale in lora.items()}
        if wrong := [name for name, scale in scales.items() if not abs(scale) <= _MOST_SCALE]:
            raise RequestError("invalid_field", f"the scale of adapter {wrong[0]} must be within ±{_MOST_SCALE}")
        return tuple((self._loaded[name], float(scale)) for name, scale in sorted(scales.items()) if scale)

    @cached_property
    def vocabulary(self) -> str:
        """A digest of the vocabulary: token ids mean the same to models where it is equal."""
        tokens = self.model.header.metadata.get("tokenizer.ggml.tokens", [])
        return hashlib.sha256("\0".join(map(str, tokens)).encode("utf-8", "replace")).hexdigest()[:16]

    def adapter_path(self, name: str) -> Path:
        """The file of an adapter that is loaded."""
        return self._loaded[name].path

    def load_adapter(self, path: Path, scale: float) -> str:
        """Load one more LoRA adapter, or give one that is loaded another scale; returns its name, the file's stem.

        Nothing may be running. The context is made anew, as llama.cpp plans its graphs for the adapters that there
        are. Raises ModelError or UsageError, and all is as before.
        """
        name = path.stem
        checked_scale(scale, "the scale")
        if name in self._loaded:
            if self._loaded[name].path.resolve() != path.resolve():
                raise UsageError(f"another adapter named {name} is loaded", "rename one of the files")
            self.adapters[name] = scale
            return name
        adapter = Adapter(self.model, path)
        self.engine.close()
        try:
            self.engine = self._engine(True)
        except BaseException:
            adapter.close()
            self.engine = self._engine(bool(self._loaded))  # as large as the one that was there
            raise
        self._loaded[name], self.adapters[name] = adapter, scale
        return name

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
