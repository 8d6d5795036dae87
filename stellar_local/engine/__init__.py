"""Many requests over one context: scheduling, prefix reuse, sampling, incremental text.

Layers: scheduler > slots > structure > closing, lark, schema > gbnf, text, request
Knows token ids, not prompts: whoever submits a request has rendered and tokenized it.
"""

from .request import Answer, Request, Timing, Usage
from .scheduler import Engine, Stream

__all__ = ["Answer", "Engine", "Request", "Stream", "Timing", "Usage"]
