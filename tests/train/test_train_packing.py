"""Packed micro-batches: their loss and gradients are those of plain padded rows, however they are cut and packed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from train_runs import plain_loss, plain_model

from stellar_local.prompts import load_template
from train import packing
from train.config import TrainConfig
from train.corpus import Triple
from train.dataset import Encoding, Sample, encode_all
from train.lean import Ends
from train.memory import ROW
from train.packing import Limit, MicroBatch, cut, pack, packed_length, shared_length
from train.tokenizer import load_tokenizer

CPU = torch.device("cpu")
# Answers of very unequal length, so that a mean of means would differ from the mean over tokens.
TRIPLES = [
    Triple("What is a parsec?", "", "A parsec is about 3.26 light years, and one may say more: " + "far " * 20),
    Triple("你是谁？", "", "星"),
    Triple("Who are you?", "", "I am."),
    Triple("Translate.", "太阳是一颗恒星。", "The Sun is a star. " * 6),
    Triple("黑洞是什么？", "", "黑洞是引力极强的天体，连光也逃不出来。" * 3),
]


@pytest.fixture(scope="module")
def samples(spm_base: Path) -> list[Sample]:
    return encode_all(TRIPLES, load_template("bayling"), load_tokenizer(spm_base), Encoding(512))[0]


@pytest.fixture(scope="module")
def model(spm_base: Path) -> Any:
    """Transformers' and PEFT's own model, with SDPA attention, its B moved away from zero, where A has no gradient."""
    adapted = plain_model(TrainConfig(base=spm_base, data=Path("d"), out=Path("o"), lora_dropout=0.0))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.05)
    assert adapted.config._attn_implementation == "sdpa"
    return adapted.train()


def loss_and_gradient(model: Any, loss: torch.Tensor) -> tuple[float, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    slopes = [weight.grad.flatten() for weight in model.parameters() if weight.grad is not None]
    return float(loss.detach()), torch.cat(slopes)


def packed(model: Any, batch: MicroBatch, alignment: int = 1) -> torch.Tensor:
    """The summed loss of a micro-batch, by the untouched model and torch's own cross-entropy."""
    tensors = pack(batch, alignment)
    names = ("input_ids", "position_ids", "attention_mask")
    logits = model(**{name: tensors[name] for name in names}).logits.flatten(0, 1)
    return torch.nn.functional.cross_entropy(logits[tensors["places"]], tensors["labels"], reduction="sum")


def one_by_one(model: Any, samples: list[Sample]) -> torch.Tensor:
    """The summed loss of plain rows, each run alone."""
    losses = [plain_loss(model, [sample]) * (len(sample.ids) - sample.first) for sample in samples]
    return torch.stack(losses).sum()


LIMITS = [Limit(), Limit(samples=1), Limit(samples=2), Limit(tokens=64), Limit(tokens=300), Limit(3, 400)]


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("alignment", [1, 8])
@pytest.mark.parametrize("learn", ["answers", "everything"])
def test_packed_equals_plain_rows(model: Any, samples: list[Sample], learn: str, alignment: int, limit: Limit) -> None:
    rows = samples if learn == "answers" else [Sample(sample.ids, 1) for sample in samples]
    expected, wanted = loss_and_gradient(model, one_by_one(model, rows))
    parts = torch.stack([packed(model, batch, alignment) for batch in cut(rows, limit)])
    found, slope = loss_and_gradient(model, parts.sum())
    assert found == pytest.approx(expected, rel=1e-5)
    assert wanted.abs().max() > 1
    torch.testing.assert_close(slope, wanted, rtol=1e-4, atol=1e-4)
    padded = plain_loss(model, rows) * sum(len(sample.ids) - sample.first for sample in rows)
    assert float(padded) == pytest.approx(expected, rel=1e-5)


def test_a_packed_samples_loss_is_its_own(model: Any, samples: list[Sample]) -> None:
    """Each sample's share of the packed loss is its loss alone: it sees nothing of its neighbours."""
    (batch,) = cut(samples, Limit())
    tensors = pack(batch)
    with torch.no_grad():
        names = ("input_ids", "position_ids", "attention_mask")
        logits = model(**{name: tensors[name] for name in names}).logits.flatten(0, 1)[tensors["places"]]
        losses = torch.nn.functional.cross_entropy(logits, tensors["labels"], reduction="none")
        place = 0
        for sample in [sample for row in batch for sample in row]:
            count = len(sample.ids) - sample.first
            alone = plain_loss(model, [sample])
            torch.testing.assert_close(losses[place : place + count].mean(), alone, rtol=0, atol=1e-4)
            place += count
    assert place == len(losses)


