"""Packed micro-batches: their loss and gradients are those of plain padded rows, wherever the batch is cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stellar_local.prompts import load_template
from train.config import TrainConfig
from train.corpus import Triple
from train.dataset import Sample, encode_all, pack
from train.model import add_lora, load_base, quiet
from train.tokenizer import load_tokenizer
from train.trainer import summed_loss

# Answers of very unequal length, so that a mean of means would differ from the mean over tokens.
TRIPLES = [
    Triple("What is a parsec?", "", "A parsec is about 3.26 light years, and one may say more: " + "far " * 20),
    Triple("你是谁？", "", "星"),
    Triple("Who are you?", "", "I am."),
    Triple("Translate.", "太阳是一颗恒星。", "The Sun is a star. " * 6),
]


@pytest.fixture(scope="module")
def samples(spm_base: Path) -> list[Sample]:
    return encode_all(TRIPLES, load_template("bayling"), load_tokenizer(spm_base), 512)[0]


@pytest.fixture(scope="module")
def model(spm_base: Path) -> Any:
    torch.manual_seed(0)
    config = TrainConfig(base=spm_base, data=Path("d"), out=Path("o"), lora_dropout=0.0)
    with quiet():
        adapted, _ = add_lora(load_base(spm_base, torch.float32), config)
    with torch.no_grad():  # B starts at zero, where A has no gradient
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.05)
    return adapted.train()


def gradient(model: Any, loss: torch.Tensor) -> torch.Tensor:
    model.zero_grad()
    loss.backward()
    return torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])


def packed_loss(model: Any, samples: list[Sample], tokens: int) -> torch.Tensor:
    batch = pack(samples)
    labels = batch.pop("labels")
    return summed_loss(model(**batch), labels, tokens)


def padded_loss(model: Any, samples: list[Sample]) -> torch.Tensor:
    """Transformers' own loss over rows padded on the right, labels -100 on the prompts and the padding."""
    length = max(len(sample.ids) for sample in samples)
    rows = [sample.ids + [0] * (length - len(sample.ids)) for sample in samples]
    mask = [[1] * len(sample.ids) + [0] * (length - len(sample.ids)) for sample in samples]
    labels = [
        [-100] * sample.first + sample.ids[sample.first :] + [-100] * (length - len(sample.ids)) for sample in samples
    ]
    return model(input_ids=torch.tensor(rows), attention_mask=torch.tensor(mask), labels=torch.tensor(labels)).loss


@pytest.mark.parametrize("learn", ["answers", "everything"])
def test_packed_equals_padded(model: Any, samples: list[Sample], learn: str) -> None:
    rows = samples if learn == "answers" else [Sample(sample.ids, 1) for sample in samples]
    tokens = sum(len(sample.ids) - sample.first for sample in rows)
    expected = padded_loss(model, rows)
    found = packed_loss(model, rows, tokens)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    wanted = gradient(model, expected)
    torch.testing.assert_close(gradient(model, packed_loss(model, rows, tokens)), wanted, rtol=1e-3, atol=1e-6)
    assert wanted.abs().max() > 1e-3


def test_micro_batches_add_up(model: Any, samples: list[Sample]) -> None:
    tokens = sum(len(sample.ids) - sample.first for sample in samples)
    whole = packed_loss(model, samples, tokens)
    parts = sum((packed_loss(model, [sample], tokens) for sample in samples), torch.zeros(()))
    torch.testing.assert_close(whole, parts, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient(model, whole), gradient(model, parts), rtol=1e-3, atol=1e-6)


def test_the_common_beginning_stands_once(samples: list[Sample]) -> None:
    batch = pack(samples)
    alone = sum(len(sample.ids) - 1 for sample in samples)
    system = len(load_template("bayling").system_default)
    assert batch["input_ids"].shape[1] < alone - 2 * system / 4  # three of four copies are saved
    assert len(batch["labels"]) == len(batch["logits_to_keep"]) == sum(len(s.ids) - s.first for s in samples)


@st.composite
def any_samples(draw: st.DrawFn) -> list[Sample]:
    ids = st.lists(st.integers(0, 2), min_size=2, max_size=8)
    rows = draw(st.lists(ids, min_size=1, max_size=4))
    return [Sample(row, draw(st.integers(1, len(row) - 1))) for row in rows]


@settings(max_examples=200, deadline=None)
@given(any_samples())
def test_every_sample_sees_exactly_itself(samples: list[Sample]) -> None:
    """For each learned token: the visible places hold the tokens before it, in order, at their own positions."""
    batch = pack(samples)
    ids, positions = batch["input_ids"][0], batch["position_ids"][0]
    mask = batch["attention_mask"][0, 0]
    learned = zip(batch["logits_to_keep"].tolist(), batch["labels"].tolist(), strict=True)
    for sample in samples:
        for index in range(sample.first, len(sample.ids)):
            place, label = next(learned)
            visible = mask[place].nonzero()[:, 0]
            assert label == sample.ids[index]
            assert ids[visible].tolist() == sample.ids[:index]
            assert positions[visible].tolist() == list(range(index))
    assert next(learned, None) is None
