"""In a child process: a model opened as chat opens it, some 128 tokens read and some generated; how fast, and where.

llama.cpp's own log says to which device each layer went; it is this process's stderr.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..config import SamplingOptions
from ..engine import Request
from ..flags import Setup
from ..native.cores import default_threads
from ..prompts import Turn
from ..runtime import Runtime

_PROMPT = 128  # tokens at least, where the context holds them: the time of a few says little of the speed
_SENTENCE = "Stars are born in clouds of gas and dust, and the gravity of the cloud draws it together. "
_SHARE = 0.8  # of the time: what has come by then is told


def main(tell: Callable[..., None], model: str, seconds: float, tokens: int) -> None:
    """Open it, read and generate; what is not done shortly before `seconds` have passed is left undone."""
    begun = time.monotonic()

    def left() -> float:
        return max(0.0, begun + _SHARE * seconds - time.monotonic())

    tell(stage="load")
    with Setup({}, verbose=True).open(Path(model)) as runtime:
        context = runtime.engine.context
        tell(
            load=time.monotonic() - begun,
            size=runtime.model.size,
            layers=runtime.model.header.value("block_count"),
            context=context.n_ctx,
            threads=runtime.options.threads or default_threads(),
            stage="prompt",
        )
        stream = runtime.engine.submit(request_of(runtime, tokens))
        if stream.wait(left()):
            tell(stage="answer")
        if not stream.wait_end(left()):
            stream.cancel()
        answer = stream.answer
        count = answer.usage.completion_tokens
        tell(
            prompt_tokens=answer.usage.prompt_tokens,
            tokens=count,
            prompt_speed=answer.usage.prompt_tokens / max(answer.timing.prompt, 1e-9),
            speed=answer.timing.tokens_per_second(count),
            finite=all(math.isfinite(entry.logprob) for entry in answer.logprobs),
        )


def request_of(runtime: Runtime, tokens: int) -> Request:
    """A prompt of some length, and so many tokens to follow it if the context holds them: nothing ends them before."""
    model, room = runtime.model, runtime.engine.context.capacity
    text = _SENTENCE
    while len(model.tokenize(text)) < min(_PROMPT, room // 4):
        text += _SENTENCE
    ends = tuple((token, -100.0) for token in range(model.n_vocab) if model.is_eog(token))
    sampling = SamplingOptions(temperature=0, max_tokens=tokens, logprobs=0, logit_bias=ends)
    made = runtime.request([Turn(text)], sampling)
    return replace(made, tokens=made.tokens[: max(1, room // 2)], stop_tokens=frozenset(), sampling=sampling)