def test_the_cores_loss_is_the_same(model: Any, samples: list[Sample]) -> None:
    """With embedding and head taken out and the loss in chunks, as training computes it."""
    expected, wanted = loss_and_gradient(model, one_by_one(model, samples))
    base = model.get_base_model()
    embedding, head = base.get_input_embeddings(), base.get_output_embeddings()
    ends = Ends(base, CPU, host=False)
    total = torch.zeros(())
    for batch in cut(samples, Limit(tokens=300)):
        tensors = pack(batch)
        hidden = model(
            inputs_embeds=ends.embed(tensors["input_ids"], tensors["lengths"]),
            position_ids=tensors["position_ids"],
            attention_mask=tensors["attention_mask"],
        ).logits
        total = total + ends.loss(hidden.flatten(0, 1)[tensors["places"]], tensors["labels"])
    found, slope = loss_and_gradient(model, total)
    base.set_input_embeddings(embedding)  # the module's other tests use the same model
    base.set_output_embeddings(head)
    assert found == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(slope, wanted, rtol=1e-4, atol=1e-4)


def test_the_common_beginning_stands_once_a_row(samples: list[Sample]) -> None:
    (batch,) = cut(samples, Limit())
    shared = shared_length(samples)
    own = sum(len(sample.ids) - 1 - shared for sample in samples)
    assert shared > len(load_template("bayling").system_default) / 4
    assert len(batch) == 1
    assert packed_length(batch) == shared + own == pack(batch)["input_ids"].numel()


@st.composite
def any_samples(draw: st.DrawFn) -> list[Sample]:
    ids = st.lists(st.integers(0, 2), min_size=2, max_size=12)
    rows = draw(st.lists(ids, min_size=1, max_size=9))
    return [Sample(row, draw(st.integers(1, len(row) - 1))) for row in rows]


LIMIT = st.builds(Limit, st.integers(0, 5), st.integers(0, 40))


@settings(max_examples=300, deadline=None)
@given(any_samples(), LIMIT, st.sampled_from([1, 8]), st.sampled_from([4, 16, 1024]))
def test_every_sample_sees_exactly_itself(samples: list[Sample], limit: Limit, alignment: int, row: int) -> None:
    """For each learned token: the visible places hold the tokens before it, in order, at their own positions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "ROW", row)
        batches = cut(samples, limit)
    met: list[Sample] = []
    for batch in batches:
        tensors = pack(batch, alignment)
        width = tensors["input_ids"].shape[1]
        assert width % alignment == 0
        mask = tensors["attention_mask"]
        if mask is None:  # causal attention alone: only for rows of one sample
            assert all(len(row_) == 1 for row_ in batch)
            mask = torch.ones(len(batch), 1, width, width, dtype=torch.bool).tril()
        assert mask.shape == (len(batch), 1, width, width)
        assert mask.any(dim=-1).all()  # a row that sees nothing would be a softmax of nothing
        learned = zip(tensors["places"].tolist(), tensors["labels"].tolist(), strict=True)
        for number, sample in ((number, sample) for number, row_ in enumerate(batch) for sample in row_):
            for index in range(sample.first, len(sample.ids)):
                place, label = next(learned)
                assert place // width == number
                visible = mask[number, 0, place % width].nonzero()[:, 0]
                assert label == sample.ids[index]
                assert tensors["input_ids"][number, visible].tolist() == sample.ids[:index]
                assert tensors["position_ids"][number, visible].tolist() == list(range(index))
                own = tensors["lengths"][number, place % width]
                assert own == len(sample.ids) - 1
            met.append(sample)
        assert next(learned, None) is None
    assert Counter(map(id, met)) == Counter(map(id, samples))


@settings(max_examples=300, deadline=None)
@given(any_samples(), LIMIT)
def test_micro_batches_keep_the_limit(samples: list[Sample], limit: Limit) -> None:
    longest = max(len(sample.ids) - 1 for sample in samples)
    for batch in cut(samples, limit):
        count = sum(map(len, batch))
        assert 0 < count <= (limit.samples or count)
        assert pack(batch)["input_ids"].numel() == packed_length(batch)
        assert packed_length(batch) <= max(limit.tokens or packed_length(batch), longest)


@settings(max_examples=200, deadline=None)
@given(any_samples(), LIMIT, st.integers(1, 30))
def test_halving_comes_to_an_end(samples: list[Sample], limit: Limit, memory: int) -> None:
    """However little fits, halving ends: with micro-batches that fit, or with none that can be made smaller."""
    for _ in range(20):
        over = next((batch for batch in cut(samples, limit) if packed_length(batch) > memory), None)
        if over is None:
            return
        smaller = limit.halved(over)
        if smaller is None:
            assert packed_length(over) == max(len(sample.ids) - 1 for row in over for sample in row) or limit.tokens < 2
            return
        assert smaller.tokens < (limit.tokens or packed_length(over))
        assert smaller.samples <= limit.samples
        limit = smaller
    raise AssertionError("no end")


def test_rows_stay_short(samples: list[Sample]) -> None:
    """Attention computes what its mask hides too, so many samples make several rows, evenly filled."""
    many = samples * 20
    (batch,) = cut(many, Limit())
    lengths = [pack([row])["input_ids"].shape[1] for row in batch]
    assert len(batch) > 1
    assert max(lengths) <= ROW
    assert sum(lengths) > 0.9 * packed_length(batch)
