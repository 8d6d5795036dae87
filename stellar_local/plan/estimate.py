"""How much memory a model takes under a setup, part by part and place by place: the arithmetic.

Weights and KV follow from the header exactly, and which layer lies where from llama.cpp's own rule (load_tensors of the
pinned release). Compute buffers are what a probe found, else a formula; the constants say what was measured. Knows
numbers only: no files, no devices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from ..native.attention import faster_without_flash
from .hardware import CUDA_CONTEXT, Machine, is_cuda
from .weights import Weights, stream_cells

MIB = 1 << 20
HOST = "RAM"
# A CUDA process beside its model and the driver's context: llama.cpp's kernels, and the graphs of generation. On an
# H200 72 to 83 MiB, of which the graphs are 4 to 7.
CUDA_KERNELS = 94 * MIB
# … for each layer left to the processor, whose prompts a GPU computes as graphs of their own: 1.1 to 1.3 MiB measured.
CUDA_GRAPH = 5 * MIB // 4
# … where cuBLAS multiplies: its workspace and kernels, 77 to 83 MiB measured.
CUBLAS = 88 * MIB
# A chat in a terminal, in main memory, beside its model: Python with all that it imports and llama.cpp's code; a batch
# takes 13 MiB less. Answers under a schema or a grammar take some 40 MiB more, which are not planned for.
PROGRAM = 68 * MIB
# What llama.cpp, and our copy of the header, keep of each token of the vocabulary (348 to 374 of SentencePiece's), and
# of each merge of a BPE (230 to 240).
TOKEN, MERGE = 380, 240
# Of each token of a batch: its number, its position, the cells of its key and its value, and its row among the outputs.
_INPUTS = 28
# With CUDA the process maps the driver's libraries as well: 334 to 370 MiB measured, 96 more for a second GPU; cuBLAS
# takes 40 of its own, and some 190 where it computes attention.
CUDA_PROGRAM, CUDA_PROGRAM_MORE = 376 * MIB, 96 * MIB
CUBLAS_PROGRAM, CUBLAS_PROGRAM_SCORES = 48 * MIB, 192 * MIB


@dataclass(frozen=True)
class Setup:
    """How a model is run. `n_ctx` tokens of KV in all, of type `kv`, shared by `sequences`; `gpu_layers` as llama.cpp
    counts them; prompts are computed `n_batch` tokens at a time; `split` are the shares of several GPUs, if stated.
    `flash` attention needs no room for all scores. A batch gives the logits of one token a sequence, or of `outputs`.
    """

    n_ctx: int
    kv: str = "f16"
    gpu_layers: int = 0
    sequences: int = 1
    n_batch: int = 512
    unified: bool = True
    flash: bool = True
    split: tuple[float, ...] = ()
    outputs: int = 0

    @property
    def rows(self) -> int:
        """Of how many tokens of a batch logits are kept."""
        return max(self.outputs, self.sequences)

    @property
    def streams(self) -> int:
        """In how many parts the KV memory is kept."""
        return 1 if self.unified else self.sequences

    def attending(self, wish: str, heads: int) -> Setup:
        """The same with flash attention as a wish (auto, on, off) has it, for a model of so many heads."""
        without = faster_without_flash(heads, self.gpu_layers > 0, self.n_ctx, self.sequences, self.n_batch, self.kv)
        return replace(self, flash=wish == "on" or (wish == "auto" and not without))

    @property
    def flash_attn(self) -> str:
        """The choice (auto, on, off) that makes a context attend so; not every GPU has flash attention."""
        return "off" if not self.flash else "auto" if self.gpu_layers else "on"


@dataclass(frozen=True)
class Parts:
    """Bytes in one place, by what they are for."""

    weights: int = 0
    kv: int = 0
    compute: int = 0
    runtime: int = 0
    lora: int = 0

    @property
    def total(self) -> int:
        """All of them together."""
        return self.weights + self.kv + self.compute + self.runtime + self.lora

    def __add__(self, other: Parts) -> Parts:
        return Parts(
            self.weights + other.weights,
            self.kv + other.kv,
            self.compute + other.compute,
            self.runtime + other.runtime,
            self.lora + other.lora,
        )


@dataclass(frozen=True)
class Buffers:
    """What llama.cpp said it would allocate for computing, in bytes by its names of devices (`CPU`, `CUDA0`,
    `CUDA_Host`), beside weights and KV.
    """

    compute: Mapping[str, int] = field(default_factory=dict)

    def of(self, device: str) -> int:
        """Those of one device."""
        return self.compute.get(device, 0)

    def host(self, devices: Mapping[str, object]) -> int:
        """Those that lie in main memory: all but the `devices`' own."""
        return sum(size for name, size in self.compute.items() if name not in devices)


