"""A plain PEFT LoRA adapter: read, and refused by name where anything in it is not understood.

Silence would be worse than a refusal: a part that is skipped gives a model that looks right and answers wrong.
Source: peft 0.21's LoraConfig and save format. Knows adapters and a base's tensor shapes; knows nothing of GGUF.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stellar_local.errors import ModelError, UsageError
from stellar_local.files import require_folder

from .checkpoint import RowSource, load_bin, read_json
from .safetensors import read_table

CONFIG, WEIGHTS, WEIGHTS_BIN = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"

# Fields that change nothing about a finished adapter's arithmetic, or that we read ourselves.
_HARMLESS = (
    *(
        "peft_type",
        "task_type",
        "auto_mapping",
        "base_model_name_or_path",
        "revision",
        "inference_mode",
        "peft_version",
    ),
    *(
        "r",
        "lora_alpha",
        "lora_dropout",
        "target_modules",
        "exclude_modules",
        "use_rslora",
        "init_lora_weights",
        "bias",
    ),
    *("layers_to_transform", "layers_pattern", "megatron_core", "qalora_group_size", "runtime_config", "eva_config"),
    *("low_cpu_mem_usage", "ephemeral_gpu_offload"),
)
_REASONS = {
    "use_dora": "is a DoRA adapter",
    "fan_in_fan_out": "stores its weights transposed (fan_in_fan_out)",
    "modules_to_save": "trained whole modules beside LoRA (modules_to_save)",
    "rank_pattern": "has a rank of its own for some modules (rank_pattern)",
    "alpha_pattern": "has an alpha of its own for some modules (alpha_pattern)",
    "trainable_token_indices": "trained new tokens (trainable_token_indices)",
    "layer_replication": "repeats layers of the base (layer_replication)",
    "target_parameters": "targets parameters, not modules (target_parameters)",
    "lora_bias": "trained biases (lora_bias)",
}
_PLAIN_INITS = (True, False, "gaussian", "orthogonal", "eva")  # the others change the base's own weights
_NAME = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<half>[AB])(?:\.default)?\.weight")
_KEYS = (
    ("lora_magnitude_vector", "is a DoRA adapter"),
    ("lora_embedding_", "trained the embeddings with LoRA"),
    ("trainable_tokens", "trained new tokens"),
    (".bias", "trained biases"),
    ("lora_", "has a kind of LoRA weight that is not known here"),
)
_COPY = re.compile(r"base_model\.model\.(?P<module>.+)\.base_layer\.weight")  # saved beside LoRA on lm_head, unchanged
_PEFT_HINT = "merge it with PEFT's merge_and_unload, and convert the merged folder"


@dataclass(frozen=True)
class Pair:
    """One module's A (float32 [rank, in]) and B ([out, rank]), read when needed, and the factor of B·A."""

    a: RowSource
    b: RowSource
    scale: float


@dataclass(frozen=True)
class Adapter:
    """An opened adapter. `pairs` maps the base's tensor names to what is added to them, `copies` to copies of them."""

    folder: Path
    rank: int
    alpha: float
    pairs: Mapping[str, Pair]
    copies: Mapping[str, RowSource]
    weights: Path

    @classmethod
    def open(cls, folder: Path) -> Adapter:
        """Open an adapter folder. Raises ModelError for a broken, empty or unsupported one, by name."""
        require_folder(folder, "adapter", "give the folder that holds adapter_config.json")
        if not (folder / CONFIG).is_file():
            if (folder / "config.json").is_file():
                raise ModelError(f"{folder} is a whole model, not an adapter", "give it with --base")
            raise ModelError(f"{folder} holds no {CONFIG}", "give the folder that training wrote")
        config = read_json(folder / CONFIG, CONFIG)
        _check_config(folder, config)
        weights = folder / WEIGHTS
        if not weights.is_file():
            weights = folder / WEIGHTS_BIN
        if not weights.is_file():
            raise ModelError(f"{folder} holds no {WEIGHTS}", "training may have been cut short; train again")
        tensors: Mapping[str, RowSource] = read_table(weights) if weights.name == WEIGHTS else load_bin(weights)
        rank, alpha = config["r"], float(config["lora_alpha"])
        scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
        copies = {f"{found['module']}.weight": tensors[name] for name in tensors if (found := _COPY.fullmatch(name))}
        pairs = _pair(folder, {name: tensors[name] for name in tensors if not _COPY.fullmatch(name)}, rank, scale)
        _check_values(folder, pairs)
        return cls(folder, rank, alpha, pairs, copies, weights)

    def check_fits(self, base: Mapping[str, RowSource], tied_output: str | None = None) -> None:
        """Raise ModelError unless every pair fits the base's tensor of its name, and every copy equals it.

        `tied_output` names an output tensor that the base shares with its embeddings, and so cannot change alone.
        """
        for name, pair in self.pairs.items():
            if name == tied_output:
                raise ModelError(
                    f"{self.folder} changes {name}, which this base shares with its embeddings", "train without lm_head"
                )
            if name not in base:
                raise ModelError(
                    f"{self.folder} changes {name}, which the base does not have", "it was trained on another base"
                )
            change = (pair.b.shape[0], pair.a.shape[1])
            if change != base[name].shape:
                raise ModelError(
                    f"{self.folder} was made for another base: it changes {name} as {list(change)}, "
                    f"which is {list(base[name].shape)} here",
                    "give the base that it was trained on",
                )
        for name, copy in self.copies.items():
            if name not in base or copy.shape != base[name].shape or not _same(copy, base[name]):
                raise ModelError(
                    f"{self.folder} brings a {name} of its own, which is not the base's",
                    "the base's vocabulary was changed for training; " + _PEFT_HINT,
                )


