"""A Hugging Face checkpoint folder: its configuration, and its weights row block by row block as float32.

Knows config.json, safetensors (single or in shards) and PyTorch's `.bin`, and refuses what only looks like a base;
of what tensors mean it knows only which two may be shared. Only a `.bin` needs torch, and only its tensors are
loaded, never pickled code. A `.bin` is mapped by torch: it must not change while it is read.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stellar_local.console import warn
from stellar_local.errors import MissingExtraError, ModelError
from stellar_local.files import is_writable, read_text, require_file, require_folder

from .delta import add_base, check_whole
from .leftovers import check_leftover, is_constant
from .llama import EMBEDDING, OUTPUT
from .safetensors import RowSource, StoredTensor, read_table, require_float, same_values

SAFETENSORS, BIN = "model.safetensors", "pytorch_model.bin"


@dataclass(frozen=True)
class TorchTensor:
    """A tensor of a `.bin` file, mapped by torch; its type is named as safetensors names it ("BF16" …)."""

    origin: Path
    name: str
    tensor: Any
    dtype: str

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's dimensions."""
        return tuple(self.tensor.shape)

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows `start` to `stop` as a contiguous float32 array of their own. Raises ModelError for other types."""
        require_float(self.origin, self.name, self.dtype)
        values = self.tensor[start:stop].float().numpy()  # a copy, except of float32
        return np.array(values, order="C", copy=self.dtype == "F32" or None)


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON object. Raises StellarError if it is missing, no text, no JSON or no object."""
    text = read_text(path, what)
    try:
        data = json.loads(text)
        # Only an escape can give half a character (a lone surrogate), which no output could hold; most files have none.
        whole = "\\ud" not in text.lower() or is_writable(json.dumps(data, ensure_ascii=False))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{what} is not JSON: {path} ({error})", "download or save it again") from error
    if not isinstance(data, dict):
        raise ModelError(f"{what} is not a JSON object: {path}", "download or save it again")
    if not whole:
        raise ModelError(f"{what} holds half a character (a lone surrogate): {path}", "download or save it again")
    return data


def load_bin(path: Path) -> dict[str, TorchTensor]:
    """The tensors of a PyTorch file, weights only. Raises MissingExtraError without torch, ModelError if damaged."""
    require_file(path, "weights file")
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError("train", "torch", f"reading {path.name}") from error
    names = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    names |= {torch.int8: "I8", torch.uint8: "U8", torch.int32: "I32", torch.int64: "I64", torch.bool: "BOOL"}
    try:
        with warnings.catch_warnings():  # torch's own remarks on a damaged file; ours follows
            warnings.simplefilter("ignore")
            try:
                state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError:  # files from before PyTorch 1.6 cannot be mapped
                state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch each have their own; all mean the same
        raise ModelError(
            f"cannot read the PyTorch file {path}: it is damaged, or holds more than tensors",
            "download it again, or use the safetensors version",
        ) from error
    if not isinstance(state, Mapping):
        raise ModelError(f"the PyTorch file {path} holds no tensors by name", "use the safetensors version")
    tensors = {}
    for name, tensor in state.items():
        if not isinstance(tensor, torch.Tensor):
            raise ModelError(
                f"{path} holds {name}, which is not a tensor",
                "use the original checkpoint in float32, float16 or bfloat16",
            )
        dtype = names.get(tensor.dtype, str(tensor.dtype))
        # An nn.Parameter gives no numbers before it is detached.
        tensors[str(name)] = TorchTensor(path, str(name), tensor.detach(), dtype)
    return tensors


class Checkpoint:
    """An opened checkpoint: `config` is config.json, `tensors` maps names to sources of rows.

    The files stay open until nothing refers to the checkpoint any more.
    """

    def __init__(self, folder: Path, config: dict[str, Any], tensors: Mapping[str, RowSource]) -> None:
        self.folder, self.config, self.tensors = folder, config, tensors

    @classmethod
    def open(cls, folder: Path, delta_base: Path | None = None) -> Checkpoint:
        """Open a folder and check that every file it names is there and whole.

        With `delta_base`, `folder` holds the difference from the model in that folder, and every tensor reads as
        their sum; all else is `folder`'s. An output that differs from the embeddings is kept although config.json
        says that they are shared, as Transformers 5 and llama.cpp's converter do; `config` then says so.

        Raises UsageError or ModelError: no such folder, an adapter, no or broken config.json, a quantized
        checkpoint or the remains of one, no weights, a missing, truncated or doubled file, a difference without
        its base.
        """
        config = _read_config(folder)
        tensors = _open_weights(folder)
        if delta_base is None:
            check_whole(folder, tensors)
        else:
            tensors = add_base(folder, tensors, delta_base, cls.open(delta_base).tensors)
        if config.get("tie_word_embeddings") and OUTPUT in tensors and EMBEDDING in tensors:
            if same_values(tensors[OUTPUT], tensors[EMBEDDING]):
                del tensors[OUTPUT]
            else:
                warn(f"{folder} has an output of its own, although its config.json shares it with the embeddings")
                config["tie_word_embeddings"] = False
        return cls(folder, config, tensors)

    def source(self, name: str) -> RowSource:
        """The tensor `name`. Raises ModelError if the checkpoint lacks it."""
        if name not in self.tensors:
            raise ModelError(f"{self.folder} lacks the tensor {name}", "download it again: the copy is incomplete")
        return self.tensors[name]


