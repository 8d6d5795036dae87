"""Each sampler by its definition or by llama.cpp's own chain, and that the choice of candidates changes nothing."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from stellar_local.config import SamplingOptions
from stellar_local.errors import RequestError
from stellar_local.native.context import Chunk, Context
from stellar_local.native.library import api
from stellar_local.native.model import Model
from stellar_local.native.sampler import Sampler, logprobs
from stellar_local.spec import specs

Row = npt.NDArray[np.float32]
PLAIN = SamplingOptions(temperature=1, top_k=0, top_p=1, min_p=0, seed=11)


class Hand:
    """A chain built through the C API, which sees every token of the vocabulary: the reference."""

    def __init__(self, *samplers: Any) -> None:
        self.chain = api().llama_sampler_chain_init(api().llama_sampler_chain_default_params())
        for sampler in samplers:
            api().llama_sampler_chain_add(self.chain, sampler)

    def sample(self, row: Row) -> int:
        data = (api().llama_token_data * len(row))(*[(token, float(logit), 0.0) for token, logit in enumerate(row)])
        candidates = api().llama_token_data_array(data, len(row), -1, False)
        api().llama_sampler_apply(self.chain, ctypes.byref(candidates))
        token = int(candidates.data[candidates.selected].id)
        self.accept(token)
        return token

    def accept(self, token: int) -> None:
        api().llama_sampler_accept(self.chain, token)


@pytest.fixture(scope="module")
def model(spm_model: Path) -> Iterator[Model]:
    with Model(spm_model) as model:
        yield model


def rows(count: int, size: int, spread: float = 3.0) -> Iterator[Row]:
    """Random logits, their largest drawn out a little as a model's are."""
    random = np.random.default_rng(3)
    for _ in range(count):
        row = random.normal(0, spread, size).astype(np.float32)
        row[random.integers(0, size, 5)] += 8
        yield row


def breakers() -> Any:
    return (ctypes.c_char_p * 4)(b"\n", b":", b'"', b"*")


# What the options say, and llama.cpp's samplers for it, in the order of its common/sampling.cpp.
CHAINS: dict[str, tuple[SamplingOptions, Callable[[Model], list[Any]]]] = {
    "default": (
        SamplingOptions(seed=11),
        lambda model: [
            api().llama_sampler_init_top_k(40),
            api().llama_sampler_init_top_p(0.95, 1),
            api().llama_sampler_init_min_p(0.05, 1),
            api().llama_sampler_init_temp(0.7),
            api().llama_sampler_init_dist(11),
        ],
    ),
    "nothing": (PLAIN, lambda model: [api().llama_sampler_init_dist(11)]),
    "typical": (
        replace(PLAIN, typical_p=0.6),
        lambda model: [api().llama_sampler_init_typical(0.6, 1), api().llama_sampler_init_dist(11)],
    ),
    "top_k and typical": (
        replace(PLAIN, top_k=20, typical_p=0.6),
        lambda model: [
            api().llama_sampler_init_top_k(20),
            api().llama_sampler_init_typical(0.6, 1),
            api().llama_sampler_init_dist(11),
        ],
    ),
    "xtc": (
        replace(PLAIN, top_k=30, xtc_probability=0.7, xtc_threshold=0.05),
        lambda model: [
            api().llama_sampler_init_top_k(30),
            api().llama_sampler_init_xtc(0.7, 0.05, 1, 11),
            api().llama_sampler_init_dist(11),
        ],
    ),
    "mirostat 1": (
        replace(PLAIN, mirostat=1, mirostat_tau=3, mirostat_eta=0.2, temperature=0.8, repeat_penalty=2, top_k=1),
        lambda model: [
            api().llama_sampler_init_temp(0.8),
            api().llama_sampler_init_mirostat(model.n_vocab, 11, 3, 0.2, 100),
        ],
    ),
    "mirostat 2": (
        replace(PLAIN, mirostat=2, mirostat_tau=3, mirostat_eta=0.2, temperature=0.8),
        lambda model: [api().llama_sampler_init_temp(0.8), api().llama_sampler_init_mirostat_v2(11, 3, 0.2)],
    ),
    "penalties before top_k": (
        replace(
            PLAIN,
            top_k=5,
            temperature=1.3,
            repeat_penalty=1.5,
            frequency_penalty=0.5,
            presence_penalty=1,
            repeat_last_n=30,
        ),
        lambda model: [
            api().llama_sampler_init_penalties(model.n_vocab, 30, 1.5, 0.5, 1),
            api().llama_sampler_init_top_k(5),
            api().llama_sampler_init_temp(1.3),
            api().llama_sampler_init_dist(11),
        ],
    ),
    "rewards before top_k": (  # a negative penalty raises tokens that no bound by the logits would show
        replace(PLAIN, top_k=3, presence_penalty=-9, repeat_last_n=-1),
        lambda model: [
            api().llama_sampler_init_penalties(model.n_vocab, model.n_ctx_train, 1, 0, -9),
            api().llama_sampler_init_top_k(3),
            api().llama_sampler_init_dist(11),
        ],
    ),
    "dry": (
        replace(PLAIN, top_k=8, dry_multiplier=0.8, dry_base=2, dry_allowed_length=1, dry_penalty_last_n=50),
        lambda model: [
            api().llama_sampler_init_dry(model.vocab, 0.8, 2, 1, 50, breakers(), 4),
            api().llama_sampler_init_top_k(8),
            api().llama_sampler_init_dist(11),
        ],
    ),
    "greedy with penalties": (
        replace(PLAIN, temperature=0, repeat_penalty=1.3),
        lambda model: [
            api().llama_sampler_init_penalties(model.n_vocab, 64, 1.3, 0, 0),
            api().llama_sampler_init_greedy(),
        ],
    ),
    "a top_k too large to narrow": (
        replace(PLAIN, top_k=200),
        lambda model: [api().llama_sampler_init_top_k(200), api().llama_sampler_init_dist(11)],
    ),
}


