"""The base model and its adapter: checked, loaded, given LoRA layers, saved, and the saved file verified.

Knows Transformers and PEFT; knows nothing of data or of training. Both are imported inside functions: the command
line reads this package without them.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stellar_local.errors import MissingExtraError, ModelError, UsageError
from stellar_local.files import read_text, require_folder

from .config import ALL_LINEAR, TrainConfig

ADAPTER_WEIGHTS, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
PACKAGES = ("torch", "transformers", "peft", "accelerate", "safetensors")  # what the [train] extra brings
_SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")
_INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


def require_packages() -> None:
    """Raise MissingExtraError naming the first package of the [train] extra that is not installed."""
    from importlib.util import find_spec

    for package in PACKAGES:
        if find_spec(package) is None:
            raise MissingExtraError("train", package, "stellar train")


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Transformers' bars and warnings while the block runs: they speak of calls that users never made."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def check_base(folder: Path) -> dict[str, Any]:
    """Check, in a moment and without torch, that `folder` holds a LLaMA base; returns its config.json.

    Raises ModelError or UsageError with a sentence of its own for each thing that may be missing.
    """
    require_folder(folder, "base model", "give a Hugging Face folder with --base")
    if not (folder / "config.json").is_file():
        hint = "give the folder that holds config.json and the weights"
        if list(folder.glob("*.gguf")):
            hint = "turn a GGUF file into a base with: stellar import-gguf FILE --out DIR"
        raise ModelError(f"the base model lacks config.json: {folder}", hint)
    try:
        config = json.loads(read_text(folder / "config.json", "model configuration"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"the base model's config.json is damaged: {folder}", "copy it again") from error
    if not isinstance(config, dict) or config.get("model_type") != "llama":
        kind = config.get("model_type", "nothing") if isinstance(config, dict) else "nothing"
        raise ModelError(f"the base model is not a LLaMA: its config.json says {kind!r}", "LLaMA models are supported")
    if not any((folder / name).is_file() for name in (*_SINGLE_FILES, *_INDEX_FILES)):
        raise ModelError(f"the base model has no weights: {folder}", f"it needs {_SINGLE_FILES[0]} or its shards")
    for name in _INDEX_FILES:
        if (folder / name).is_file() and not any((folder / single).is_file() for single in _SINGLE_FILES):
            _check_shards(folder, name)
    return config


def _check_shards(folder: Path, index: str) -> None:
    try:
        shards = set(json.loads(read_text(folder / index, "weight index"))["weight_map"].values())
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"the base model's {index} is damaged: {folder}", "copy it again") from error
    if missing := sorted(shard for shard in shards if not (folder / shard).is_file()):
        raise ModelError(f"the base model lacks {len(missing)} of its weight files: {missing[0]}", "copy them again")


def choose_dtype(name: str) -> Any:
    """The torch dtype of the base: auto is bfloat16 where CUDA computes in it, else float32."""
    import torch

    if name != "auto":
        return getattr(torch, name)
    fast = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def load_base(folder: Path, dtype: Any) -> Any:
    """Load a checked base with `dtype`, on the CPU; every weight must come from its files. Raises ModelError."""
    from transformers import AutoModelForCausalLM

    try:
        model, loaded = AutoModelForCausalLM.from_pretrained(
            str(folder.resolve()), dtype=dtype, local_files_only=True, trust_remote_code=False, output_loading_info=True
        )
    except MemoryError as error:
        raise ModelError(f"not enough memory to load the base model: {folder}") from error
    except Exception as error:  # Transformers and safetensors raise many kinds for damaged files
        reason = str(error).strip().split("\n")[0][:200]
        raise ModelError(f"the base model cannot be loaded: {reason}", "check that its files are complete") from error
    # Transformers fills what a file lacks with random numbers and only warns.
    if missing := sorted(loaded["missing_keys"]):
        raise ModelError(f"the base model's files lack {len(missing)} weights: {missing[0]}", "copy the files again")
    model.config.use_cache = False
    return model


def linear_names(model: Any) -> list[str]:
    """The names of the linear layers inside the base's blocks (`q_proj` ... `down_proj`): what may get an adapter."""
    import torch

    modules = model.model.layers.named_modules()
    return list(dict.fromkeys(name.rsplit(".", 1)[-1] for name, part in modules if isinstance(part, torch.nn.Linear)))


def add_lora(model: Any, config: TrainConfig) -> tuple[Any, int]:
    """Give `model` LoRA layers as `config` says; returns the PEFT model and its number of A, B pairs.

    The adapter's weights are float32 whatever the base's are. Raises UsageError for a module the base lacks.
    """
    from peft import LoraConfig, get_peft_model

    available = linear_names(model)
    names: Sequence[str] = config.lora_target_modules
    if tuple(names) == (ALL_LINEAR,):
        names = available
    if unknown := [name for name in names if name not in available]:
        raise UsageError(
            f"the base model has no module named {', '.join(unknown)}",
            f"choose among {', '.join(available)}, or {ALL_LINEAR}",
        )
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=list(names),
        bias="none",
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
    if len(complete) != pairs or len(weights) != 2 * pairs:
        raise ModelError(f"the saved adapter holds {len(complete)} pairs of matrices instead of {pairs}: {path}")
    if not all(bool(weight.isfinite().all()) for weight in weights.values()):
        raise ModelError(f"the saved adapter holds numbers that are not finite: {path}", "lower --learning-rate")
    if not any(bool(weights[name].any()) for name in ups):
        raise ModelError(f"the saved adapter changes nothing, every B is zero: {path}", "raise --learning-rate")