@dataclass(frozen=True)
class Need:
    """The memory a setup takes in each place: the main memory under HOST, each GPU under its name. `buffers` are
    llama.cpp's own word on what it computes in, if it was asked.
    """

    places: Mapping[str, Parts]
    buffers: Buffers | None = None

    @property
    def probed(self) -> bool:
        """Whether llama.cpp itself said how large its compute buffers are."""
        return self.buffers is not None

    @property
    def host(self) -> Parts:
        """What lies in main memory."""
        return self.places[HOST]

    @property
    def on_gpus(self) -> Parts:
        """What lies on all GPUs together."""
        return sum((parts for name, parts in self.places.items() if name != HOST), Parts())

    @property
    def all(self) -> Parts:
        """Everything."""
        return self.on_gpus + self.host

    def short(self, machine: Machine, spare: int = 0) -> int:
        """The bytes that are missing where most are missing; 0 or less: it fits, and so much is left where least is,
        beside the `spare` bytes of each place that is used.

        What the system does not say is taken to be enough.
        """
        free = {one.name: one.free + machine.opened for one in machine.gpus if one.total or one.free}
        needs = {name: parts.total for name, parts in self.places.items()}
        if machine.unified:  # one memory: what lies on the GPU lies beside the rest
            needs[HOST] += sum(parts.total for name, parts in self.places.items() if name != HOST)
        if machine.ram is not None:
            free[HOST] = machine.ram
        return max(
            (needs[name] + spare * (needs[name] > 0) - free[name] for name in needs if name in free), default=-(1 << 62)
        )


def spread(weights: Weights, setup: Setup, machine: Machine) -> list[int]:
    """Which place each block, and at last the output, lies in: -1 main memory, else the number of the GPU.

    The last `gpu_layers` are offloaded, and spread over GPUs by the shares stated or by free memory, in llama.cpp's own
    single precision, on which it can depend where a layer goes.
    """
    count, layers = len(machine.gpus), weights.layers
    offloaded = min(setup.gpu_layers, layers) if count else 0
    shares = list(setup.split) if setup.split else [device.free for device in machine.gpus]
    shares = shares if sum(shares) else [1.0] * count
    ends = np.cumsum(shares, dtype=np.float32)
    places = np.arange(offloaded, dtype=np.float32) / np.float32(offloaded or 1)
    found = np.searchsorted(ends / ends[-1], places, side="right") if offloaded else places
    return [-1] * (layers - offloaded) + [int(place) for place in found]


def estimate(weights: Weights, setup: Setup, machine: Machine, buffers: Buffers | None = None, lora: int = 0) -> Need:
    """The memory of a setup on a machine. `buffers` are a probe's, `lora` the bytes of all adapters."""
    where = spread(weights, setup, machine)
    names = {device.name: number for number, device in enumerate(machine.gpus)}
    places: dict[str, Parts] = {}
    for name, number in [*names.items(), (HOST, -1)]:
        blocks = [layer for layer, place in enumerate(where[:-1]) if place == number]
        has_output = where[-1] == number
        own = sum(weights.blocks[layer] for layer in blocks)
        if has_output:
            # A tied embedding is there once more on a GPU, since tokens are looked up in main memory.
            own += weights.output + (weights.embedding if weights.tied and number >= 0 else 0)
        if number < 0:
            own += weights.embedding
        used = bool(blocks) or has_output
        places[name] = Parts(
            weights=own,
            kv=weights.kv(setup.n_ctx, setup.kv, len(blocks), setup.streams),
            compute=_compute(weights, setup, name, number, used, bool(machine.gpus), buffers, names, bool(lora)),
            runtime=_runtime(weights, setup, machine, number, used, bool(lora)),
            lora=lora * len(blocks) // max(len(weights.blocks), 1),
        )
    return Need(places, buffers)


def _runtime(weights: Weights, setup: Setup, machine: Machine, number: int, used: bool, adapted: bool) -> int:
    """What a process takes beside its model: in main memory, or on a GPU."""
    if number < 0:
        vocabulary = weights.vocab * TOKEN + weights.merges * MERGE
        return PROGRAM + vocabulary + weights.header + _driver(weights, setup, machine, adapted)
    return 0 if machine.unified or not used else CUDA_CONTEXT + kernels(weights, setup, adapted)


def _driver(weights: Weights, setup: Setup, machine: Machine, adapted: bool) -> int:
    """Bytes of main memory that CUDA takes for itself; cards that the user states may be CUDA's."""
    count = sum(is_cuda(device) or (machine.stated and not machine.unified) for device in machine.gpus)
    found = CUDA_PROGRAM + (count - 1) * CUDA_PROGRAM_MORE if count else 0
    if found and setup.gpu_layers:
        found += CUBLAS_PROGRAM_SCORES if not setup.flash else (adapted or weights.floats) * CUBLAS_PROGRAM
    return found