@pytest.mark.parametrize("name", list(CHAINS))
def test_the_chain_is_llama_cpps(name: str, model: Model) -> None:
    """300 tokens in a row, with a memory of what was chosen, from logits wide enough for every branch to matter."""
    options, samplers = CHAINS[name]
    ours, reference = Sampler(options, model), Hand(*samplers(model))
    prompt = [9, 8, 7, 9, 8, 7, 9, 8]
    ours.remember(prompt)
    for token in prompt:
        reference.accept(token)
    drawn = []
    for row in rows(300, model.n_vocab):
        row.flags.writeable = False
        drawn.append((ours.sample(row), reference.sample(row)))
    assert [one for one, _ in drawn] == [other for _, other in drawn]
    assert len({one for one, _ in drawn}) > 30
    ours.close()
    ours.close()


def test_few_candidates_lose_nothing(model: Model) -> None:
    """The same, at a vocabulary large enough for the bound to drop most of it, and at sizes that 64 does not divide."""
    options, samplers = CHAINS["default"]
    for size in (2560, 9001, 16383):
        ours, reference = Sampler(options, model), Hand(*samplers(model))
        for row in rows(60, size):
            assert len(ours._ids(row)) < size / 4
            assert ours.sample(row) == reference.sample(row)


def test_masked_rows(model: Model) -> None:
    """As a grammar leaves them: a few tokens, one, none; also when the penalties have seen forbidden ones."""
    ours, reference = Sampler(replace(CHAINS["default"][0]), model), Hand(*CHAINS["default"][1](model))
    bent = Sampler(SamplingOptions(seed=1, repeat_penalty=1.5, dry_multiplier=1), model)
    bent.remember([4, 5, 6, 4, 5])
    for row in rows(40, 4096):
        row[np.arange(4096) % 512 != 3] = -np.inf
        assert ours.sample(row) == reference.sample(row)
        assert np.isfinite(row[bent.sample(row)])
    row[:] = -np.inf
    row[77] = -5
    for options in (PLAIN, SamplingOptions(temperature=0), SamplingOptions(mirostat=1), SamplingOptions(top_k=1)):
        assert Sampler(options, model).sample(row) == 77
    for hopeless in (np.full(480, -np.inf, np.float32), np.full(480, np.nan, np.float32)):
        for options in (PLAIN, SamplingOptions(temperature=0), SamplingOptions(), SamplingOptions(repeat_penalty=2)):
            with pytest.raises(RequestError) as caught:
                Sampler(options, model).sample(hopeless)
            assert caught.value.kind == "no_token"


