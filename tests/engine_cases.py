"""What the tests of the engine share: a tiny model, an engine over it, prompts, failing decodes, what must hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stellar_local.config import SamplingOptions
from stellar_local.engine import Engine
from stellar_local.native.context import Chunk, Context
from stellar_local.native.model import Model

GREEDY = SamplingOptions(temperature=0, max_tokens=12)

PROMPTS = [(1, 20, 300, 41, 77, 5), (1, 9, 8, 7), (1, *range(100, 140)), (1, 400)]


@pytest.fixture(scope="module")
def model(spm_model: Path) -> Iterator[Model]:
    """The tiny SentencePiece model, loaded."""
    with Model(spm_model) as model:
        yield model


@pytest.fixture
def engine(model: Model) -> Iterator[Engine]:
    # With the attention that several sequences have, whose answers are compared with this one's.
    with Engine(Context(model, 256, n_batch=32, flash_attn="on")) as engine:
        yield engine


def endless(model: Model) -> SamplingOptions:
    """How to answer for as long as there is room: no end is ever drawn."""
    ends = tuple((token, -100.0) for token in range(model.n_vocab) if model.is_eog(token))
    return SamplingOptions(temperature=2, min_p=0, logit_bias=ends)


class Failing:
    """Stands before llama_decode and returns `code` from call `first` on, `times` times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, context: Context, code: int, first: int, times: int) -> None:
        self.calls = 0
        decode = context._api.llama_decode

        def failing(handle: object, batch: object) -> int:
            self.calls += 1
            return code if first <= self.calls < first + times else int(decode(handle, batch))

        monkeypatch.setattr(context._api, "llama_decode", failing)


def assert_cells_add_up(engine: Engine) -> None:
    memory = engine._scheduler.memory
    assert memory.free + sum(users > 0 for users in memory._users) == engine.context.n_ctx


def is_greedy(model: Model, prompt: tuple[int, ...], answer: tuple[int, ...]) -> bool:
    """Whether each token is the likeliest, or as likely within what rounding in differently composed batches costs."""
    with Context(model, 512, outputs=512, n_batch=512) as context:
        tokens = [*prompt, *answer]
        context.decode([Chunk(0, 0, tokens, len(answer) + 1)])
        rows = context.logits[:-1]
        return all(float(row.max() - row[token]) < 0.02 for row, token in zip(rows, answer, strict=True))
