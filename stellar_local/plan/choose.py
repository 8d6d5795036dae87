"""MODEL on the command line → the .gguf file to open, and why: a file as it is, or a folder's best level that fits.

Knows converted folders and how much memory a model needs at least; the type mixes behind the levels are convert's.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from ..config import RuntimeOptions
from ..console import amount
from ..errors import ModelError, UsageError
from ..files import is_there
from ..native.header import Header, read_header
from ..runtime import DEFAULT_CONTEXT
from ..texts import Texts
from .hardware import Memory, free_memory

_RESERVE = 512 << 20  # compute buffers and the program itself
_GPU_RESERVE = 614 << 20  # of each GPU: its driver's context and compute buffers
_KV_BYTES = {"f16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}  # of one value, block scales included


class Reason(Enum):
    """Why a file was chosen."""

    FILE = "file"  # it was given itself
    NAMED = "named"  # --level
    ONLY = "only"  # the folder has no other, and it fits
    BEST = "best"  # the best of all levels fits
    FITTING = "fitting"  # the best that fits; better ones do not
    NONE = "none"  # none fits: the smallest
    UNKNOWN = "unknown"  # the system does not say how much memory is free: the smallest


@dataclass(frozen=True)
class Candidate:
    """A level of a folder. In bytes: `size` is the file's, `kv` that of the keys and values of `n_ctx` tokens, `needed`
    what must be free. `layers` counts the model's, `held` those that the GPUs' free memory would hold. `fits` is None
    where nobody knows how much is free.
    """

    file: Path
    level: str
    size: int
    n_ctx: int
    kv: int
    needed: int
    layers: int
    held: int
    fits: bool | None


@dataclass(frozen=True)
class Choice:
    """The file to open. `candidates` are the folder's levels, best first, where they were compared."""

    path: Path
    reason: Reason
    level: str = ""
    memory: Memory | None = None
    candidates: tuple[Candidate, ...] = ()

    @property
    def chosen(self) -> Candidate | None:
        """What is known of the chosen level, where levels were compared."""
        return next((one for one in self.candidates if one.file == self.path), None)

    @property
    def better(self) -> Candidate | None:
        """The next better level, which does not fit."""
        places = [place for place, one in enumerate(self.candidates) if one.file == self.path]
        return self.candidates[places[0] - 1] if places and places[0] else None

    @property
    def gpu_layers(self) -> int | None:
        """How many layers to leave to the GPU, where not all of them fit there; None: all."""
        if self.reason is not Reason.NONE or self.chosen is None or self.memory is None or not self.memory.gpus:
            return None
        return self.chosen.held


def describe(choice: Choice, texts: Texts) -> str:
    """Why a level was chosen, in one line; "" for a file given itself."""
    if choice.reason is Reason.FILE:
        return ""
    values = {"file": choice.path.name, "level": choice.level}
    if choice.reason is Reason.NAMED or choice.chosen is None:
        return texts("plan.named", **values)
    values |= {
        "count": str(len(choice.candidates)),
        "ctx": f"{choice.chosen.n_ctx:,}",
        "needed": amount(choice.chosen.needed),
        "layers": str(choice.chosen.layers),
        "held": str(choice.chosen.held),
    }
    if choice.memory is None:
        return texts("plan.unknown", **values)
    values["free"] = amount(choice.memory.free)
    if choice.better is not None:
        values |= {"better": choice.better.level, "more": amount(choice.better.needed)}
    return texts(f"plan.{choice.reason.value}_{'gpu' if choice.memory.gpus else 'ram'}", **values)


def kv_memory(header: Header, n_ctx: int, kv_type: str = "f16") -> int:
    """Bytes of keys and values of `n_ctx` tokens, over all layers."""
    heads = header.value("attention.head_count", 1)
    kv_heads = header.value("attention.head_count_kv", heads)
    width = header.value("attention.key_length") or header.value("embedding_length", 0) // max(heads, 1)
    return int(2 * header.value("block_count", 0) * n_ctx * kv_heads * width * _KV_BYTES[kv_type])


def needed_memory(header: Header, n_ctx: int, kv_type: str = "f16", gpus: int = 0) -> int:
    """Bytes to run a model with `n_ctx` tokens of KV: weights + KV + a reserve, in main memory or spread over GPUs."""
    return header.file_size + kv_memory(header, n_ctx, kv_type) + (_GPU_RESERVE * gpus or _RESERVE)


def _usual(header: Header) -> int:
    return min(DEFAULT_CONTEXT, int(header.value("context_length", DEFAULT_CONTEXT)))


