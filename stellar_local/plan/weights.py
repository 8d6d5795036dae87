"""A model's sizes, as planning needs them: bytes of each layer, and the widths that keys, values and buffers follow.

Knows GGUF's tensor names and metadata keys of LLaMA-like models; knows no device and no memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..errors import ModelError
from ..native.ggml import GgmlType
from ..native.header import Header

KV_BYTES = {"f16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}  # of one value, block scales included
_SENTENCEPIECE, _MERGES_A_TOKEN = 1 << 16, 2.2  # LLaMA 2's vocabularies are smaller; 280,147 of 128,256 tokens
_FLOATS = {GgmlType.F32, GgmlType.F16, GgmlType.BF16}
_BLOCK = 32  # values, of q8_0 and of q4_0
CELLS = 256  # llama.cpp rounds a context up to whole blocks of so many cells


@dataclass(frozen=True)
class Weights:
    """What a model weighs. `blocks` are the bytes of each repeating layer, `embedding` those of what tokens are looked
    up in, `output` those of what follows the layers, 0 where that is the embedding again (`tied`).
    """

    blocks: tuple[int, ...]
    embedding: int
    output: int
    tied: bool
    vocab: int
    hidden: int
    inner: int
    heads: int
    key_width: int  # of all KV heads together, in values
    value_width: int
    quantizable: bool  # whether a head is made of whole blocks, without which llama.cpp keeps no KV but f16
    trained: int  # tokens of context
    floats: bool = False  # whether there are matrices that are not quantized
    merges: int = 0  # of a BPE vocabulary
    header: int = 0  # bytes of the file before the weights

    @classmethod
    def of(cls, header: Header) -> Weights:
        """The sizes that a header states. Raises ModelError where it states none that can be planned with."""
        layers = _number(header, "block_count")
        blocks, embedding, output, tied = [0] * layers, 0, 0, True
        for tensor in header.tensors:
            parts = tensor.name.split(".")
            if parts[0] == "blk" and len(parts) > 1 and parts[1].isdigit() and int(parts[1]) < layers:
                blocks[int(parts[1])] += tensor.nbytes
            elif parts[0] == "token_embd":
                embedding += tensor.nbytes
            else:
                output += tensor.nbytes
                tied = tied and parts[0] != "output"
        hidden, heads = _number(header, "embedding_length"), _number(header, "attention.head_count")
        kv_heads = _number(header, "attention.head_count_kv", heads)
        key = _number(header, "attention.key_length", hidden // heads)
        value = _number(header, "attention.value_length", key)
        rows = [tensor.shape[1] for tensor in header.tensors if tensor.name == "token_embd.weight"]
        return cls(
            blocks=tuple(blocks),
            embedding=embedding,
            output=output,
            tied=tied,
            vocab=rows[0] if rows else 0,
            hidden=hidden,
            inner=_number(header, "feed_forward_length"),
            heads=heads,
            key_width=kv_heads * key,
            value_width=kv_heads * value,
            quantizable=key % _BLOCK == value % _BLOCK == 0,
            trained=_number(header, "context_length"),
            floats=any(tensor.type in _FLOATS and len(tensor.shape) > 1 for tensor in header.tensors),
            merges=_merges(header),
            header=header.data_start,
        )

    @property
    def layers(self) -> int:
        """How many layers there are to offload: llama.cpp counts what follows the repeating ones as one more."""
        return len(self.blocks) + 1

    @cached_property
    def total(self) -> int:
        """Bytes of all tensors, each once."""
        return sum(self.blocks) + self.embedding + self.output

    def kv(self, n_ctx: int, type: str = "f16", blocks: int | None = None, streams: int = 1) -> int:
        """Bytes of the keys and values of `n_ctx` tokens, over `blocks` layers [default: all], as llama.cpp makes them
        for so many `streams` of their own memory.
        """
        count = len(self.blocks) if blocks is None else blocks
        cells = streams * stream_cells(n_ctx, streams)
        return int(count * cells * (self.key_width + self.value_width) * KV_BYTES[type])


def stream_cells(n_ctx: int, streams: int = 1) -> int:
    """The cells that llama.cpp gives each of so many streams of a context: whole blocks of 256 (llama_context)."""
    whole = -(-n_ctx // CELLS) * CELLS
    return -(-(whole // streams) // CELLS) * CELLS


def _merges(header: Header) -> int:
    """How many merges the vocabulary has; as many as LLaMA 3's, by its size, where there is a vocabulary to come."""
    found: Any = header.metadata.get("tokenizer.ggml.merges", 0)  # a long list is given as its length
    if header.metadata.get("tokenizer.ggml.model") == "no_vocab" and header.value("vocab_size", 0) > _SENTENCEPIECE:
        return int(header.value("vocab_size") * _MERGES_A_TOKEN)
    return len(found) if isinstance(found, list) else int(found)


def _number(header: Header, key: str, default: int | None = None) -> int:
    value: Any = header.value(key, default)
    if isinstance(value, list) and value:  # one for each layer: plan for the largest
        value = max(value)
    if not isinstance(value, int) or value <= 0:
        raise ModelError(
            f"the header of {header.path} does not state {header.architecture or 'llama'}.{key}",
            "planning needs a model's own GGUF file",
        )
    return value
