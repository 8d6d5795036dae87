"""A Hugging Face folder's weights as a stream: model.safetensors, or shards of it with an index.

Knows the sharding, and takes up what a killed run left; knows nothing of what the tensors mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .checkpoint import SAFETENSORS
from .hf import write_json
from .llama import Tensor
from .safetensors import ITEM_SIZES, header_bytes
from .tensor_file import JOURNAL_SUFFIX, Journal, TensorFile

SHARD = 5_000_000_000  # the size that Transformers shards at


class WeightsStream:
    """The weights of `tensors` in `folder`, stored as `dtype` ("F32", "F16" or "BF16").

    Tensors come whole and in order, the first `done` of them left out: an earlier run wrote them.
    """

    def __init__(
        self, folder: Path, tensors: Sequence[Tensor], dtype: str, inputs: str = "", limit: int = SHARD
    ) -> None:
        self._folder, self._dtype = folder, dtype
        self._names = {tensor.name for tensor in tensors}
        shards: list[list[Tensor]] = [[]]
        filled = 0
        for tensor in tensors:
            size = tensor.size * ITEM_SIZES[dtype]
            if shards[-1] and filled + size > limit:
                shards.append([])
                filled = 0
            shards[-1].append(tensor)
            filled += size
        names = [SAFETENSORS]
        if len(shards) > 1:
            names = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
        self._places = {tensor.name: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        self._files = [self._file(name, shard) for name, shard in zip(names, shards, strict=True)]
        self._journal = Journal(folder / JOURNAL_SUFFIX, inputs)
        self._size = sum(tensor.size for tensor in tensors) * ITEM_SIZES[dtype]
        self._at = 0  # the file that the current tensor belongs to

    def take_up(self) -> bool:
        """Find what an earlier run left and may be kept; whether there is anything. Raises StellarError."""
        digests = self._journal.digests()
        for number, file in enumerate(self._files if digests else ()):
            file.check(digests[self.done :])
            self._at = number
            if not file.complete:
                break
        return self.done > 0

    def open(self) -> None:
        """Begin writing, or go on. Raises StellarError."""
        # The journal first: a folder without one is not ours.
        self._journal.begin([digest for file in self._files for digest in file.digests])
        self._files[self._at].open()

    @property
    def done(self) -> int:
        """How many tensors are complete."""
        return sum(len(file.digests) for file in self._files)

    @property
    def missing(self) -> int:
        """How many bytes are still to be written."""
        return sum(file.final_size - file.size for file in self._files)

    def form(self, tensor: Tensor) -> str | None:
        """The dtype that a tensor is stored in; None if it has no place in a checkpoint."""
        return self._dtype if tensor.name in self._names else None

    def write(self, data: memoryview) -> None:
        """Append the next rows of the current tensor. Raises StellarError, for a full disk above all."""
        file = self._files[self._at]
        if file.complete:  # the next tensor begins the next shard
            file.close()
            self._at += 1
            file = self._files[self._at]
            file.open()
        file.write(data)

    def end_tensor(self) -> None:
        """Say that the current tensor is complete. Raises StellarError."""
        self._journal.add(self._files[self._at].end_tensor())

    def finish(self) -> None:
        """Flush the files to the disk and write the index, where there are shards. Raises StellarError, OSError."""
        self.close()
        for file in self._files:
            file.sync()
        if len(self._files) > 1:
            index = {"metadata": {"total_size": self._size}, "weight_map": self._places}
            write_json(self._folder / f"{SAFETENSORS}.index.json", index)

    def records(self) -> dict[str, dict[str, int | str]]:
        """Size and SHA-256 of each finished file, by name."""
        return {file.path.name: {"size": file.size, "sha256": file.sha256} for file in self._files}

    def forget(self) -> None:
        """Remove the journal: the folder is complete."""
        self._journal.remove()

    def close(self) -> None:
        """Close everything, complete or not."""
        for file in self._files:
            file.close()
        self._journal.close()

    def _file(self, name: str, shard: Sequence[Tensor]) -> TensorFile:
        header = header_bytes([(tensor.name, tensor.shape, self._dtype) for tensor in shard], {"format": "pt"})
        sizes = [tensor.size * ITEM_SIZES[self._dtype] for tensor in shard]
        return TensorFile(self._folder / name, header, sizes)