def parse_adapter(text: str) -> tuple[Path, float]:
    """`DIR` or `DIR:WEIGHT` → (folder, weight). A folder of exactly that name wins. Raises UsageError."""
    head, colon, tail = text.rpartition(":")
    if not colon or not head or Path(text).exists():
        return Path(text), 1.0
    try:
        weight = float(tail)
    except ValueError:  # a drive's colon, or one in the name
        return Path(text), 1.0
    if not math.isfinite(weight) or weight == 0.0:
        raise UsageError(f"an adapter's weight must be a number other than 0: {text}", "for example --adapter DIR:0.5")
    return Path(head), weight


def _check_config(folder: Path, config: Mapping[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise ModelError(f"{folder} is a {kind or 'nameless'} adapter; only LoRA adapters can be merged", _PEFT_HINT)
    for key in ("r", "lora_alpha"):
        value = config.get(key)
        kinds = int if key == "r" else (int, float)
        if not isinstance(value, kinds) or isinstance(value, bool) or not value > 0:
            raise ModelError(f"{folder}/{CONFIG} has no usable {key}: {value!r}", "compare it with another adapter's")
    for key, value in config.items():
        if key not in _HARMLESS and value:
            raise ModelError(f"{folder} {_REASONS.get(key, f'uses {key}, which is not known here')}", _PEFT_HINT)
    if config.get("bias", "none") != "none":
        raise ModelError(f"{folder} trained biases (bias: {config['bias']})", _PEFT_HINT)
    start = config.get("init_lora_weights", True)
    if start not in _PLAIN_INITS:
        raise ModelError(
            f"{folder} was started with {start}, which changes the base itself", "save it as a plain LoRA with PEFT"
        )


def _pair(folder: Path, tensors: Mapping[str, RowSource], rank: int, scale: float) -> dict[str, Pair]:
    """Match the halves A and B by module. Raises ModelError for anything that is not one."""
    halves: dict[str, dict[str, RowSource]] = {}
    for name, tensor in tensors.items():
        found = _NAME.fullmatch(name)
        if not found:
            reason = next((text for part, text in _KEYS if part in name), "holds a whole module beside LoRA")
            raise ModelError(f"{folder} {reason} ({name})", _PEFT_HINT)
        halves.setdefault(found["module"], {})[found["half"]] = tensor
    if not halves:
        raise ModelError(
            f"{folder} is empty: it changes no weight",
            "alpaca-lora with a newer PEFT saves such adapters; train with stellar train, or save with save_pretrained",
        )
    pairs = {}
    for module, half in halves.items():
        if missing := {"A", "B"} - set(half):
            raise ModelError(
                f"{folder} lacks lora_{missing.pop()} of {module}", "the adapter is incomplete; save it again"
            )
        a, b = half["A"], half["B"]
        if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != rank or b.shape[1] != rank:
            raise ModelError(
                f"{folder}: {module} has A {list(a.shape)} and B {list(b.shape)}, which is not rank {rank}",
                f"{CONFIG} belongs to another adapter",
            )
        pairs[f"{module}.weight"] = Pair(a, b, scale)
    return pairs


def _check_values(folder: Path, pairs: Mapping[str, Pair]) -> None:
    """Raise ModelError if a number is not finite, or if no B differs from zero, as before the first step."""
    changes = False
    for name, pair in pairs.items():
        for half in (pair.a, pair.b):
            values = half.read(0, half.shape[0])
            if not np.isfinite(values).all():
                raise ModelError(
                    f"{folder} holds NaN or infinite values ({name})", "its training diverged; train again"
                )
        changes = changes or bool(values.any())
    if not changes:
        raise ModelError(f"{folder} changes nothing: every lora_B is zero", "it was saved before its training began")


def _same(one: RowSource, other: RowSource) -> bool:
    """Whether two tensors of one shape hold the same values, compared a few rows at a time."""
    step = 4096
    return all(
        np.array_equal(one.read(start, start + step), other.read(start, start + step))
        for start in range(0, one.shape[0], step)
    )


def whole(source: RowSource) -> NDArray[np.float32]:
    """All of a small tensor as float32."""
    return source.read(0, source.shape[0])
