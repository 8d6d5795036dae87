"""A Hugging Face checkpoint folder: its configuration, and its weights row block by row block as float32.

Knows config.json, safetensors (single or in shards) and PyTorch's `.bin`; knows nothing of what the tensors mean.
Only a `.bin` needs torch, and only its tensors are loaded, never pickled code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stellar_local.errors import MissingExtraError, ModelError
from stellar_local.files import read_text, require_file, require_folder

from .safetensors import read_table

SAFETENSORS, BIN = "model.safetensors", "pytorch_model.bin"


class RowSource(Protocol):
    """A tensor that can be read in blocks of rows."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> str: ...

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows `start` to `stop` as float32."""


@dataclass(frozen=True)
class TorchTensor:
    """A tensor of a `.bin` file, mapped by torch."""

    tensor: Any
    dtype: str

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's dimensions."""
        return tuple(self.tensor.shape)

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows `start` to `stop` as a contiguous float32 array of their own."""
        return np.array(self.tensor[start:stop].float().numpy(), np.float32, order="C")


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON object. Raises StellarError if it is missing, no text, no JSON or no object."""
    text = read_text(path, what)
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{what} is not JSON: {path} ({error})", "download or save it again") from error
    if not isinstance(data, dict):
        raise ModelError(f"{what} is not a JSON object: {path}", "download or save it again")
    return data


def load_bin(path: Path) -> dict[str, TorchTensor]:
    """The tensors of a PyTorch file, weights only. Raises MissingExtraError without torch, ModelError if damaged."""
    require_file(path, "weights file")
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError("train", "torch", f"reading {path.name}") from error
    names = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    try:
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
        if not isinstance(tensor, torch.Tensor) or tensor.dtype not in names:
            raise ModelError(
                f"{path} holds {name}, which is not a float tensor",
                "use the original checkpoint in float32, float16 or bfloat16",
            )
        tensors[str(name)] = TorchTensor(tensor, names[tensor.dtype])
    return tensors


class Checkpoint:
    """An opened checkpoint: `config` is config.json, `tensors` maps names to sources of rows."""

    def __init__(self, folder: Path, config: dict[str, Any], tensors: Mapping[str, RowSource]) -> None:
        self.folder, self.config, self.tensors = folder, config, tensors

    @classmethod
    def open(cls, folder: Path) -> Checkpoint:
        """Open a folder and check that every file it names is there and whole.

        Raises UsageError or ModelError: no such folder, an adapter, no or broken config.json, a quantized
        checkpoint, no weights, a missing or truncated file.
        """
        require_folder(folder, "base model", "give the folder that holds config.json; a .gguf is read by import-gguf")
        if not (folder / "config.json").is_file():
            if (folder / "adapter_config.json").is_file():
                raise ModelError(
                    f"{folder} is a LoRA adapter, not a base model", "give it with --adapter, and its base with --base"
                )
            raise ModelError(f"{folder} holds no config.json", "give the folder of a Hugging Face model")
        config = read_json(folder / "config.json", "config.json")
        if quantization := config.get("quantization_config"):
            method = quantization.get("quant_method", "") if isinstance(quantization, dict) else ""
            raise ModelError(
                f"{folder} is a quantized checkpoint{f' ({method})' if method else ''}",
                "use the original one in float32, float16 or bfloat16",
            )
        return cls(folder, config, _open_weights(folder))

    def source(self, name: str) -> RowSource:
        """The tensor `name`. Raises ModelError if the checkpoint lacks it."""
        if name not in self.tensors:
            raise ModelError(f"{self.folder} lacks the tensor {name}", "download it again: the copy is incomplete")
        return self.tensors[name]

    def rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Rows `start` to `stop` of a tensor as float32 [stop - start, …]. Raises ModelError."""
        return self.source(name).read(start, stop)


def _open_weights(folder: Path) -> dict[str, RowSource]:
    """Every tensor of the folder: safetensors if there are any, else `.bin`."""
    for single in (SAFETENSORS, BIN):
        parts, promised = _parts(folder, single)
        if not parts:
            continue
        tensors: dict[str, RowSource] = {}
        for part in parts:
            require_file(part, "weights file", f"{folder} is incomplete: download this file too")
            tensors.update(read_table(part) if part.suffix == ".safetensors" else load_bin(part))
        if missing := sorted(promised - set(tensors)):
            raise ModelError(
                f"{folder} lacks {missing[0]} ({len(missing)} tensors of its index are missing)",
                "download it again: the copy is incomplete",
            )
        return tensors
    raise ModelError(
        f"{folder} holds no weights ({SAFETENSORS} or {BIN})", "download the whole model, not only its configuration"
    )


def _parts(folder: Path, single: str) -> tuple[list[Path], set[str]]:
    """The weight files that an index names, or the single file, and the tensors that the index promises."""
    index = folder / f"{single}.index.json"
    if index.is_file():
        mapping = read_json(index, "weights index").get("weight_map")
        if not isinstance(mapping, dict) or not all(isinstance(name, str) for name in mapping.values()):
            raise ModelError(f"weights index without a weight_map: {index}", "download it again")
        # Only plain names: an index must not reach outside its folder.
        if bad := next((name for name in mapping.values() if Path(name).name != name), None):
            raise ModelError(f"weights index {index} names a file outside its folder: {bad}", "download it again")
        return [folder / name for name in sorted(set(mapping.values()))], set(mapping)
    return ([folder / single] if (folder / single).is_file() else []), set()
