"""Cross-entropy straight from hidden states: the logits of a whole vocabulary exist for a few tokens at a time.

The head is frozen, so the gradient of the hidden states is all that is ever needed; it is computed with the loss,
while a chunk's logits are there, as in Liger's fused kernel (Hsu et al., 2024, arXiv:2410.10989). Knows tensors only.
"""

from __future__ import annotations

from typing import Any

import torch

from .memory import CHUNK


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        # Autocast is off inside a Function that is told nothing else; the head decides the precision.
        ctx.dtype = hidden.dtype
        hidden = hidden.to(weight.dtype)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        rows = max(1, CHUNK // weight.shape[0])
        for start in range(0, len(labels), rows):
            part, wanted = hidden[start : start + rows], labels[start : start + rows, None]
            logits = (part @ weight.T).float()
            normaliser = logits.logsumexp(dim=1, keepdim=True)
            total += (normaliser - logits.gather(1, wanted)).sum()
            if gradient is not None:
                probabilities = logits.sub_(normaliser).exp_()
                probabilities.scatter_add_(1, wanted, torch.full_like(wanted, -1, dtype=probabilities.dtype))
                torch.matmul(probabilities.to(weight.dtype), weight, out=gradient[start : start + rows])
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *outputs: Any) -> tuple[torch.Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * outputs[0].to(gradient.dtype)).to(ctx.dtype), None, None


def summed_loss(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The summed cross-entropy float32[] of `labels` int64[L] under hidden states [L, H] and a head `weight` [V, H].

    Only `hidden` gets a gradient. No more than CHUNK logits exist at a time.
    """
    result: torch.Tensor = _LinearCrossEntropy.apply(hidden, weight, labels)  # type: ignore[no-untyped-call]
    return result
