"""Machines, headers and models that the planner's tests plan for, and llama.cpp's own word on them."""

from __future__ import annotations

import re
from pathlib import Path

from stellar_local.native.devices import Device
from stellar_local.native.header import Header, TensorInfo
from stellar_local.native.library import recorded
from stellar_local.native.model import Model
from stellar_local.plan.choose import Ranking, Wish, rank
from stellar_local.plan.estimate import Setup
from stellar_local.plan.hardware import Machine
from stellar_local.plan.models import Candidate
from stellar_local.plan.probe import context_of
from stellar_local.plan.sparse import ALIGNMENT, header_bytes

MIB, GIB = 1 << 20, 1 << 30
PLENTY, NOTHING = Machine(1 << 42), Machine(0)
F16 = 1


def cards(*free: int, ram: int | None = None, name: str = "CUDA") -> Machine:
    """This machine with NVIDIA's cards, of which so much is free."""
    return Machine(
        ram, tuple(Device(f"{name}{number}", "a card", size, size, False) for number, size in enumerate(free))
    )


def made_header(
    width: int = 2048,
    inner: int = 5632,
    heads: int = 32,
    kv_heads: int = 4,
    vocab: int = 32000,
    layers: int = 2,
    tied: bool = False,
    level: str = "F16",
    **metadata: object,
) -> Header:
    """A LLaMA's header of any size, with float16 matrices; `metadata` are keys of the architecture, with _ for the dot;
    None leaves one out.
    """
    head = width // heads
    keys: dict[str, object] = {
        "block_count": layers,
        "context_length": 4096,
        "embedding_length": width,
        "feed_forward_length": inner,
        "attention.head_count": heads,
        "attention.head_count_kv": kv_heads,
        "attention.key_length": head,
        "attention.value_length": head,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.dimension_count": head,
        "vocab_size": vocab,
        **{key.replace("__", "."): value for key, value in metadata.items()},
    }
    known = {f"llama.{key}": value for key, value in keys.items() if value is not None}
    layer = {
        "attn_norm": (width,),
        "attn_q": (width, width),
        "attn_k": (width, head * kv_heads),
        "attn_v": (width, head * kv_heads),
        "attn_output": (width, width),
        "ffn_norm": (width,),
        "ffn_gate": (width, inner),
        "ffn_up": (width, inner),
        "ffn_down": (inner, width),
    }
    rows: dict[str, tuple[int, ...]] = {"token_embd.weight": (width, vocab)}
    rows |= {f"blk.{number}.{name}.weight": shape for number in range(layers) for name, shape in layer.items()}
    rows["output_norm.weight"] = (width,)
    if not tied:
        rows["output.weight"] = (width, vocab)
    tensors, offset = [], 0
    for name, shape in rows.items():
        tensors.append(TensorInfo(name, shape, 0 if len(shape) == 1 else F16, offset))
        offset += -(-tensors[-1].nbytes // ALIGNMENT) * ALIGNMENT
    everything = {"general.architecture": "llama", "general.type": "model", "tokenizer.ggml.model": "no_vocab", **known}
    stored = {key: value for key, value in everything.items() if not isinstance(value, list)}
    start = len(header_bytes(stored, tensors))
    return Header(Path(f"made-{level}.gguf"), everything, tensors, start, start + offset, 0)


def made(level: str = "F16", **fields: int) -> Candidate:
    """A model of any size that is called after a level."""
    return Candidate(made_header(level=level, **fields), level, named=True)


def log_of(path: Path, setup: Setup) -> str:
    """llama.cpp's log of making a context of a setup, without allocation."""
    with Model(path, setup.gpu_layers, no_alloc=True) as model, recorded() as pieces:
        context_of(model, setup).close()
    return "".join(pieces)


def mib_in(log: str, what: str) -> float:
    """The MiB that a log states for something."""
    found = re.search(what + r" = +([\d.]+) MiB", log)
    assert found, log[-2000:]
    return float(found[1])


def first_need(models: list[Candidate], machine: Machine, **wish: object) -> int:
    """The bytes that the largest model's ideal setup needs where it counts, and the reserve."""
    ranking = ideal_of(models, machine, **wish)
    plan = ranking.refused[0]
    assert plan.short is not None
    return plan.short + (machine.free or 0)


def ideal_of(models: list[Candidate], machine: Machine, **wish: object) -> Ranking:
    """What is refused on such a machine with nothing free."""
    empty = Machine(None if machine.gpus else 0, tuple(Device(one.name, "", 0, 1, False) for one in machine.gpus))
    return rank(models, Wish(**wish), empty)  # type: ignore[arg-type]
