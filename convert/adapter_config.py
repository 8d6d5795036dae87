"""adapter_config.json of a PEFT LoRA adapter: each field read, known to change nothing, or refused by name.

Source: peft 0.21's LoraConfig. What a finished adapter computes is in its tensors; of its configuration only the
scale of each pair, the indices of trained tokens and the names of what must be there matter. Knows no tensors.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from stellar_local.errors import ModelError

from .checkpoint import read_json
from .fields import Fields

CONFIG = "adapter_config.json"
MERGE_WITH_PEFT = "merge it with PEFT's merge_and_unload, and convert the merged folder"
_HINT = "compare it with another adapter's"
_Number = TypeVar("_Number", int, float)

# Fields that we read, or that say how it was trained and change nothing about what the finished adapter computes.
# fan_in_fan_out is among them: PEFT resets it for nn.Linear, the only kind of layer that a LLaMA targets.
_KNOWN = """
    peft_type task_type auto_mapping base_model_name_or_path revision inference_mode peft_version r lora_alpha
    lora_dropout target_modules exclude_modules use_rslora init_lora_weights bias fan_in_fan_out use_dora lora_bias
    rank_pattern alpha_pattern modules_to_save trainable_token_indices ensure_weight_tying layers_to_transform
    layers_pattern megatron_core qalora_group_size runtime_config eva_config corda_config lora_ga_config loftq_config
    low_cpu_mem_usage ephemeral_gpu_offload merge_weights
"""
_REASONS = {
    "layer_replication": "repeats layers of the base (layer_replication)",
    "target_parameters": "targets parameters, not modules (target_parameters)",
    "alora_invocation_tokens": "works on a part of the text only (alora_invocation_tokens), so it cannot be merged",
    "use_qalora": "is a QALoRA adapter (use_qalora), made for a quantized base",
    "arrow_config": "chooses among adapters for each token (arrow_config), so it cannot be merged",
}
# How A and B may have started without the base's own weights being changed; the other ways change them.
_PLAIN_INITS = ("true", "false", "gaussian", "orthogonal", "eva", "mica")


@dataclass(frozen=True)
class AdapterConfig:
    """What the configuration of an adapter says about its tensors. `rank` and `alpha` hold where no pattern matches.

    `base` is the name or folder of the base that it records, "" if none. `targets` are the endings of the modules
    that LoRA was put on, empty where the file alone can tell; `saved` those of the modules trained whole.
    """

    rank: int
    alpha: float
    rslora: bool
    dora: bool
    ties: bool
    base: str
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    targets: tuple[str, ...]
    saved: tuple[str, ...]
    tokens: Mapping[str, tuple[int, ...]]

    @classmethod
    def read(cls, folder: Path) -> AdapterConfig:
        """Read and check the configuration. Raises ModelError for what is broken, not known or cannot be merged."""
        fields = read_json(folder / CONFIG, CONFIG)
        _refuse_unknown(folder, fields)
        read = Fields(fields, f"{folder}/{CONFIG}", _HINT)
        targets = fields.get("target_modules")
        every = not fields.get("exclude_modules") and fields.get("layers_to_transform") is None
        return cls(
            rank=read.count("r"),
            alpha=read.number("lora_alpha"),
            rslora=read.flag("use_rslora"),
            dora=read.flag("use_dora"),
            ties=read.flag("ensure_weight_tying"),
            base=fields["base_model_name_or_path"] if isinstance(fields.get("base_model_name_or_path"), str) else "",
            ranks=_patterns(read, "rank_pattern", read.counts("rank_pattern")),
            alphas=_patterns(read, "alpha_pattern", read.numbers("alpha_pattern")),
            targets=read.names("target_modules") if every and not isinstance(targets, str) else (),
            saved=read.names("modules_to_save"),
            tokens=_tokens(read, fields.get("trainable_token_indices")),
        )

    def rank_of(self, module: str) -> int:
        """The rank of the pair on a module, named as in the base model ("model.layers.0.self_attn.q_proj")."""
        return self.ranks.get(_pattern_key(self.ranks, module), self.rank)

    def scale_of(self, module: str) -> float:
        """The factor of B·A on a module: alpha / rank, or alpha / √rank with rsLoRA (arXiv 2312.03732)."""
        rank = self.rank_of(module)
        alpha = self.alphas.get(_pattern_key(self.alphas, module), self.alpha)
        return alpha / (math.sqrt(rank) if self.rslora else rank)

    def saves(self, module: str) -> bool:
        """Whether a module was trained whole (modules_to_save); matched by its ending, as PEFT does."""
        return any(module.endswith(name) for name in self.saved)

    def is_target(self, module: str) -> bool:
        """Whether LoRA was put on a module, as far as the configuration lists it."""
        return any(module == name or module.endswith(f".{name}") for name in self.targets)

    def tokens_of(self, module: str) -> tuple[int, ...] | None:
        """The indices of the rows of a module that were trained alone, or None."""
        return next((rows for name, rows in self.tokens.items() if module.endswith(name)), None)


def _refuse_unknown(folder: Path, fields: Mapping[str, Any]) -> None:
    kind = fields.get("peft_type")
    if kind != "LORA":
        raise ModelError(
            f"{folder} is a {kind or 'nameless'} adapter; only LoRA adapters can be merged", MERGE_WITH_PEFT
        )
    known = _KNOWN.split()
    for key, value in fields.items():
        if key not in known and value:
            reason = _REASONS.get(key, f"uses {key}, which is not known here")
            raise ModelError(f"{folder} {reason}", MERGE_WITH_PEFT)
    bias = fields.get("bias")
    if bias not in (None, "none", "all", "lora_only"):
        raise ModelError(f"{folder}/{CONFIG} has an unknown kind of bias: {bias!r}", _HINT)
    start = fields.get("init_lora_weights", True)
    if str(start).lower() not in _PLAIN_INITS:
        raise ModelError(
            f"{folder} was started with {start}, which changes the base itself",
            "save it as a plain LoRA: save_pretrained with path_initial_model_for_weight_conversion",
        )


def _pattern_key(patterns: Mapping[str, object], module: str) -> str:
    """The first pattern that matches a module, by PEFT's own rule (peft/utils/other.py, get_pattern_key)."""
    return next((key for key in patterns if re.match(_expression(key), module)), module)


def _expression(key: str) -> str:
    """The regular expression that PEFT makes of a pattern's key."""
    return rf"(.*\.)?({key})$"


def _patterns(read: Fields, key: str, found: Mapping[str, _Number]) -> Mapping[str, _Number]:
    """The same values by pattern. Raises ModelError for a pattern that PEFT cannot use either."""
    for name in found:
        try:
            with warnings.catch_warnings():
                # Python 3.10 only warns of a flag that is not at the start ("(?i)q_proj"); later ones refuse it.
                warnings.simplefilter("error", DeprecationWarning)
                re.compile(_expression(name))
        except (re.error, DeprecationWarning, OverflowError, RecursionError) as error:
            raise read.unusable(key, name) from error
    return found


def _tokens(read: Fields, value: object) -> dict[str, tuple[int, ...]]:
    """trainable_token_indices: a list for the embeddings, or lists by module."""
    key = "trainable_token_indices"
    groups = {"embed_tokens": value} if isinstance(value, list) and value else read.mapping(key)
    for rows in groups.values():
        if not isinstance(rows, list) or not rows or not all(type(row) is int and row >= 0 for row in rows):
            raise read.unusable(key, rows)
        if len(set(rows)) < len(rows):
            raise read.unusable(key, f"a token twice in {rows}")
    return {name: tuple(rows) for name, rows in groups.items()}
