"""The chunked loss: torch's own cross-entropy in value and gradient, however many chunks there are."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from train import loss
from train.loss import summed_loss


@pytest.mark.parametrize("chunk", [1, 7 * 50, 1 << 23])
def test_equals_torch(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "CHUNK", chunk)
    torch.manual_seed(0)
    weight, labels = torch.randn(50, 16), torch.randint(0, 50, (33,))
    hidden = torch.randn(33, 16, requires_grad=True)
    twin = hidden.detach().clone().requires_grad_()
    expected = cross_entropy(twin @ weight.T, labels, reduction="sum") * 0.25
    expected.backward()
    found = summed_loss(hidden, weight, labels) * 0.25
    found.backward()
    torch.testing.assert_close(found, expected)
    assert twin.grad is not None and twin.grad.abs().max() > 0.1
    torch.testing.assert_close(hidden.grad, twin.grad)


def test_bfloat16_keeps_its_type_and_sums_in_float32() -> None:
    torch.manual_seed(0)
    weight, labels = torch.randn(50, 16).bfloat16(), torch.randint(0, 50, (2000,))
    hidden = torch.randn(2000, 16).bfloat16().requires_grad_()
    found = summed_loss(hidden, weight, labels)
    found.backward()
    expected = cross_entropy(hidden.float() @ weight.float().T, labels, reduction="sum")
    assert found.dtype == torch.float32
    assert hidden.grad is not None and hidden.grad.dtype == torch.bfloat16
    assert abs(float(found) / float(expected) - 1) < 2e-3


def test_no_more_than_a_chunk_of_logits_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest tensor that is made is a chunk, not the whole [L, V]."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        most = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                self.most = max(self.most, result.numel())
            return result

    monkeypatch.setattr(loss, "CHUNK", 100 * 50)
    hidden, weight = torch.randn(4000, 8, requires_grad=True), torch.randn(50, 8)
    with Largest() as seen:
        summed_loss(hidden, weight, torch.zeros(4000, dtype=torch.long)).backward()
    assert seen.most == max(100 * 50, 4000 * 8)


def test_without_a_gradient_none_is_computed() -> None:
    hidden, weight, labels = torch.randn(5, 4), torch.randn(9, 4), torch.tensor([1, 2, 3, 4, 5])
    with torch.no_grad():
        found = summed_loss(hidden, weight, labels)
    torch.testing.assert_close(found, cross_entropy(hidden @ weight.T, labels, reduction="sum"))
    assert not found.requires_grad