def test_penalties_by_their_formula(model: Model) -> None:
    """The frequencies of 4,000 draws from three tokens, against the softmax of the logits as the formula bends them."""
    options = replace(PLAIN, repeat_penalty=1.5, frequency_penalty=0.3, presence_penalty=0.4, repeat_last_n=4)
    row = np.full(model.n_vocab, -np.inf, np.float32)
    row[[3, 4, 5]] = [2.0, -1.0, 1.0]
    counts = {3: 0, 4: 0, 5: 0}
    for seed in range(4000):
        sampler = Sampler(replace(options, seed=seed), model)
        sampler.remember([5, 5, 3, 3, 4, 9])  # the window keeps the last four
        counts[sampler.sample(row)] += 1
        sampler.close()
    bent = np.array([2.0 / 1.5 - 2 * 0.3 - 0.4, -1.0 * 1.5 - 0.3 - 0.4, 1.0])
    expected = np.exp(bent) / np.exp(bent).sum()
    np.testing.assert_allclose(np.array([counts[3], counts[4], counts[5]]) / 4000, expected, atol=0.03)


def test_dry_breaks_a_repetition(model: Model) -> None:
    row = np.zeros(model.n_vocab, np.float32)
    row[300] = 3
    said = [300, 301, 302, 303, 300, 301, 302, 303]
    row[300], row[299] = 3, 1
    greedy = SamplingOptions(temperature=0)
    assert Sampler(greedy, model).sample(row) == 300
    for multiplier, expected in ((0.2, 300), (0.8, 299)):  # 4 tokens repeated: multiplier · 1.75^(4 - 2) off the logit
        sampler = Sampler(replace(greedy, dry_multiplier=multiplier), model)
        sampler.remember(said)
        assert sampler.sample(row) == expected
    for options in (replace(greedy, dry_multiplier=0.8, dry_penalty_last_n=0), replace(greedy, dry_multiplier=0)):
        sampler = Sampler(options, model)
        sampler.remember(said)
        assert sampler.sample(row) == 300


def test_xtc_and_typical_by_definition(model: Model) -> None:
    row = np.full(model.n_vocab, -np.inf, np.float32)
    row[[3, 4, 5, 6]] = np.log([0.5, 0.3, 0.15, 0.05])
    draws = {
        name: {Sampler(replace(options, seed=seed), model).sample(row) for seed in range(100)}
        for name, options in {
            "xtc": replace(PLAIN, xtc_probability=1, xtc_threshold=0.14),
            "typical": replace(PLAIN, typical_p=0.25),
            "top_p": replace(PLAIN, top_p=0.7),
            "min_p": replace(PLAIN, min_p=0.55),
            "top_k": replace(PLAIN, top_k=3),
        }.items()
    }
    assert draws["xtc"] == {5, 6}  # of those of at least 0.14, the least likely stays
    # The entropy is 1.14 nats; 0.3 has a surprise of 1.20, nearest to it, and alone reaches 0.25.
    assert draws["typical"] == {4}
    assert draws["top_p"] == {3, 4}
    assert draws["min_p"] == {3, 4}
    assert draws["top_k"] == {3, 4, 5}


def test_typical_survives_impossible_tokens(model: Model) -> None:
    """A token of probability 0 makes llama.cpp's entropy NaN, and the filter then keeps the likeliest instead."""
    row = np.full(model.n_vocab, -200, np.float32)
    row[[3, 4, 5, 6]] = np.log([0.5, 0.3, 0.15, 0.05])
    assert {Sampler(replace(PLAIN, typical_p=0.25, seed=seed), model).sample(row) for seed in range(50)} == {4}


def test_logit_bias_forbids_forces_and_is_checked(model: Model) -> None:
    for row in rows(20, model.n_vocab):
        best, second = (int(token) for token in np.argsort(row)[:-3:-1])
        before = row.copy()
        for options in (SamplingOptions(temperature=0), SamplingOptions(top_k=1), SamplingOptions(seed=1)):
            assert Sampler(replace(options, logit_bias=((best, -100.0),)), model).sample(row) != best
            assert Sampler(replace(options, logit_bias=((77, 100.0), (best, -3.0))), model).sample(row) == 77
        assert Sampler(SamplingOptions(temperature=0, logit_bias=((best, -100.0),)), model).sample(row) == second
        assert (row == before).all()
    with pytest.raises(RequestError, match=f"token {model.n_vocab}, and the vocabulary has {model.n_vocab}") as caught:
        Sampler(SamplingOptions(logit_bias=((3, 1.0), (model.n_vocab, 1.0))), model)
    assert caught.value.kind == "invalid_field"


