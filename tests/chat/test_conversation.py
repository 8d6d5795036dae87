"""Conversations: what is computed again after undo, edit and regenerate (counted), and what gives way when it is full."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stellar_local.chat.conversation import Conversation, Reply
from stellar_local.config import RuntimeOptions, SamplingOptions
from stellar_local.errors import RequestError
from stellar_local.session import Runtime, template_of

GREEDY = SamplingOptions(temperature=0, max_tokens=8)


@pytest.fixture(params=["spm", "bpe", "spm-jinja", "bpe-jinja"], scope="module")
def runtime(request: pytest.FixtureRequest, spm_model: Path, bpe_model: Path) -> Iterator[Runtime]:
    """Both kinds of vocabulary, under our template and under the file's Jinja, as a foreign GGUF has it."""
    kind, _, jinja = request.param.partition("-")
    with Runtime(spm_model if kind == "spm" else bpe_model, RuntimeOptions(ctx=512)) as runtime:
        if jinja:
            runtime.model.header.metadata.pop("stellar.template")
            found = template_of(runtime.model)
            assert found is not None
            runtime.template = found
        yield runtime


@pytest.fixture
def talk(runtime: Runtime) -> Conversation:
    talk = Conversation(runtime, GREEDY)
    assert talk.ask("warm up: nothing of this is shared").answer_now()
    return talk


def said(talk: Conversation, reply: Reply) -> int:
    """Let a reply come and keep it; returns how many tokens of its prompt were computed."""
    before = talk.runtime.engine.work[0]
    assert "".join(reply) is not None
    computed = talk.runtime.engine.work[0] - before
    assert talk.keep(reply)
    return computed


def common(first: tuple[int, ...], second: tuple[int, ...]) -> int:
    count = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        count += 1
    return count
