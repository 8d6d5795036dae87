"""What saves memory changes no result: norms, MLPs, ends and noise against Transformers' own layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaConfig, LlamaMLP, LlamaRMSNorm

from train.base import load_base, quiet
from train.lean import Ends, make_lean

CPU = torch.device("cpu")


def lean(module: torch.nn.Module, config: LlamaConfig) -> torch.nn.Module:
    holder = torch.nn.Module()
    holder.part, holder.config = module, config
    make_lean(holder)
    return holder.part


def both(module: torch.nn.Module, config: LlamaConfig, x: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    results = []
    for part in (module, None):
        part = part or lean(module, config)
        given = x.clone().requires_grad_()
        out = part(given)
        (out.float() * torch.arange(out.numel()).view_as(out).cos()).sum().backward()
        assert given.grad is not None
        results.append((out.detach(), given.grad))
    return results


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norm(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    norm = LlamaRMSNorm(64, eps=1e-5).to(dtype).requires_grad_(False)
    norm.weight.normal_(1, 0.3)
    (expected, slope), (found, found_slope) = both(norm, LlamaConfig(), (3 * torch.randn(1, 9, 64)).to(dtype))
    close = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    torch.testing.assert_close(found_slope, slope, **close)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mlp(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(hidden_size=32, intermediate_size=96)
    mlp = LlamaMLP(config).to(dtype).requires_grad_(False)
    (expected, slope), (found, found_slope) = both(mlp, config, torch.randn(1, 9, 32).to(dtype))
    close = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
    torch.testing.assert_close(found, expected, **close)
    torch.testing.assert_close(found_slope, slope, **close)


def test_lean_layers_keep_less(spm_base: Path) -> None:
    """Bytes that the backward pass holds on to, with and without."""

    def kept(make: bool) -> int:
        with quiet():
            model = load_base(spm_base, "float32", CPU)
        for weight in model.parameters():
            weight.requires_grad_(False)
        if make:
            make_lean(model)
        weights = {weight.data_ptr() for weight in model.parameters()}
        sizes: dict[int, int] = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.data_ptr() not in weights:
                sizes[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            embedded = model.model.embed_tokens(torch.arange(64)[None]).requires_grad_()
            model.model.layers[0].mlp(model.model.layers[0].input_layernorm(embedded)).sum()
        return sum(sizes.values())

    assert kept(True) < 0.8 * kept(False)


def logits(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits


def test_what_the_ends_give_without_the_model(spm_base: Path) -> None:
    with quiet():
        model = load_base(spm_base, "float32", CPU)
    ids = [1, 5, 9, 4, 7]
    expected = logits(model, ids)
    ends = Ends(model, CPU, host=True)
    assert not any("embed" in name or "head" in name for name, _ in model.named_parameters())
    embedded = ends.embed(torch.tensor([ids]), torch.tensor([[5] * 5]))
    with torch.no_grad():
        hidden = model(inputs_embeds=embedded).logits[0]
    labels = torch.tensor([5, 9, 4, 7, 1])
    wanted = torch.nn.functional.cross_entropy(expected[0], labels, reduction="sum")
    torch.testing.assert_close(ends.loss(hidden, labels), wanted)
    with torch.no_grad():
        torch.testing.assert_close(ends.next_logits(model, ids), expected[0, -1])


def test_noise_follows_each_samples_own_length(spm_base: Path) -> None:
    """NEFTune: uniform within alpha / sqrt(length * width); none while it is quiet."""
    with quiet():
        model = load_base(spm_base, "float32", CPU)
    plain = Ends(model, CPU, host=False)
    ids, lengths = torch.full((1, 500), 3), torch.tensor([[4] * 250 + [400] * 250])
    base = plain.embed(ids, lengths)
    with quiet():
        noisy = Ends(load_base(spm_base, "float32", CPU), CPU, host=False, noise=5.0)
    noise = (noisy.embed(ids, lengths) - base).abs()[0]
    for part, length in ((noise[:250], 4), (noise[250:], 400)):
        bound = 5.0 / (length * base.shape[-1]) ** 0.5
        assert 0.95 * bound < part.max() <= bound * 1.001
    with noisy.quiet():
        torch.testing.assert_close(noisy.embed(ids, lengths), base)
