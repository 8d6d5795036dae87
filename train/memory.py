"""How much memory training takes: the arithmetic of a LLaMA's weights, its adapter, what is kept and worked on.

Knows which tensors the training core keeps, layer by layer, and how many bytes they have; the constants say what was
measured. Knows no device, no data and no torch: all it has is numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stellar_local.errors import ModelError

from .config import ALL_LINEAR

GIB = 1 << 30

# NF4 with double quantization (Dettmers et al., 2023, arXiv:2305.14314): 4 bits a weight, 8 bits of scale for each
# 64, and 32 bits for each 256 of those scales.
NF4_BYTES = (4 + 8 / 64 + 32 / (64 * 256)) / 8
# An adapter's weight in float32: itself, its gradient, AdamW's two moments.
TRAINED_BYTES = 4 * 4
# Logits that exist at a time, over all tokens of a chunk of the loss. More is no faster: the head fills a GPU.
CHUNK = 1 << 23
# Tokens in a row of a micro-batch, where no sample is longer: attention's mask grows with its square.
ROW = 1024
# What a chunk's logit takes at most: in the head's precision, if that is another, in float32, and once more while it
# is normalised.
LOGIT_BYTES = {2: 2 + 4 + 4, 4: 4 + 4}
# Tensors [tokens, intermediate] that live at once where the backward pass goes through SwiGLU: gate, up, the
# gradient of their product, silu(gate) times it, up times it, the gate's gradient.
MLP_AT_ONCE = 6
# Matrices of the size of the weight, in float32, that DoRA makes to norm its columns: base, B·A, and their sum.
DORA_MATRICES = 3

# The CUDA context, with the kernels that torch, cuBLAS and bitsandbytes load into it.
CUDA_CONTEXT = GIB // 2
# What CUDA's caching allocator holds and nobody uses, with segments that grow: shares of the weights, and of all that
# comes and goes. Fitted to sixteen runs of 7B and 13B in NF4 on an H100 (torch 2.11), of 256 to 8,192 tokens: what is
# reserved is then planned within 4%, what is allocated, where nothing was fitted, within 3%. Eight whole runs on an
# H200 later measured 0.9% below to 3.9% above the plan.
SLACK_OF_WEIGHTS, SLACK_OF_WORK = 0.025, 0.05
# What the C library's heap holds and nobody uses, for each token at once: blocks that come and go leave holes. Measured
# with bases of 67M and 135M on Linux, 269 to 1,762 tokens: the process's peak was 8% below to 16% above the plan.
HEAP_A_TOKEN = 600 << 10
# Python with torch, Transformers, PEFT and TensorBoard, in main memory: 470 MiB after a few steps of a tiny model,
# torch 2.13.
PROGRAM = 470 << 20

_SIZES = {  # a layer's linear weights: columns and rows, by the fields of Shape
    "q_proj": ("hidden", "queries"),
    "k_proj": ("hidden", "keys"),
    "v_proj": ("hidden", "keys"),
    "o_proj": ("queries", "hidden"),
    "gate_proj": ("hidden", "intermediate"),
    "up_proj": ("hidden", "intermediate"),
    "down_proj": ("intermediate", "hidden"),
}
MODULES = tuple(_SIZES)
# Modules that read the same tensor; without dropout it is kept once for all their adapters.
_INPUTS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("down_proj",))


@dataclass(frozen=True)
class Shape:
    """The sizes of a LLaMA: widths in values, and whether the head is the embedding."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool = False

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Shape:
        """The shape that a config.json states. Raises ModelError for one that does not state it."""
        heads: Any = config.get("num_attention_heads")
        hidden: Any = config.get("hidden_size")
        stated: dict[str, Any] = {
            "hidden_size": hidden,
            "intermediate_size": config.get("intermediate_size"),
            "num_hidden_layers": config.get("num_hidden_layers"),
            "num_attention_heads": heads,
            "num_key_value_heads": config.get("num_key_value_heads") or heads,
            "head_dim": config.get("head_dim") or (hidden // heads if _is_size(hidden) and _is_size(heads) else None),
            "vocab_size": config.get("vocab_size"),
        }
        for name, value in stated.items():
            if not _is_size(value):
                raise ModelError(
                    f"the base model's config.json says no {name}"
                    if value is None
                    else f"the base model's config.json says {name} is {value!r}",
                    "compare it with the original model's",
                )
        sizes: list[Any] = [*stated.values(), config.get("tie_word_embeddings") is True]
        return cls(*sizes)

    @property
    def queries(self) -> int:
        """The width of all heads' queries."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """The width of all heads' keys, and of their values."""
        return self.kv_heads * self.head_dim

    def linear(self, name: str) -> tuple[int, int]:
        """Columns (inputs) and rows (outputs) of a linear weight of each layer."""
        columns, rows = _SIZES[name]
        return getattr(self, columns), getattr(self, rows)

    @property
    def linear_weights(self) -> int:
        """How many weights the linear modules of all layers have."""
        return self.layers * sum(columns * rows for columns, rows in map(self.linear, _SIZES))

    @property
    def parameters(self) -> int:
        """How many weights the model has, norms included."""
        ends = self.vocab * self.hidden * (1 if self.tied else 2)
        return self.linear_weights + ends + (2 * self.layers + 1) * self.hidden


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


@dataclass(frozen=True)
class Setup:
    """What decides how much memory training takes, besides the model's shape.

    `tokens` are those of one packed micro-batch, of which all may be learned. With `checkpointing` only each layer's
    input is kept, with `offload` in the host's pinned memory. `embedding_on_cpu` leaves embedding and head there.
    Modules that the base lacks count for nothing.
    """

    dtype: str  # "nf4", "bfloat16", "float32": of the base; nf4 computes in bfloat16
    rank: int
    modules: tuple[str, ...]
    tokens: int
    checkpointing: bool = True
    offload: bool = False
    embedding_on_cpu: bool = False
    device: str = "cuda"  # "cuda", "mps", "cpu"
    dropout: bool = True
    dora: bool = False

    @property
    def width(self) -> int:
        """Bytes of a value that is computed."""
        return 4 if self.dtype == "float32" else 2

    @property
    def adapted(self) -> list[str]:
        """The linear modules of each layer that get an adapter."""
        return [name for name in _SIZES if name in self.modules or ALL_LINEAR in self.modules]


@dataclass(frozen=True)
class Estimate:
    """Bytes at the peak. `workspace` (a layer at work) and `logits` (the loss) do not exist at the same time.

    `slack` is what the allocator holds and nobody uses, `runtime` what a program needs before it does anything, and
    `host` lies in the host's memory, beside the program, where that is not the device's.
    """

    weights: int
    adapter: int
    activations: int
    workspace: int
    logits: int
    slack: int
    runtime: int
    host: int

    @property
    def allocated(self) -> int:
        """What tensors take on the device: torch.cuda.max_memory_allocated."""
        return self.weights + self.adapter + self.activations + max(self.workspace, self.logits)

    @property
    def reserved(self) -> int:
        """What the allocator takes from the device: torch.cuda.max_memory_reserved."""
        return self.allocated + self.slack

    @property
    def device(self) -> int:
        """All that the process takes on the device; on a CPU, in main memory."""
        return self.reserved + self.runtime


def estimate(shape: Shape, setup: Setup) -> Estimate:
    """The memory at the peak of an optimizer step, in bytes.

    The peak is in the backward pass of the last layer, when all that was kept is still there, or in the loss before it.
    """
    tokens, row = setup.tokens, shape.hidden * setup.width * setup.tokens
    mask = tokens * min(tokens, ROW)  # booleans; attention makes numbers of them, in each layer anew
    kept = _kept_by_layer(shape, setup) * tokens + mask * setup.width + _scores(shape, setup)
    weights, host = _weights(shape, setup)
    if setup.checkpointing:
        activations, layer = shape.layers * row, kept - row
        if setup.offload:
            host += shape.layers * _pinned(row)
            activations, layer = row, kept  # the one that is on its way, and the one that came back
    else:
        activations, layer = shape.layers * kept, 0
    workspace = layer + row + _backward(shape, setup)
    adapter = _adapter(shape, setup)
    work = adapter + activations + mask + max(workspace, logits := _logits(shape, setup))
    slack = HEAP_A_TOKEN * tokens if setup.device == "cpu" else 0
    if setup.device == "cuda":
        slack = int(SLACK_OF_WEIGHTS * weights + SLACK_OF_WORK * work)
    runtime = CUDA_CONTEXT if setup.device == "cuda" else PROGRAM
    return Estimate(weights, adapter, activations + mask, workspace, logits, slack, runtime, host)


def _weights(shape: Shape, setup: Setup) -> tuple[int, int]:
    """Bytes of the base's weights on the device and on the host."""
    linear = NF4_BYTES if setup.dtype == "nf4" else setup.width
    end = shape.vocab * shape.hidden  # embedding and head each
    device = shape.linear_weights * linear + (2 * shape.layers + 1) * shape.hidden * setup.width
    if shape.tied:
        return int(device) + end * setup.width, 0
    ends = 2 * end * setup.width
    return (int(device), ends) if setup.embedding_on_cpu else (int(device) + ends, 0)


def _adapter(shape: Shape, setup: Setup) -> int:
    """Bytes of the adapter, its gradients and the optimizer's state, and of its copies in bfloat16."""
    weights = 0
    for columns, rows in map(shape.linear, setup.adapted):
        weights += setup.rank * (columns + rows) + (rows if setup.dora else 0)
    copies = 0 if setup.width == 4 else weights * setup.width * (1 if setup.checkpointing else shape.layers)
    return weights * TRAINED_BYTES * shape.layers + copies


def _mlp_kept(setup: Setup) -> int:
    """How many tensors [tokens, intermediate] an MLP keeps: gate and up; the core's own SwiGLU is not on CPUs."""
    return 3 if setup.device == "cpu" else 2


def _kept_by_layer(shape: Shape, setup: Setup) -> int:
    """Bytes that one layer keeps for each token, from its input on; attention's mask and scores come on top."""
    width = setup.width
    # The layer's input and the MLP's; queries, keys and values (repeated for all heads), and attention's output.
    values = 2 * shape.hidden + 4 * shape.queries + _mlp_kept(setup) * shape.intermediate
    size = values * width + shape.heads * 4  # attention's normaliser, float32
    if setup.device == "cpu" and width == 2:
        size += 2 * 4 * shape.hidden  # Transformers' norms keep their input in float32
    for name in setup.adapted:
        columns, rows = shape.linear(name)
        size += setup.rank * width
        if setup.dropout:  # each adapter drops other values: its input, and a mask, which only CUDA has as booleans
            size += columns * (width + (1 if setup.device == "cuda" else 4))
        if setup.dora:
            size += 2 * rows * width  # the output of the base, and of the adapter
    if not setup.dropout:
        size += sum(shape.linear(group[0])[0] for group in _INPUTS if set(group) & set(setup.adapted)) * width
    return size


def _scores(shape: Shape, setup: Setup) -> int:
    """Bytes of attention's weights in one layer: only on Apple's GPUs must they be kept for the backward pass."""
    return shape.heads * setup.tokens * min(setup.tokens, ROW) * setup.width if setup.device == "mps" else 0


def _backward(shape: Shape, setup: Setup) -> int:
    """Bytes that the backward pass of a layer needs at once beside its inputs and what it kept."""
    matrix = shape.intermediate * setup.width * setup.tokens
    largest = max(columns * rows for columns, rows in map(shape.linear, _SIZES))
    weight = largest * setup.width if setup.dtype == "nf4" else 0  # the one in use, no longer quantized
    norms = 0
    if setup.dora and setup.adapted:
        norms = DORA_MATRICES * 4 * max(columns * rows for columns, rows in map(shape.linear, setup.adapted))
    return max((MLP_AT_ONCE - _mlp_kept(setup)) * matrix, matrix + weight, norms, 2 * _scores(shape, setup))


def _logits(shape: Shape, setup: Setup) -> int:
    """Bytes of the loss where all is learned: the last hidden states, again as its input, their gradient, and a chunk
    of logits.
    """
    chunk = min(CHUNK, setup.tokens * shape.vocab) * LOGIT_BYTES[setup.width]
    hidden = 3 * setup.tokens * shape.hidden * setup.width
    # A head that lies on the host is brought for the moment.
    head = shape.vocab * shape.hidden * setup.width if setup.embedding_on_cpu and not shape.tied else 0
    return hidden + chunk + head


def _pinned(size: int) -> int:
    """What torch's allocator of pinned memory takes for a tensor: the next power of two."""
    return 1 << (size - 1).bit_length()
