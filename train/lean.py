"""Where memory goes in a LLaMA that is trained with LoRA, and what saves it without changing a result.

Embedding and head are frozen: they leave the model, may stay in host memory, and the head's logits are never whole.
What checkpointing keeps of each layer, its input, may go to host memory until the backward pass. RMSNorm and SwiGLU
keep their inputs alone and compute the rest again, in the precision of the reference; on a GPU they and the rotary
embedding become one kernel each. Knows Transformers' LLaMA.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import nn

from .loss import summed_loss

# Smaller tensors are not worth a transfer.
_WORTH_MOVING = 1 << 20


class Ends:
    """The frozen embedding and head of a model, taken out of it while it is trained.

    On `host` they stay in the host's memory: the embedding is looked up there, the head is copied to the device
    for each micro-batch, which takes milliseconds. Tied ones stay where they are.
    """

    def __init__(self, model: Any, device: torch.device, host: bool, noise: float = 0.0) -> None:
        self._device, self._noise = device, noise
        self._embedding, self._head = model.get_input_embeddings(), model.get_output_embeddings()
        if host and device.type == "cuda" and self._head.weight is not self._embedding.weight:
            self._embedding.to("cpu")
            self._head.to("cpu")
            self._head.weight.data = self._head.weight.data.pin_memory()
        model.set_output_embeddings(nn.Identity())  # its "logits" are then the hidden states
        model.model.embed_tokens = nn.Identity()

    def next_logits(self, model: Any, ids: Sequence[int]) -> torch.Tensor:
        """The logits float32[V], on the device, of what follows `ids`: by `model`, which is or wraps the own one."""
        tokens = torch.tensor([ids])
        hidden = model(inputs_embeds=self.embed(tokens, torch.full_like(tokens, len(ids)))).logits[0, -1]
        head = self._head.weight.to(self._device)
        logits: torch.Tensor = (hidden.to(head.dtype) @ head.T).float()
        return logits

    def embed(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Embeddings [R, T, H] on the device of ids int64[R, T] on the host, with NEFTune's noise if there is any.

        NEFTune (Jain et al., 2023, arXiv:2310.05914) scales the noise by a sample's length: `lengths` int64[R, T].
        """
        place = self._embedding.weight.device
        found: torch.Tensor = self._embedding(ids.to(place)).to(self._device)
        if self._noise:
            scale = self._noise / (lengths.to(self._device) * found.shape[-1]).sqrt()
            found = found + torch.empty_like(found).uniform_(-1, 1) * scale[..., None].to(found.dtype)
        return found

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """While the block runs, no noise is added: it belongs to training, not to evaluation."""
        noise, self._noise = self._noise, 0.0
        try:
            yield
        finally:
            self._noise = noise

    def loss(self, hidden: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The summed loss of hidden states [L, H] against labels int64[L], both on the device."""
        return summed_loss(hidden, self._head.weight.to(self._device, non_blocking=True), labels)


@contextmanager
def inputs_on_host(enabled: bool) -> Iterator[None]:
    """While the block runs, large tensors that the backward pass will need wait in pinned host memory.

    With checkpointing these are the layers' inputs: what is computed again inside a layer is not seen here.
    """

    def away(tensor: torch.Tensor) -> Any:
        if not tensor.is_cuda or tensor.numel() * tensor.element_size() < _WORTH_MOVING:
            return tensor
        kept = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        kept.copy_(tensor, non_blocking=True)  # in the stream's order, so the later copy back needs no waiting
        return tensor.device, kept

    def back(kept: Any) -> torch.Tensor:
        return kept if isinstance(kept, torch.Tensor) else kept[1].to(kept[0], non_blocking=True)

    if not enabled:
        yield
        return
    with torch.autograd.graph.saved_tensors_hooks(away, back):
        yield


def _norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    wide = x.float()
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return weight * wide.to(x.dtype)


def _norm_slope(x: torch.Tensor, weight: torch.Tensor, eps: float, slope: torch.Tensor) -> torch.Tensor:
    wide = x.float()
    inverse = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    normal = wide.mul_(inverse) if x.dtype != torch.float32 else wide * inverse
    slope = (slope * weight).float()
    slope = slope - normal * (slope * normal).mean(-1, keepdim=True)
    return slope.mul_(inverse).to(x.dtype)


def _swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return nn.functional.silu(gate).mul_(up)


def _swiglu_slopes(gate: torch.Tensor, up: torch.Tensor, slope: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    to_up = nn.functional.silu(gate).mul_(slope)
    return torch.ops.aten.silu_backward(slope * up, gate), to_up


@dataclass
class _Kernels:
    """What the layers compute with: the functions above, or what torch.compile made of them."""

    norm: Callable[..., torch.Tensor] = _norm
    norm_slope: Callable[..., torch.Tensor] = _norm_slope
    swiglu: Callable[..., torch.Tensor] = _swiglu
    swiglu_slopes: Callable[..., tuple[torch.Tensor, torch.Tensor]] = _swiglu_slopes


_kernels = _Kernels()


class _Norm(torch.autograd.Function):
    """RMSNorm (Zhang & Sennrich, 2019, arXiv:1910.07467) with a frozen weight: keeps its input alone."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return _kernels.norm(x, weight, eps)

    @staticmethod
    def backward(ctx: Any, *outputs: Any) -> tuple[torch.Tensor, None, None]:
        x, weight = ctx.saved_tensors
        return _kernels.norm_slope(x, weight, ctx.eps, outputs[0]), None, None


class _SwiGLU(torch.autograd.Function):
    """silu(gate) * up (Shazeer, 2020, arXiv:2002.05202): keeps its inputs alone."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        return _kernels.swiglu(gate, up)

    @staticmethod
    def backward(ctx: Any, *outputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        gate, up = ctx.saved_tensors
        return _kernels.swiglu_slopes(gate, up, outputs[0])


def make_lean(model: Any) -> None:
    """Let the norms and MLPs of a LLaMA's layers keep less for the backward pass; their parameters stay as named."""
    from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

    class Norm(LlamaRMSNorm):  # type: ignore[misc] # Transformers is seen as Any
        def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = _Norm.apply(hidden_states, self.weight, self.variance_epsilon)  # type: ignore[no-untyped-call]
            return result

    class Mlp(LlamaMLP):  # type: ignore[misc]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            product = _SwiGLU.apply(self.gate_proj(x), self.up_proj(x))  # type: ignore[no-untyped-call]
            result: torch.Tensor = self.down_proj(product)
            return result

    for module in model.modules():
        if type(module) is LlamaRMSNorm:
            module.__class__ = Norm
        elif type(module) is LlamaMLP and model.config.hidden_act == "silu":
            module.__class__ = Mlp


def fuse(device: torch.device, dtype: torch.dtype) -> bool:
    """Let torch.compile make one kernel of each of the small functions; whether that worked here.

    Measured with 13B in NF4 on an H200, mixed rows packed to 4,096 tokens: 7,338 tokens/s for 6,155, and 0.1 GiB
    less; Liger's kernels: 7,232. It needs Triton and a C compiler; where they are missing, all stays as it is.
    """
    from transformers.models.llama import modeling_llama

    compiled = [torch.compile(part, dynamic=True) for part in astuple(_Kernels())]
    rotate = torch.compile(modeling_llama.apply_rotary_pos_emb, dynamic=True)
    logging.getLogger("torch._dynamo").setLevel("ERROR")
    logging.getLogger("torch._inductor").setLevel("ERROR")
    try:
        made = _Kernels(*compiled)
        x, weight = torch.ones(2, 8, 64, device=device, dtype=dtype), torch.ones(64, device=device, dtype=dtype)
        made.norm_slope(x, weight, 1e-5, made.norm(x, weight, 1e-5))
        made.swiglu_slopes(x, x, made.swiglu(x, x))
        heads = torch.ones(2, 4, 8, 64, device=device, dtype=dtype, requires_grad=True)
        queries, keys = rotate(heads, heads, x, x)  # type: ignore[no-untyped-call]
        torch.autograd.grad(queries.sum() + keys.sum(), heads)
    except Exception:  # torch.compile fails in many ways, and none of them matters
        return False
    global _kernels
    _kernels = made
    modeling_llama.apply_rotary_pos_emb = rotate  # the layers look it up by this name
    return True
