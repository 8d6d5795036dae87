"""How much GPU memory is in use, and how much of it one process holds: NVIDIA's management library, else nvidia-smi.

Knows libnvidia-ml's C interface (nvml.h of CUDA 12 and 13), which every driver brings. In a container the driver may
know a process under another number than the container does, or tell of no process at all: then what is in use, before
and after, is all there is to go by. Tried on an H200, on two of them, and with a made library.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, Protocol

LIBRARY = "nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1"
MIB = 1 << 20
_TOO_SMALL = 7  # NVML_ERROR_INSUFFICIENT_SIZE
_UNKNOWN = (1 << 64) - 1  # NVML_VALUE_NOT_AVAILABLE
_ROOM = 64  # processes, at first


class Gpus(Protocol):
    """All GPUs of the machine together."""

    def names(self) -> list[str]:
        """What they are called."""
        ...

    def used(self) -> int:
        """Bytes in use on all of them, by whomever."""
        ...

    def of(self, pid: int) -> int | None:
        """Bytes that a process holds on all of them; None where it is not told, or holds none."""
        ...


class _Memory(ctypes.Structure):
    """nvmlMemory_t."""

    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


class _Process(ctypes.Structure):
    """nvmlProcessInfo_t, as version 3 of the functions fills it."""

    _fields_ = [
        ("pid", ctypes.c_uint),
        ("used", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    ]


class Nvml:
    """The library. Raises OSError where it is missing, or has no GPU to tell of."""

    def __init__(self, library: Any = None) -> None:
        self._library = ctypes.CDLL(LIBRARY) if library is None else library
        self._call("nvmlInit_v2")
        count = ctypes.c_uint()
        self._call("nvmlDeviceGetCount_v2", ctypes.byref(count))
        self._devices = [self._device(number) for number in range(count.value)]
        if not self._devices:
            raise OSError("no GPU")

    def _call(self, name: str, *arguments: Any) -> None:
        try:
            status = getattr(self._library, name)(*arguments)
        except AttributeError as error:
            raise OSError(f"the driver lacks {name}") from error
        if status:
            raise OSError(f"{name}: error {status}")

    def _device(self, number: int) -> ctypes.c_void_p:
        handle = ctypes.c_void_p()
        self._call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(number), ctypes.byref(handle))
        return handle

    def names(self) -> list[str]:
        """What they are called."""
        found = []
        for device in self._devices:
            text = ctypes.create_string_buffer(96)  # NVML_DEVICE_NAME_V2_BUFFER_SIZE
            self._call("nvmlDeviceGetName", device, text, ctypes.c_uint(len(text)))
            found.append(text.value.decode("utf-8", "replace"))
        return found

    def used(self) -> int:
        """Bytes in use on all of them, what the driver keeps for itself included."""
        total = 0
        for device in self._devices:
            memory = _Memory()
            self._call("nvmlDeviceGetMemoryInfo", device, ctypes.byref(memory))
            total += memory.used
        return total

    def of(self, pid: int) -> int | None:
        """Bytes that a process holds on all of them; None where it is not told, or holds none."""
        sizes = [used for device in self._devices for number, used in self._processes(device) if number == pid]
        known = [size for size in sizes if size != _UNKNOWN]
        return sum(known) if known else None

    def _processes(self, device: ctypes.c_void_p) -> Iterator[tuple[int, int]]:
        room = _ROOM
        for _ in range(8):  # there may be more each time
            count, rows = ctypes.c_uint(room), (_Process * room)()
            status = self._library.nvmlDeviceGetComputeRunningProcesses_v3(device, ctypes.byref(count), rows)
            if not status:
                yield from ((row.pid, row.used) for row in rows[: count.value])
            if status != _TOO_SMALL:
                return
            room = max(2 * room, count.value)


class Smi:
    """The program, which takes far longer to answer. Raises OSError where it is missing or fails."""

    def __init__(self) -> None:
        if shutil.which("nvidia-smi") is None:
            raise OSError("no nvidia-smi")
        self.names()

    def names(self) -> list[str]:
        """What they are called."""
        return [cells[0] for cells in self._ask("--query-gpu=name")]

    def used(self) -> int:
        """Bytes in use on all of them, to the MiB."""
        return sum(int(cells[0]) for cells in self._ask("--query-gpu=memory.used")) * MIB

    def of(self, pid: int) -> int | None:
        """Bytes that a process holds on all of them, to the MiB; None where it is not told, or holds none."""
        rows = self._ask("--query-compute-apps=pid,used_memory")
        sizes = [int(size) * MIB for number, size in rows if number == str(pid) and size.isdigit()]
        return sum(sizes) if sizes else None

    def _ask(self, query: str) -> list[list[str]]:
        command = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        except subprocess.SubprocessError as error:
            raise OSError(f"nvidia-smi: {error}") from error
        return [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines() if line.strip()]


def open_gpus() -> Gpus | None:
    """NVIDIA's GPUs; None where there are none, or no driver."""
    for kind in (Nvml, Smi):
        try:
            return kind()
        except OSError:
            continue
    return None
