"""Many requests over one context: continuous batching, prefix reuse, sampling, incremental text.

Layers: engine > kept, scheduler > prefixes > memory, job > likelihood, text, request > structure > closing, lark,
schema > gbnf
Knows token ids, not prompts: whoever submits a request has rendered and tokenized it.
"""

from .engine import Engine, Stream
from .request import Answer, Request, Timing, TokenLogprob, Usage
from .structure import Grammar, Structures

__all__ = ["Answer", "Engine", "Grammar", "Request", "Stream", "Structures", "Timing", "TokenLogprob", "Usage"]
