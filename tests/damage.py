"""What tests of bad input do to the files of a base or an adapter."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

LONG = int("9" * 400)  # whole numbers of JSON may be longer than any float


def edit(path: Path, **changes: object) -> None:
    """Change fields of a JSON file; None removes one."""
    data = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))


def cut(path: Path, size: int) -> None:
    """Keep the first `size` bytes, or all but the last -`size`."""
    path.write_bytes(path.read_bytes()[:size])


def rename_tensors(path: Path, old: str, new: str) -> None:
    """Rename tensors of a safetensors file; the names must be of one length."""
    assert len(old) == len(new)
    path.write_bytes(path.read_bytes().replace(old.encode(), new.encode()))


def change_tensors(path: Path, change: Callable[[dict], object]) -> None:
    """Load a safetensors file, change the mapping, save it."""
    from safetensors.torch import load_file, save_file

    data = load_file(path)
    change(data)
    save_file(data, path, {"format": "pt"})
