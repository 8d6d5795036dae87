"""The LoRA adapter: added to a base, saved, and the saved file verified.

Knows PEFT; knows nothing of data or of training. torch and PEFT are imported inside functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stellar_local.errors import ModelError, UsageError

from .config import ALL_LINEAR, TrainConfig

ADAPTER_WEIGHTS, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
ADAPTER_FILES = (ADAPTER_WEIGHTS, "adapter_model.bin")  # alpaca-lora's adapters are of the second kind


def linear_names(model: Any) -> list[str]:
    """The names of the linear layers inside the base's blocks (`q_proj` ... `down_proj`): what may get an adapter."""
    import torch

    modules = model.model.layers.named_modules()
    return list(dict.fromkeys(name.rsplit(".", 1)[-1] for name, part in modules if isinstance(part, torch.nn.Linear)))


def check_modules(names: Sequence[str], available: Sequence[str]) -> None:
    """Raise UsageError where an adapter is asked for on a module that the base lacks."""
    if unknown := [name for name in names if name not in (*available, ALL_LINEAR)]:
        raise UsageError(
            f"the base model has no module named {', '.join(unknown)}",
            f"choose among {', '.join(available)}, or {ALL_LINEAR}",
        )


def add_lora(model: Any, config: TrainConfig) -> tuple[Any, int]:
    """Give `model` LoRA layers as `config` says; returns the PEFT model and its number of A, B pairs.

    The adapter's weights are float32 whatever the base's are. Raises UsageError for a module the base lacks.
    """
    from peft import LoraConfig, get_peft_model

    available = linear_names(model)
    names: Sequence[str] = config.lora_target_modules
    check_modules(names, available)
    if ALL_LINEAR in names:
        names = available
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=list(names),
        bias="none",
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
    )
    adapted = get_peft_model(model, lora)
    pairs = sum("lora_A" in name for name, _ in adapted.named_parameters())
    return adapted, pairs


def save_adapter(model: Any, folder: Path, pairs: int) -> None:
    """Save the adapter alone into `folder` and verify what was written. Raises ModelError."""
    model.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
    verify_adapter(folder, pairs)


def verify_adapter(folder: Path, pairs: int) -> None:
    """Open the saved adapter anew: `pairs` pairs, all finite, some B not zero. Raises ModelError if not so.

    A saving bug leaves a valid but empty file, which loads without complaint and changes nothing.
    """
    from safetensors import SafetensorError, safe_open

    path = folder / ADAPTER_WEIGHTS
    try:
        with safe_open(str(path), framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError) as error:
        raise ModelError(f"the saved adapter cannot be read back: {path}", "check the disk and train again") from error
    ups = {name for name in weights if name.endswith("lora_B.weight")}
    complete = {name for name in ups if name.replace("lora_B", "lora_A") in weights}
    magnitudes = {name for name in weights if "lora_magnitude_vector" in name}
    if len(complete) != pairs or len(weights) != 2 * pairs + len(magnitudes) or len(magnitudes) not in (0, pairs):
        raise ModelError(
            f"the saved adapter holds {len(complete)} pairs of matrices instead of {pairs}: {path}",
            "train again with the versions of peft and transformers that the extra train brings",
        )
    if not all(bool(weight.isfinite().all()) for weight in weights.values()):
        raise ModelError(f"the saved adapter holds numbers that are not finite: {path}", "lower --learning-rate")
    if not any(bool(weights[name].any()) for name in ups):
        raise ModelError(
            f"the saved adapter changes nothing, every B is zero: {path}",
            "raise --learning-rate, or lower --warmup-steps",
        )


def load_weights(model: Any, folder: Path) -> None:
    """Put the weights of a saved adapter of the same shape into the PEFT model. Raises UsageError, ModelError."""
    from peft import set_peft_model_state_dict

    path = next((folder / name for name in ADAPTER_FILES if (folder / name).is_file()), folder / ADAPTER_WEIGHTS)
    weights = _weights(path)
    try:
        result = set_peft_model_state_dict(model, weights)
    except RuntimeError as error:  # torch's way of saying that shapes differ
        raise UsageError(f"{path} has another rank or other modules than this run", "give its own options") from error
    missing = [name for name in getattr(result, "missing_keys", []) if "lora_" in name]
    if missing or getattr(result, "unexpected_keys", []):
        raise UsageError(f"{path} has other modules than this run", "give its own --lora-target-modules")


def _weights(path: Path) -> dict[str, Any]:
    """The tensors of an adapter's file. Raises ModelError."""
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".bin":
            return dict(torch.load(path, map_location="cpu", weights_only=True))
        return dict(load_file(str(path)))
    except (OSError, SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, TypeError) as error:
        raise ModelError(f"the adapter cannot be read: {path}", "copy it again") from error


def verify_effect(model: Any, next_logits: Callable[[], Any], folder: Path, pairs: int) -> None:
    """Load the saved adapter anew into the model; its logits differ from the base's. Raises ModelError.

    `next_logits` gives the model's float32[V] for some prompt.
    """
    import torch

    verify_adapter(folder, pairs)
    load_weights(model, folder)
    model.eval()
    with torch.no_grad():
        tuned = next_logits()
        with model.disable_adapter():
            plain = next_logits()
    if not bool(tuned.isfinite().all()) or torch.equal(tuned, plain):
        raise ModelError(f"the saved adapter does not change the model's answers: {folder}", "raise --learning-rate")
