"""Scored requests: how likely given tokens are, against Transformers, and beside requests that generate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from stellar_local.config import SamplingOptions
from stellar_local.engine import Engine, Request
from stellar_local.engine.likelihood import log_likelihoods, normalisers
from stellar_local.errors import RequestError
from stellar_local.native.context import Context
from stellar_local.native.model import Model

TEXT = "The Sun is a star. 太阳是一颗恒星。月球绕着地球转，地球绕着太阳转。 Who are you? 黑洞是引力极强的天体，α Lyrae."
CLOSE = 3e-3  # keys and values are kept in 16 bits


@pytest.fixture(scope="module")
def ids(model: Model) -> tuple[int, ...]:
    return (model.bos or 1, *model.tokenize(TEXT))


@pytest.fixture(scope="module")
def wanted(spm_base: Path, ids: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """log p of each token after the first, by Transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(spm_base, dtype=torch.float32)(torch.tensor([ids])).logits[0]
    found = torch.log_softmax(logits.double(), -1)[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]
    return np.asarray(found)


def engine(model: Model, **more: int) -> Engine:
    return Engine(Context(model, 512, more.pop("sequences", 4), n_batch=64, **more))


@pytest.mark.parametrize("outputs", [0, 7, 64])
def test_scores_are_those_of_transformers(
    model: Model, ids: tuple[int, ...], wanted: npt.NDArray[np.float64], outputs: int
) -> None:
    with engine(model, outputs=outputs) as one:
        for scored in (len(ids) - 1, 9, 1):
            answer = one.submit(Request(ids, scored=scored)).answer
            assert answer.scores == pytest.approx(wanted[-scored:], abs=CLOSE)
            assert (answer.text, answer.tokens, answer.usage.completion_tokens) == ("", (), 0)
            assert answer.finish_reason == "stop"


def test_a_look_sees_every_row_once_and_in_order(model: Model, ids: tuple[int, ...]) -> None:
    seen: list[tuple[int, npt.NDArray[np.float32]]] = []
    with engine(model, outputs=5) as one:
        answer = one.submit(Request(ids, scored=20, look=lambda at, rows: seen.append((at, rows.copy())))).answer
    assert [at for at, _ in seen] == list(np.cumsum([0, *(len(rows) for _, rows in seen)])[:-1])
    rows = np.concatenate([rows for _, rows in seen])
    assert rows.shape == (20, model.n_vocab)
    assert log_likelihoods(rows, ids[-20:]) == pytest.approx(answer.scores)


def test_options_share_their_prompt(model: Model, ids: tuple[int, ...]) -> None:
    """Each option costs its own tokens only: what stands before them is computed once."""
    options = [tuple(model.tokenize(text)) for text in ("A", "B", "恒星", "star")]
    with engine(model) as one:
        streams = [one.submit(Request(ids + option, scored=len(option))) for option in options]
        answers = [stream.answer for stream in streams]
        computed, generated = one.work
    assert generated == 0
    assert computed <= len(ids) + sum(map(len, options)) + len(options)
    with engine(model) as one:
        alone = [one.submit(Request(ids + option, scored=len(option))).answer for option in options]
    for together, single in zip(answers, alone, strict=True):
        assert together.scores == pytest.approx(single.scores, abs=CLOSE)


def test_scoring_beside_generating_and_after_a_preemption(model: Model, ids: tuple[int, ...]) -> None:
    """With little memory, and answers that grow meanwhile, each gets what it gets alone."""
    greedy = SamplingOptions(temperature=0, max_tokens=40)
    with engine(model) as one:
        score = one.submit(Request(ids, scored=len(ids) - 1)).answer.scores
        said = one.submit(Request(ids[:12], greedy)).answer.tokens
    with Engine(Context(model, 160, 6, n_batch=64, outputs=9)) as one:
        streams = [
            one.submit(Request(ids, scored=len(ids) - 1) if number % 2 else Request(ids[:12], greedy))
            for number in range(12)
        ]
        for number, stream in enumerate(streams):
            if number % 2:
                assert stream.answer.scores == pytest.approx(score, abs=CLOSE)
            else:
                assert stream.answer.tokens[:4] == said[:4]


def test_deterministic_scores_are_the_same_each_time(model: Model, ids: tuple[int, ...]) -> None:
    with Engine(Context(model, 512, 1, n_batch=64, outputs=16), deterministic=True) as one:
        first, again = (one.submit(Request(ids, scored=30)).answer.scores for _ in range(2))
    assert first == again


@pytest.mark.parametrize(("scored", "begun"), [(-1, 0), (10**6, 0), (3, 2)])
def test_what_cannot_be_scored_is_refused(model: Model, ids: tuple[int, ...], scored: int, begun: int) -> None:
    with engine(model) as one, pytest.raises(RequestError, match="scored"):
        one.submit(Request(ids, scored=scored, begun=begun))


def test_a_look_that_fails_ends_its_request_alone(model: Model, ids: tuple[int, ...]) -> None:
    def look(at: int, rows: object) -> None:
        raise ValueError("no")

    with engine(model) as one:
        failing, other = one.submit(Request(ids, scored=5, look=look)), one.submit(Request(ids, scored=5))
        with pytest.raises(RequestError, match="ValueError: no"):
            failing.answer  # noqa: B018
        assert len(other.answer.scores) == 5


def test_normalisers_of_large_logits() -> None:
    rows = np.array([[1000.0, 1000.0], [-1e30, 0.0]], np.float32)
    assert normalisers(rows) == pytest.approx([1000 + np.log(2), 0.0])
