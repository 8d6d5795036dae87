"""In a child process: ask NVIDIA's management library for the cards and the driver. Tried with a stand-in only."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import Any


class _Memory(ctypes.Structure):
    """nvmlMemory_t, in bytes."""

    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


class _Place(ctypes.Structure):
    """nvmlPciInfo_t; only the last field is read."""

    _fields_ = [
        ("legacy", ctypes.c_char * 16),
        ("numbers", ctypes.c_uint * 5),
        ("slot", ctypes.c_char * 32),
        ("room", ctypes.c_byte * 64),
    ]


def main(tell: Callable[..., None], name: str = "") -> None:
    """Tell the driver's version, its CUDA's and each card; raises OSError where there is no such library."""
    library = ctypes.CDLL(name or ("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1"))
    if status := library.nvmlInit_v2():
        raise OSError(f"NVML cannot be initialised (status {status})")
    text, number = ctypes.create_string_buffer(96), ctypes.c_int()
    if not library.nvmlSystemGetDriverVersion(text, 96):
        tell(driver=text.value.decode("utf-8", "replace"))
    if not library.nvmlSystemGetCudaDriverVersion_v2(ctypes.byref(number)):
        tell(cuda=number.value)
    count = ctypes.c_uint()
    library.nvmlDeviceGetCount_v2(ctypes.byref(count))
    rows = []
    for index in range(count.value):
        device = ctypes.c_void_p()
        if not library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device)):
            rows.append(_card(library, device))
    tell(cards=rows)


def _card(library: Any, device: ctypes.c_void_p) -> dict[str, Any]:
    text, memory, place = ctypes.create_string_buffer(96), _Memory(), _Place()
    major, minor = ctypes.c_int(), ctypes.c_int()
    library.nvmlDeviceGetName(device, text, 96)
    known = not library.nvmlDeviceGetMemoryInfo(device, ctypes.byref(memory))
    library.nvmlDeviceGetCudaComputeCapability(device, ctypes.byref(major), ctypes.byref(minor))
    library.nvmlDeviceGetPciInfo_v3(device, ctypes.byref(place))
    return {
        "name": text.value.decode("utf-8", "replace"),
        "total": memory.total if known else None,
        "free": memory.free if known else None,
        "major": major.value,
        "minor": minor.value,
        "slot": place.slot.decode("utf-8", "replace"),
    }
