"""Items → the engine's requests, by a runtime. Knows what a prompt may cost before it is tokenized."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import RequestError
from .fields import Item

if TYPE_CHECKING:
    from ..engine import Request
    from ..runtime import Runtime

_LEAST = 4  # bytes: an unknown character is one token


class Renderer:
    """Call it with an item to get its request. Raises StellarError for what cannot be run."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        tokens = runtime.model.header.metadata["tokenizer.ggml.tokens"]
        longest = max(_LEAST, *(len(token.encode("utf-8", "replace")) for token in tokens))
        self._most = longest * runtime.engine.longest

    def __call__(self, item: Item) -> Request:
        # llama.cpp's SentencePiece takes time by the square of a text's length: 21 s for 700,000 letters in one word,
        # hours for the longest line. What cannot fit even in the vocabulary's longest tokens is not tokenized.
        size = sum(len(turn.instruction) + len(turn.input) + len(turn.response or "") for turn in item.turns)
        size += len(item.system or "")
        if size > self._most:
            raise RequestError(
                "context_length_exceeded",
                f"the prompt has {size} characters, more than the {self._runtime.engine.longest} tokens of the "
                "context can hold",
                "shorten it, or allow more (--ctx, --per-request)",
            )
        return self._runtime.request(item.turns, item.sampling, item.system, **item.extra)
