"""The plan's arithmetic against published sizes, against what was measured on a GPU, and against torch itself."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaForCausalLM

from stellar_local.errors import ModelError
from train.config import ALL_LINEAR
from train.memory import GIB, NF4_BYTES, Setup, Shape, estimate

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
B7 = Shape(4096, 11008, 32, 32, 32, 128, 32000)
B13 = Shape(5120, 13824, 40, 40, 40, 128, 32000)
B8 = Shape(4096, 14336, 32, 32, 8, 128, 128256)
SMOL = Shape(576, 1536, 30, 9, 3, 64, 49152, tied=True)
NF4 = Setup("nf4", 8, ATTENTION, 512)


@pytest.mark.parametrize(
    ("shape", "count"), [(B7, 6_738_415_616), (B13, 13_015_864_320), (B8, 8_030_261_248), (SMOL, 134_515_008)]
)
def test_parameters_are_the_published_ones(shape: Shape, count: int) -> None:
    assert shape.parameters == count


def test_shape_of_a_configuration() -> None:
    config = {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    }
    assert Shape.of(config) == B8
    assert Shape.of({**config, "num_key_value_heads": None}).kv_heads == 32
    assert Shape.of({**config, "head_dim": 64}).queries == 2048
    assert Shape.of({**config, "tie_word_embeddings": True}).tied
    assert Shape.of(LlamaConfig(**config).to_dict()) == B8


@pytest.mark.parametrize("value", [None, 0, -1, "8", 1.5, True])
@pytest.mark.parametrize("name", ["hidden_size", "num_attention_heads", "vocab_size"])
def test_a_configuration_without_its_sizes_is_refused(name: str, value: object) -> None:
    config = LlamaConfig().to_dict()
    config["head_dim"] = None
    with pytest.raises(ModelError, match=f"config.json says (no )?{name}"):
        Shape.of({**config, name: value})


def test_weights_and_adapters_by_hand() -> None:
    """The figures of the QLoRA paper (4.127 bits a weight) and of LoRA with r=8 on q, k, v, o."""
    assert pytest.approx(4.127, abs=5e-4) == 8 * NF4_BYTES
    assert estimate(B13, NF4).weights / GIB == pytest.approx(6.10 + 0.61, abs=0.01)
    assert estimate(B7, NF4).weights / GIB == pytest.approx(3.11 + 0.49, abs=0.01)
    assert estimate(B7, replace(NF4, dtype="float32")).weights == 4 * B7.parameters
    assert estimate(SMOL, replace(NF4, dtype="bfloat16")).weights == 2 * SMOL.parameters
    for shape, weights in ((B7, 8_388_608), (B13, 13_107_200)):
        assert estimate(shape, replace(NF4, dtype="float32")).adapter == weights * 16


# On a GPU with Liger's kernels, which save what the core's own functions save: tokens, allocated, reserved.
LIGER = [
    (B13, 2 * 256, 7.46, 7.93),
    (B13, 4 * 512, 8.30, 9.08),
    (B13, 4 * 1024, 9.45, 10.39),
    (B13, 8 * 1024, 11.90, 12.87),
    (B7, 4 * 512, 4.70, 5.25),
    (B7, 4 * 1024, 5.51, 6.00),
    (B7, 8 * 1024, 7.24, 8.03),
]


@pytest.mark.parametrize(("shape", "tokens", "allocated", "reserved"), LIGER)
def test_measured_on_an_h100(shape: Shape, tokens: int, allocated: float, reserved: float) -> None:
    made = estimate(shape, replace(NF4, tokens=tokens))
    assert made.allocated / GIB == pytest.approx(allocated, rel=0.1)
    assert made.reserved / GIB == pytest.approx(reserved, rel=0.1)


# Worked out independently, tensor by tensor, for a tuned QLoRA: (7B, 13B) GiB that torch allocates.
FLOOR = [(256, 4.0, 7.3), (512, 4.1, 7.4), (1024, 4.3, 7.8), (2048, 4.9, 8.5), (4096, 5.9, 9.9)]


@pytest.mark.parametrize(("tokens", "b7", "b13"), FLOOR)
def test_the_floor(tokens: int, b7: float, b13: float) -> None:
    for shape, gib in ((B7, b7), (B13, b13)):
        assert estimate(shape, replace(NF4, tokens=tokens)).allocated / GIB == pytest.approx(gib, rel=0.1)


class Peak(TorchDispatchMode):
    """The most bytes of tensors that lived at once: each storage made inside counts from its making to its end."""

    def __init__(self) -> None:
        super().__init__()
        self._sizes: dict[int, int] = {}
        self.now = self.peak = 0

    def _ended(self, key: int) -> None:
        self.now -= self._sizes.pop(key)

    def known(self, tensor: torch.Tensor, counts: bool = True) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._sizes:
            self._sizes[storage._cdata] = storage.nbytes() if counts else 0
            weakref.finalize(storage, self._ended, storage._cdata)
            self.now += self._sizes[storage._cdata]
            self.peak = max(self.peak, self.now)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.known(tensor)
        return result


TINY = Shape(64, 176, 3, 4, 4, 16, 50)
GROUPED = replace(TINY, kv_heads=2)


@pytest.mark.parametrize(
    ("shape", "change", "near"),
    [
        (TINY, {}, 0.03),
        (GROUPED, {}, 0.03),
        (TINY, {"dropout": False}, 0.03),
        (TINY, {"modules": (ALL_LINEAR,)}, 0.06),
        (TINY, {"dora": True}, 0.04),
        (GROUPED, {"device": "cuda", "dropout": False}, 0.03),  # with the core's norms and SwiGLU, as on a GPU
    ],
)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_what_torch_really_holds(shape: Shape, change: dict[str, Any], near: float, checkpointing: bool) -> None:
    """Each byte that one step of a small float32 model holds at its peak, loss left out, counted as torch makes it."""
    setup = replace(NF4, dtype="float32", device="cpu", checkpointing=checkpointing, tokens=256)
    setup = replace(setup, **change)
    config = LlamaConfig(
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        vocab_size=shape.vocab,
        attn_implementation="sdpa",
        use_cache=False,
    )
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=setup.rank,
        lora_dropout=0.05 if setup.dropout else 0.0,
        target_modules=setup.adapted,
        use_dora=setup.dora,
    )
    model = get_peft_model(LlamaForCausalLM(config), lora)
    if setup.device == "cuda":
        pytest.importorskip("train.lean", reason="the core's own functions").make_lean(model)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight) if weight.requires_grad else None
    values = torch.randn(1, setup.tokens, shape.hidden)
    mask = torch.ones(setup.tokens, setup.tokens, dtype=torch.bool).tril()[None, None]
    peak = Peak()
    for tensor in [*model.parameters(), *model.buffers(), *(weight.grad for weight in model.parameters())]:
        if tensor is not None:
            peak.known(tensor, counts=False)
    peak.known(values)
    peak.known(mask)
    with peak:
        model.base_model.model.model(inputs_embeds=values, attention_mask=mask).last_hidden_state.sum().backward()
    made = estimate(shape, setup)
    assert made.activations + made.workspace == pytest.approx(peak.peak, rel=near)


SETUPS = st.builds(
    Setup,
    dtype=st.sampled_from(["nf4", "bfloat16", "float32"]),
    rank=st.integers(1, 256),
    modules=st.sampled_from([ATTENTION, ("q_proj", "v_proj"), (ALL_LINEAR,), ("down_proj",)]),
    tokens=st.integers(1, 8192),
    checkpointing=st.booleans(),
    embedding_on_cpu=st.booleans(),
    device=st.sampled_from(["cuda", "mps", "cpu"]),
    dropout=st.booleans(),
    dora=st.booleans(),
)
SHAPES = st.sampled_from([B7, B13, B8, SMOL])
FIGURES = ("weights", "adapter", "activations", "workspace", "logits", "slack", "runtime", "host", "device")


@given(SHAPES, SETUPS, st.integers(1, 4096), st.integers(1, 64), st.booleans())
@settings(deadline=None)
def test_more_of_anything_takes_no_less(shape: Shape, setup: Setup, tokens: int, rank: int, offload: bool) -> None:
    setup = replace(setup, offload=offload and setup.checkpointing)
    made = estimate(shape, setup)
    for more in (
        replace(setup, tokens=setup.tokens + tokens),
        replace(setup, rank=setup.rank + rank),
        replace(setup, dropout=True),
        replace(setup, dora=True),
        replace(setup, modules=(ALL_LINEAR,)),
    ):
        larger = estimate(shape, more)
        assert all(getattr(larger, name) >= getattr(made, name) for name in FIGURES)
    assert estimate(shape, replace(setup, tokens=setup.tokens + tokens)).activations > made.activations
    assert estimate(shape, replace(setup, rank=setup.rank + rank)).adapter > made.adapter


@given(SHAPES, SETUPS)
@settings(deadline=None)
def test_what_saves_memory_saves_it(shape: Shape, setup: Setup) -> None:
    setup = replace(setup, device="cuda")
    made = estimate(shape, setup)
    for dtype, wider in (("nf4", "bfloat16"), ("bfloat16", "float32")):
        narrow, wide = (estimate(shape, replace(setup, dtype=name)) for name in (dtype, wider))
        assert narrow.weights < wide.weights
    moved = estimate(shape, replace(setup, embedding_on_cpu=True))
    assert moved.device <= made.device
    assert shape.tied == (moved.host == 0)
    checkpointed = estimate(shape, replace(setup, checkpointing=True))
    offloaded = estimate(shape, replace(setup, checkpointing=True, offload=True))
    assert offloaded.device <= checkpointed.device <= estimate(shape, replace(setup, checkpointing=False)).device
    assert offloaded.host - checkpointed.host >= shape.layers * shape.hidden * setup.width * setup.tokens


def test_offload_leaves_two_inputs_on_the_device() -> None:
    """The one on its way, and the one that came back; pinned memory comes in powers of two (64 MiB for 40)."""
    row = 5120 * 2 * 4096
    here = estimate(B13, replace(NF4, tokens=4096))
    there = estimate(B13, replace(NF4, tokens=4096, offload=True))
    assert here.activations + here.workspace - there.activations - there.workspace == (40 - 2) * row
    assert there.host == 40 * (64 << 20)


def test_a_head_that_is_elsewhere_is_brought_for_the_loss() -> None:
    head = 32000 * 5120 * 2
    here = estimate(B13, NF4)
    there = estimate(B13, replace(NF4, embedding_on_cpu=True))
    assert (here.weights - there.weights, there.logits - here.logits, there.host) == (2 * head, head, 2 * head)
