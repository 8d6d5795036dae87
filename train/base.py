"""The base model: checked without torch, loaded in the precision asked for onto its device.

Knows Transformers and bitsandbytes; knows nothing of adapters, data or training. They are imported inside functions:
the command line reads this package without them.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from logging import getLogger
from pathlib import Path
from typing import Any

from stellar_local.errors import MissingExtraError, ModelError
from stellar_local.files import read_text, require_folder

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
    quantizer = getLogger("bitsandbytes")
    quantizer_level = quantizer.level
    quantizer.setLevel("ERROR")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        quantizer.setLevel(quantizer_level)
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


def load_base(folder: Path, dtype: str, device: Any) -> Any:
    """Load a checked base as float32, bfloat16 or nf4 onto a torch device; every weight must come from its files.

    Weights go to the device tensor by tensor, and in nf4 are quantized there one at a time (double quantization, as
    in QLoRA: Dettmers et al., 2023, arXiv:2305.14314), so loading needs less memory than training does; norms,
    embedding and head stay bfloat16. Raises ModelError.
    """
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    settings: dict[str, Any] = {"dtype": torch.float32 if dtype == "float32" else torch.bfloat16}
    if dtype == "nf4":
        settings["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    if device.type != "cpu":
        settings["device_map"] = {"": device}
    try:
        model, loaded = AutoModelForCausalLM.from_pretrained(
            str(folder.resolve()), local_files_only=True, trust_remote_code=False, output_loading_info=True, **settings
        )
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise ModelError(f"not enough memory to load the base model: {folder}", "see --memory and --dtype") from error
    except Exception as error:  # Transformers and safetensors raise many kinds for damaged files
        reason = str(error).strip().split("\n")[0][:200]
        raise ModelError(f"the base model cannot be loaded: {reason}", "check that its files are complete") from error
    # Transformers fills what a file lacks with random numbers and only warns.
    if missing := sorted(loaded["missing_keys"]):
        raise ModelError(f"the base model's files lack {len(missing)} weights: {missing[0]}", "copy the files again")
    model.config.use_cache = False
    return model