def test_greedy_says_when_argmax_is_all(model: Model) -> None:
    assert Sampler(SamplingOptions(temperature=0), model).greedy
    assert Sampler(SamplingOptions(temperature=0, mirostat=2, repeat_penalty=2), model).greedy
    assert Sampler(SamplingOptions(temperature=0, repeat_penalty=2, repeat_last_n=0), model).greedy
    for options in ({}, {"logit_bias": ((1, 1.0),)}, {"repeat_penalty": 1.1}, {"dry_multiplier": 1.0}):
        assert not Sampler(SamplingOptions(**{"temperature": 0.0 if options else 1.0, **options}), model).greedy


def test_no_setting_makes_llama_cpp_fail(model: Model) -> None:
    """Every option at both ends of its range and near zero, alone and with the penalties, on kind and unkind logits."""
    unkind = [np.zeros(480, np.float32), np.full(480, -3e38, np.float32)]
    unkind[1][5] = 3e38
    data = [*rows(2, 480), *unkind, np.where(np.arange(480) == 7, 0, -np.inf).astype(np.float32)]
    for name, (_, spec) in specs(SamplingOptions).items():
        if spec.kind not in (int, float) or name in ("max_tokens", "logprobs"):
            continue
        ends = {spec.least, spec.most, *([1e-45, 1e-30, 1e-7] if spec.kind is float and spec.least == 0 else [])}
        for end in ends:
            value = spec.check(end, name)
            for base in (
                SamplingOptions(seed=1),
                PLAIN,
                SamplingOptions(seed=1, mirostat=1),
                SamplingOptions(seed=1, mirostat=2, mirostat_tau=20, mirostat_eta=1),
                SamplingOptions(
                    seed=1, dry_multiplier=100, dry_base=100, dry_allowed_length=0, frequency_penalty=100, typical_p=0.5
                ),
                replace(PLAIN, xtc_probability=1, xtc_threshold=0, typical_p=0.9, dry_multiplier=1, dry_base=1),
            ):
                sampler = Sampler(replace(base, **{name: value}), model)
                sampler.remember([5, 7] * 40)
                for row in data:
                    for _ in range(3):
                        assert np.isfinite(row[sampler.sample(row)])
                sampler.close()


def test_cold_is_greedy(model: Model) -> None:
    for row in rows(20, model.n_vocab):
        for temperature in (1e-45, 1e-30, 1e-7, 1e-5):
            assert Sampler(SamplingOptions(temperature=temperature), model).sample(row) == row.argmax()


def test_seed_reproduces_and_differs(model: Model) -> None:
    def draw(seed: int | None) -> tuple[int, list[int]]:
        sampler = Sampler(replace(PLAIN, seed=seed), model)
        return sampler.seed, [sampler.sample(row) for row in rows(20, model.n_vocab)]

    assert draw(7) == draw(7)
    assert draw(7)[1] != draw(8)[1]
    seed, tokens = draw(None)
    assert draw(seed) == (seed, tokens)
    assert draw(None)[0] != seed


def test_logprobs_are_the_log_softmax(model: Model) -> None:
    for row in [*rows(10, 9001), *rows(3, 100), np.float32(1e4) * next(rows(1, 9001))]:
        exact = row.astype(np.float64) - row.max()
        exact -= math.log(np.exp(exact).sum())
        order = np.argsort(-exact, kind="stable")
        own, top = logprobs(row, 17, 20)
        assert own == pytest.approx(exact[17], rel=1e-6, abs=1e-6)
        assert [token for token, _ in top] == order[:20].tolist()
        np.testing.assert_allclose([value for _, value in top], exact[order[:20]], rtol=1e-6, atol=1e-6)
        assert logprobs(row, 17, 0) == (own, [])


@pytest.mark.real
def test_tokens_equal_llama_sampler_sample(real_model: Path) -> None:
    """Beside llama.cpp's own entry point, on the real model's logits."""
    options, samplers = CHAINS["default"]
    with Model(real_model) as model, Context(model, 512) as context:
        tokens = model.tokenize("The Moon orbits the Earth, and")
        ours, reference = Sampler(options, model), Hand(*samplers(model))
        context.decode([Chunk(0, 0, tokens, 1)])
        row = len(tokens) - 1
        for _ in range(40):
            token = ours.sample(context.logits[0])
            assert token == api().llama_sampler_sample(reference.chain, context.handle, row)
            context.decode([Chunk(0, context.length(0), [token], 1)])
            row = 0