def _read_config(folder: Path) -> dict[str, Any]:
    """config.json of a folder that is no adapter and not quantized. Raises UsageError, ModelError."""
    require_folder(folder, "base model", "give the folder that holds config.json; a .gguf is read by import-gguf")
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise ModelError(
                f"{folder} is a LoRA adapter, not a base model", "give it with --adapter, and its base with --base"
            )
        if any(folder.glob("consolidated.*.pth")):
            raise ModelError(
                f"{folder} holds LLaMA in its first form (consolidated.00.pth), not a Hugging Face model",
                "convert it with Transformers' convert_llama_weights_to_hf.py, or download the Hugging Face form",
            )
        raise ModelError(f"{folder} holds no config.json", "give the folder of a Hugging Face model")
    config = read_json(folder / "config.json", "config.json")
    if quantization := config.get("quantization_config"):
        method = quantization.get("quant_method", "") if isinstance(quantization, dict) else ""
        raise ModelError(
            f"{folder} is a quantized checkpoint{f' ({method})' if method else ''}",
            "use the original one in float32, float16 or bfloat16",
        )
    return config


def _open_weights(folder: Path) -> dict[str, RowSource]:
    """Every tensor of the folder but constants: safetensors if there are any, else `.bin`. Raises ModelError."""
    for single in (SAFETENSORS, BIN):
        parts, promised = _parts(folder, single)
        if not parts:
            continue
        tensors: dict[str, StoredTensor | TorchTensor] = {}
        for part in parts:
            require_file(part, "weights file", f"{folder} is incomplete: download this file too")
        for part in parts:
            for name, tensor in (read_table(part) if part.suffix == ".safetensors" else load_bin(part)).items():
                if is_constant(name):
                    continue
                check_leftover(name, folder)
                if name in tensors:
                    raise ModelError(
                        f"{folder} holds {name} twice, in {tensors[name].origin.name} and in {part.name}",
                        "its files belong to different copies: download them all again",
                    )
                tensors[name] = tensor
        if missing := sorted(name for name in promised if name not in tensors and not is_constant(name)):
            raise ModelError(
                f"{folder} lacks {missing[0]} ({len(missing)} tensors of its index are missing)",
                "download it again: the copy is incomplete",
            )
        for name, tensor in tensors.items():
            if promised and name not in promised:
                raise ModelError(
                    f"{tensor.origin} holds {name}, which the index of its folder does not list",
                    "the index belongs to another copy: download all files again",
                )
            require_float(tensor.origin, name, tensor.dtype)
        return dict(tensors)
    raise ModelError(
        f"{folder} holds no weights ({SAFETENSORS} or {BIN})", "download the whole model, not only its configuration"
    )


def _parts(folder: Path, single: str) -> tuple[list[Path], set[str]]:
    """The weight files and the tensors that an index promises: of an index, else one file, else numbered shards."""
    index = folder / f"{single}.index.json"
    if index.is_file():
        mapping = read_json(index, "weights index").get("weight_map")
        if not isinstance(mapping, dict) or not all(isinstance(name, str) for name in mapping.values()):
            raise ModelError(f"weights index without a weight_map: {index}", "download it again")
        # Only plain names: an index must not reach outside its folder.
        if bad := next((name for name in mapping.values() if Path(name).name != name), None):
            raise ModelError(f"weights index {index} names a file outside its folder: {bad}", "download it again")
        return [folder / name for name in sorted(set(mapping.values()))], set(mapping)
    if (folder / single).is_file():
        return [folder / single], set()
    stem, _, ending = single.rpartition(".")
    for path in sorted(folder.glob(f"{stem}-*-of-*.{ending}")):
        if found := re.fullmatch(rf"{stem}-\d{{5}}-of-(\d{{5}})\.{ending}", path.name):
            count = int(found[1])
            return [folder / f"{stem}-{number:05}-of-{found[1]}.{ending}" for number in range(1, count + 1)], set()
    return [], set()
