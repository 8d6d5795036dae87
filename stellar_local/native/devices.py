"""The GPUs that llama.cpp would put a model on, and how much of their memory is free.

Knows ggml's list of devices, which llama-cpp-python does not bind (ggml-backend.h of the pinned release), and which of
them llama.cpp takes when it is told nothing (llama_prepare_model_devices). Tried without a GPU and with one and
two of NVIDIA's; what Metal and Vulkan answer is untested.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import StellarError, UsageError
from .library import api

_GPU, _IGPU = 1, 2  # enum ggml_backend_dev_type
_computed: list[bool] = []


@dataclass(frozen=True)
class Device:
    """A GPU with its memory in bytes; both are 0 where the driver does not say.

    An `integrated` one shares the main memory. `id` is its place on the bus, None where that is unknown,
    `handle` what llama.cpp knows it by.
    """

    name: str
    description: str
    free: int
    total: int
    integrated: bool
    id: str | None = None
    handle: int = field(default=0, compare=False, repr=False)


class _Properties(ctypes.Structure):
    """struct ggml_backend_dev_props; what the device can do stays unread, with room for more than there is."""

    _fields_ = [
        ("name", ctypes.c_char_p),
        ("description", ctypes.c_char_p),
        ("free", ctypes.c_size_t),
        ("total", ctypes.c_size_t),
        ("type", ctypes.c_int),
        ("id", ctypes.c_char_p),
        ("abilities", ctypes.c_byte * 64),
    ]


def note_computing() -> None:
    """Remember that this process has computed on a GPU: its kernels stay there until the process ends."""
    _computed[:] = [True]


def has_computed() -> bool:
    """Whether this process has computed on a GPU."""
    return bool(_computed)


def gpus() -> list[Device]:
    """The GPUs that a model's layers are spread over: all separate ones, else the integrated ones of one driver.

    [] where llama.cpp computes on the processor alone, or does not tell: this raises nothing. The first call on a GPU
    opens its driver, which loading a model would do next.
    """
    try:
        return _chosen(_Library()) if api().llama_supports_gpu_offload() else []
    except (StellarError, OSError, AttributeError):
        return []


def backends() -> list[str]:
    """The names of the backends that ggml was built with, as "CPU", "CUDA", "Metal": devices or none.

    Raises StellarError if llama.cpp cannot be loaded, OSError and AttributeError where its library lacks the functions.
    """
    library = _Library()
    found = (library.backend_name(library.backend(number)) for number in range(library.backend_count()))
    return [(name or b"").decode("utf-8", "replace") for name in found]


def check_shares(shares: Sequence[float], devices: Sequence[Device]) -> None:
    """Raise UsageError unless there is a share for each GPU, and one that is not 0."""
    if not devices:
        raise UsageError(
            "--tensor-split divides a model between GPUs, and llama.cpp has none here",
            "leave it out; for GPUs llama-cpp-python must be built for them",
        )
    if len(shares) != len(devices):
        names = ", ".join(f"{device.name} ({device.description})" for device in devices)
        raise UsageError(
            f"--tensor-split has {len(shares)} shares for {len(devices)} GPUs: {names}",
            "give one number for each; 0 leaves a GPU out",
        )
    if not any(shares):
        raise UsageError("--tensor-split leaves out every GPU", "--gpu-layers 0 computes without them")


class _Library:
    """ggml's functions on devices, from the very library that llama.cpp uses. Raises OSError and AttributeError."""

    def __init__(self) -> None:
        loaded = api()._lib
        libraries = [loaded]  # where a library's symbols include those of the libraries that it needs
        if sys.platform == "win32":
            folder = Path(loaded._name).parent
            libraries = [ctypes.CDLL(str(folder / f"{stem}.dll")) for stem in ("ggml", "ggml-base")]
        pointer = ctypes.c_void_p

        def function(name: str, result: Any, *arguments: Any) -> Any:
            found = next((one for one in (getattr(library, name, None) for library in libraries) if one), None)
            if found is None:
                raise AttributeError(name)
            found.restype, found.argtypes = result, arguments
            return found

        self.count = function("ggml_backend_dev_count", ctypes.c_size_t)
        self.device = function("ggml_backend_dev_get", pointer, ctypes.c_size_t)
        self.type = function("ggml_backend_dev_type", ctypes.c_int, pointer)
        self.driver = function("ggml_backend_dev_backend_reg", pointer, pointer)
        self.backend_count = function("ggml_backend_reg_count", ctypes.c_size_t)
        self.backend = function("ggml_backend_reg_get", pointer, ctypes.c_size_t)
        self.backend_name = function("ggml_backend_reg_name", ctypes.c_char_p, pointer)
        self._properties = function("ggml_backend_dev_get_props", None, pointer, ctypes.POINTER(_Properties))

    def read(self, handle: int) -> Device:
        """What a device says of itself."""
        found = _Properties()
        self._properties(handle, ctypes.byref(found))
        return Device(
            (found.name or b"").decode("utf-8", "replace"),
            (found.description or b"").decode("utf-8", "replace"),
            found.free,
            found.total,
            found.type == _IGPU,
            found.id.decode("utf-8", "replace") if found.id else None,
            handle,
        )


def _chosen(library: Any) -> list[Device]:
    handles = [library.device(number) for number in range(library.count())]
    separate: list[Device] = []
    for handle in (handle for handle in handles if library.type(handle) == _GPU):
        device = library.read(handle)
        if device.id is None or all(device.id != other.id for other in separate):  # one card seen by two drivers
            separate.append(device)
    if separate:
        return separate
    integrated = [handle for handle in handles if library.type(handle) == _IGPU]
    return [library.read(handle) for handle in integrated if library.driver(handle) == library.driver(integrated[0])]
