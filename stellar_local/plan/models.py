"""MODEL on the command line → the models that could be run: a file, the levels in a converted folder, or, for planning
before a download, a size by name at each level.

Knows files and folders; what fits is chosen elsewhere. The type mixes behind the levels are convert's.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ..errors import ModelError, UsageError
from ..files import is_there
from ..native.header import Header, check_runnable, read_header
from .quality import Divergence, Loss, divergences, loss
from .shapes import LEVELS, SHAPES, shape_header
from .sparse import write_sparse
from .weights import Weights

# Of 30 levels those worth choosing from: each is the best of its size that needs no importance matrix.
USUAL = ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "IQ4_XS", "Q3_K_M", "Q2_K")


@dataclass(frozen=True)
class Candidate:
    """A model at a level. `named` means that only its size is known, not a file; `measured` is what the folder's
    manifest says that its levels lose.
    """

    header: Header
    level: str
    named: bool = False
    measured: Mapping[str, Divergence] = field(default_factory=dict, compare=False)

    @cached_property
    def weights(self) -> Weights:
        """What it weighs. Raises ModelError."""
        return Weights.of(self.header)

    @property
    def path(self) -> Path:
        """Its file."""
        return self.header.path

    def loss(self, kv: str) -> Loss:
        """What the level and a KV type lose in quality."""
        importance = any(key.startswith("quantize.imatrix.") for key in self.header.metadata)
        return loss(self.level, kv, importance, self.measured)


def level_of(path: Path) -> str:
    """The level in a file name of the form NAME-LEVEL.gguf, in upper case."""
    return path.stem.rpartition("-")[2].upper()


def _candidate(header: Header, measured: Mapping[str, Divergence] | None = None) -> Candidate:
    """A file's model; its level by its name, else by the file type that its header states."""
    level, types = level_of(header.path), {one.file_type: name for name, one in LEVELS.items()}
    if level not in LEVELS:
        level = types.get(header.metadata.get("general.file_type", -1), level)
    return Candidate(header, level, measured=measured or {})


def _files(folder: Path) -> list[Path]:
    """The GGUF files of a folder, the largest first."""
    found = [file for file in folder.glob("*.gguf") if is_there(file)]  # not links to what is gone
    return sorted(found, key=lambda file: (-file.stat().st_size, file.name))


def candidates(model: Path, level: str | None = None, problems: list[ModelError] | None = None) -> list[Candidate]:
    """The models that MODEL names, the largest first; with `level` that one alone. Adapters are left out.

    A damaged file beside good ones is left out as well, and told of in `problems`. Raises ModelError or UsageError
    where nothing is left.
    """
    if not is_there(model):
        sizes = f"; stellar plan knows {', '.join(SHAPES)}" if re.fullmatch(r"\d+(\.\d+)?[bB]", str(model)) else ""
        raise ModelError(f"model not found: {model}", f"give a .gguf file or a folder made by stellar convert{sizes}")
    if not model.is_dir():
        if level:
            raise UsageError(f"--level chooses within a folder, but {model} is a file", "leave --level out")
        header = read_header(model)
        check_runnable(header, cut=True)
        return [_candidate(header, divergences(model.parent))]
    files = _files(model)
    if level and files:
        named = [file for file in files if level_of(file) == level.upper()]
        if not named:
            have = ", ".join(level_of(file) for file in files)
            raise UsageError(f"level {level} is not in {model}", f"it holds {have}")
        return [_candidate(read_header(named[0]), divergences(model))]
    found, measured = [], divergences(model)
    broken: list[ModelError] = []
    for file in files:
        try:
            header = read_header(file)
            if header.metadata.get("general.type") == "adapter":  # a LoRA adapter beside the levels
                continue
            check_runnable(header, cut=len(files) == 1)
            one = _candidate(header, measured)
            one.weights  # noqa: B018 - whether it can be planned with
        except ModelError as error:
            broken.append(error)
        else:
            found.append(one)
    if found:
        if problems is not None:
            problems += broken
        return found
    if broken:
        raise broken[0]
    what = " (a Hugging Face folder)" if (model / "config.json").exists() else ""
    raise ModelError(f"no .gguf file in {model}{what}", "make one with stellar convert --base DIR --out DIR")


def named(name: str, level: str | None = None) -> list[Candidate]:
    """A model of a named size at the levels that people use, or at one; the largest first.

    Raises UsageError for a name or a level that nobody knows.
    """
    levels = [level] if level else USUAL
    found = [Candidate(shape_header(name, one), one.upper().replace("-", "_"), named=True) for one in levels]
    return sorted(found, key=lambda one: -one.header.file_size)


def is_size(name: str) -> bool:
    """Whether a text names a size, and no file of that name is there."""
    return name.lower() in SHAPES and not is_there(Path(name))


@contextmanager
def openable(model: Candidate) -> Iterator[Path]:
    """A file that llama.cpp can open without allocation: the model's own, or, where that is not whole, its header made
    as long as the whole, which takes next to no room on a disk.
    """
    if not model.named and model.header.file_size >= model.header.full_size:
        yield model.path
        return
    with tempfile.TemporaryDirectory(prefix="stellar-plan-") as folder:
        path = Path(folder) / "header.gguf"
        write_sparse(model.header, None if model.named else model.path, path)
        yield path