def level_of(path: Path) -> str:
    """The level in a file name of the form NAME-LEVEL.gguf, in upper case."""
    return path.stem.rpartition("-")[2].upper()


def _files(folder: Path) -> list[Path]:
    """The GGUF files of a folder, the largest first."""
    return sorted(folder.glob("*.gguf"), key=lambda file: (-file.stat().st_size, file.name))


def _candidate(header: Header, n_ctx: int, kv_type: str, memory: Memory | None, gpu_layers: int | None) -> Candidate:
    layers = int(header.value("block_count", 0))
    gpus = memory.gpus if memory else 0
    kv, reserve = kv_memory(header, n_ctx, kv_type), needed_memory(header, 0, kv_type, gpus) - header.file_size
    whole = header.file_size + kv
    # llama.cpp counts what follows the layers as one more.
    share = min(1.0, gpu_layers / (layers + 1)) if gpus and gpu_layers is not None else 1.0
    held = (memory.free - reserve) * (layers + 1) // max(whole, 1) if memory and gpus else 0
    needed = int(whole * share) + reserve
    return Candidate(
        header.path,
        level_of(header.path),
        header.file_size,
        n_ctx,
        kv,
        needed,
        layers,
        max(0, min(held, layers)),
        None if memory is None else needed <= memory.free,
    )


def ranked(
    path: Path,
    n_ctx: int | None = None,
    kv_type: str = "f16",
    memory: Memory | None = None,
    gpu_layers: int | None = None,
) -> list[Candidate]:
    """The levels in a folder, the largest file first, which is the best; each with whether it fits in `memory` with
    `n_ctx` tokens of KV [default: 4096, or as many as the model was trained with].

    Adapters are left out. With `gpu_layers` only so many layers must fit on a GPU. Raises ModelError for a damaged
    file, unless a better one fits.
    """
    found: list[Candidate] = []
    for file in _files(path):
        try:
            header = read_header(file)
        except ModelError:
            if any(one.fits for one in found):
                continue
            raise
        if header.metadata.get("general.type") != "adapter":  # a LoRA adapter beside the levels
            found.append(_candidate(header, n_ctx or _usual(header), kv_type, memory, gpu_layers))
    return found


def choose_model(
    path: Path,
    level: str | None = None,
    n_ctx: int | None = None,
    memory: Memory | None = None,
    kv_type: str = "f16",
    gpu_layers: int | None = None,
) -> Choice:
    """The file to open for MODEL. In a folder: the named level, else the best that fits in memory, as `ranked` says.

    `memory` defaults to what is free where llama.cpp computes. If nothing fits, the smallest file is chosen, since
    memory-mapped weights still run, slowly, and a GPU can leave layers to the processor. Raises ModelError or
    UsageError.
    """
    if not is_there(path):
        raise ModelError(f"model not found: {path}", "give a .gguf file or a folder made by stellar convert")
    if not path.is_dir():
        if level:
            raise UsageError(f"--level chooses within a folder, but {path} is a file", "leave --level out")
        return Choice(path, Reason.FILE)
    files = _files(path)
    if level and files:
        for file in files:
            if level_of(file) == level.upper():
                return Choice(file, Reason.NAMED, level_of(file))
        have = ", ".join(level_of(file) for file in files)
        raise UsageError(f"level {level} is not in {path}", f"it holds {have}")
    if files and memory is None:
        memory = free_memory(on_gpu=gpu_layers != 0)
    candidates = ranked(path, n_ctx, kv_type, memory, gpu_layers)
    if not candidates:
        what = " (a Hugging Face folder)" if (path / "config.json").exists() else ""
        raise ModelError(f"no .gguf file in {path}{what}", "make one with stellar convert --base DIR --out DIR")
    fitting = [one for one in candidates if one.fits]
    chosen = fitting[0] if fitting else candidates[-1]
    if not fitting:
        reason = Reason.UNKNOWN if memory is None else Reason.NONE
    elif chosen is not candidates[0]:
        reason = Reason.FITTING
    else:
        reason = Reason.BEST if len(candidates) > 1 else Reason.ONLY
    return Choice(chosen.file, reason, chosen.level, memory, tuple(candidates))


def fits_beside(path: Path, options: RuntimeOptions) -> bool:
    """Whether the model that `path` names surely fits in what is free now, beside all that runs.

    Raises what choose_model and read_header do.
    """
    memory = free_memory(on_gpu=options.gpu_layers != 0)
    choice = choose_model(path, options.level, options.ctx, memory, options.kv, options.gpu_layers)
    header = read_header(choice.path)
    needed = needed_memory(header, options.ctx or _usual(header), options.kv, memory.gpus if memory else 0)
    return memory is not None and needed <= memory.free
