"""Scored requests: how likely given tokens are, against Transformers, and beside requests that generate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from engine_cases import endless

from stellar_local.config import SamplingOptions
from stellar_local.engine import Engine, Request
from stellar_local.engine.likelihood import log_likelihoods, normalisers
from stellar_local.engine.scheduler import Scheduler
from stellar_local.errors import ModelError, RequestError
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


def test_a_scored_request_that_gave_up_its_place_goes_on(
    model: Model, ids: tuple[int, ...], wanted: npt.NDArray[np.float64], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers that were thought to need no memory take it after all: scored requests lose their cells half-way."""
    monkeypatch.setattr(Scheduler, "_expected", lambda *_: 0)
    lost: list[int] = []
    make_room = Scheduler._make_room

    def watched(scheduler: Scheduler) -> bool:
        before = [job for job in scheduler.running if job.request.scored and job._scores]
        found = make_room(scheduler)
        lost.extend(len(job._scores) for job in before if job not in scheduler.running)
        return found

    monkeypatch.setattr(Scheduler, "_make_room", watched)
    seen: list[int] = []
    context = Context(model, 256, 4, n_batch=32, outputs=6)
    with Engine(context) as one:
        more = SamplingOptions(temperature=0, max_tokens=110, logit_bias=endless(model).logit_bias)
        streams = [one.submit(Request((1, 20 + number), more)) for number in range(2)]
        scored = one.submit(Request(ids, scored=len(ids) - 1, look=lambda at, rows: seen.append(at)))
        answer = scored.answer
        for stream in streams:
            stream.cancel()
    assert answer.scores == pytest.approx(wanted, abs=CLOSE)
    assert seen == sorted(set(seen))
    assert not lost or max(lost) < len(ids)


def test_texts_that_are_only_read_take_few_cells(model: Model, ids: tuple[int, ...]) -> None:
    """No more of them are read at once than fill a call, and they leave nothing that no other begins with."""
    texts = [(1, *(5 + (number * 37 + place) % 400 for place in range(60))) for number in range(12)]
    together: list[int] = []
    with Engine(Context(model, 2048, 12, n_batch=64, outputs=64)) as one:
        decode = one.context.decode

        def watched(chunks: object) -> object:
            together.append(len({chunk.sequence for chunk in chunks}))  # type: ignore[attr-defined]
            return decode(chunks)  # type: ignore[arg-type]

        one.context.decode = watched  # type: ignore[assignment, method-assign]
        for stream in [one.submit(Request(text, scored=59)) for text in texts]:
            assert len(stream.answer.scores) == 59
        memory = one._scheduler.memory
        assert max(together) <= 3
        assert one.context.n_ctx - memory.free <= 2 * 60


def test_what_is_no_number_fails_its_request(
    model: Model, ids: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stellar_local.engine.job.log_likelihoods", lambda rows, ids: np.full(len(rows), np.nan))
    with engine(model) as one, pytest.raises(ModelError, match="NaN or infinite"):
        one.submit(Request(ids, scored=5)).answer  # noqa: B018


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