def kernels(weights: Weights, setup: Setup, adapted: bool = False) -> int:
    """Bytes of a GPU that a process takes for kernels and graphs as it computes, beside the driver's context and pools.

    cuBLAS multiplies where there is no flash attention, where weights are not quantized, and for adapters.
    """
    left = weights.layers - min(setup.gpu_layers, weights.layers)
    return CUDA_KERNELS + left * CUDA_GRAPH + (adapted or weights.floats or not setup.flash) * CUBLAS


def _compute(
    weights: Weights,
    setup: Setup,
    name: str,
    number: int,
    used: bool,
    gpus: bool,
    buffers: Buffers | None,
    names: Mapping[str, int],
    adapted: bool,
) -> int:
    if number < 0:
        found = outputs(weights, setup) + (scratch(weights, setup) if used else 0)
        if buffers:
            return found + buffers.host(names)
        return found + (_staging(weights, setup) if gpus else 0) + (work(weights, setup) if used else 0)
    if not used:
        return 0
    found = buffers.of(name) if buffers else work(weights, setup, on_gpu=True)
    return found + pool(weights, setup, adapted)


def outputs(weights: Weights, setup: Setup) -> int:
    """Bytes of the logits that are read back, float32."""
    return 4 * weights.vocab * setup.rows


def work(weights: Weights, setup: Setup, on_gpu: bool = False) -> int:
    """Bytes of the buffers that a device computes a full batch in, by a formula for LLaMA's graph.

    With f16 KV it is what probes of the pinned release on a CPU say, to the last tenth of a MiB, for 135M, 1B, 7B, 8B
    and 13B: four rows of the width and three of the feed-forward's are alive at once, the mask in float16, and the
    numbers that describe each token. A quantized KV takes a row of the width less. Without flash attention all scores
    are there, beside five rows of the width, keys and values. A GPU makes a float16 copy of a layer's quantized keys
    and values (ggml_cuda_flash_attn_ext_get_alloc_size), beside four rows: 124 MiB for 13B at 4,096 tokens, measured.
    """
    tokens, cells = _tokens(setup), stream_cells(setup.n_ctx, setup.streams)
    row, widths = 4 * tokens, weights.key_width + weights.value_width
    rows = row * (4 * weights.hidden + 3 * weights.inner)
    if not setup.flash:
        rows = max(rows + row * weights.hidden, row * (cells * weights.heads + 5 * weights.hidden + widths))
    elif on_gpu and setup.kv != "f16":
        rows = max(rows, 2 * setup.streams * cells * widths + row * 4 * weights.hidden)
    mask = tokens * cells * (2 if setup.flash else 4)
    return max(rows, 4 * setup.rows * weights.vocab) + mask + _INPUTS * tokens


def scratch(weights: Weights, setup: Setup) -> int:
    """Bytes that the processor takes for one operation, beside the buffers that llama.cpp speaks of: a batch's rows in
    8 bits, with their scales (ggml_graph_plan).
    """
    return max(_tokens(setup) * weights.inner * 8 // 7, halved_scores(weights, setup))


def pool(weights: Weights, setup: Setup, adapted: bool = False) -> int:
    """Bytes that a GPU takes for one operation, beside its buffers (ggml-cuda's pool; no log speaks of it): a batch's
    rows in 8 bits with their scales, or, where weights or adapters are not quantized, in float16 with what comes out;
    without flash attention, the scores.
    """
    row = 2 * (weights.inner + weights.hidden) if weights.floats or adapted else weights.inner * 8 // 7
    return max(_tokens(setup) * row, halved_scores(weights, setup))


def halved_scores(weights: Weights, setup: Setup) -> int:
    """Bytes of all scores in float16, which processor and GPU make for multiplying with the values where there is no
    flash attention; nobody speaks of them.
    """
    cells = 0 if setup.flash else stream_cells(setup.n_ctx, setup.streams)
    return 2 * _tokens(setup) * cells * weights.heads


def _tokens(setup: Setup) -> int:
    """The tokens of the batch that buffers are made for: as many for each sequence (graph_reserve)."""
    return -(-min(setup.n_batch, setup.n_ctx) // setup.sequences) * setup.sequences


def _staging(weights: Weights, setup: Setup) -> int:
    """Bytes in main memory through which a GPU's graph gets its input: embeddings and the mask."""
    tokens, cells = _tokens(setup), stream_cells(setup.n_ctx, setup.streams)
    return 8 * tokens * weights.hidden + tokens * cells * (2 if setup.flash else 4)
