"""ggml's devices: what this build really lists, and which GPUs are taken from lists that it might give."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from stellar_local.errors import StellarError
from stellar_local.native import devices
from stellar_local.native.devices import Device, gpus
from stellar_local.native.library import api

CPU, GPU, IGPU, ACCEL = range(4)  # enum ggml_backend_dev_type


def test_the_processor_is_read_as_ggml_s_own_functions_give_it() -> None:
    """The structure's layout, on the one device that every build has, against the functions that give single values."""
    library = devices._Library()
    handles = [library.device(number) for number in range(library.count())]
    (processor,) = (handle for handle in handles if library.type(handle) == CPU)
    found = library.read(processor)
    ggml, free, total = api()._lib, ctypes.c_size_t(), ctypes.c_size_t()
    for name in ("name", "description"):
        function = getattr(ggml, f"ggml_backend_dev_{name}")
        function.restype, function.argtypes = ctypes.c_char_p, [ctypes.c_void_p]
        assert getattr(found, name) == function(processor).decode() != ""
    ggml.ggml_backend_dev_memory.restype = None
    ggml.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p] + [ctypes.POINTER(ctypes.c_size_t)] * 2
    ggml.ggml_backend_dev_memory(processor, ctypes.byref(free), ctypes.byref(total))
    assert found.total == total.value > 64 << 20
    assert 0 < found.free <= found.total
    assert not found.integrated


def test_gpus_are_listed_exactly_where_llama_cpp_can_use_them() -> None:
    can = bool(api().llama_supports_gpu_offload())
    assert bool(gpus()) == can or api().llama_supports_rpc()


def test_each_gpu_belongs_to_a_backend_beside_the_processor_s() -> None:
    """The functions that list backends against the one that says whether any of them is a GPU's."""
    names = devices.backends()
    assert "CPU" in names
    assert (len({*names} - {"CPU", "BLAS", "RPC"}) > 0) == bool(api().llama_supports_gpu_offload())


class Listed:
    """A library with these devices: (type, driver, device)."""

    def __init__(self, *rows: tuple[int, int, Device]) -> None:
        self.rows = rows

    def count(self) -> int:
        return len(self.rows)

    def device(self, number: int) -> int:
        return number

    def type(self, handle: int) -> int:
        return self.rows[handle][0]

    def driver(self, handle: int) -> int:
        return self.rows[handle][1]

    def read(self, handle: int) -> Device:
        assert self.rows[handle][0] in (GPU, IGPU)  # other devices are none of our business
        return self.rows[handle][2]


def device(name: str, id: str | None = None, integrated: bool = False) -> Device:
    return Device(name, name, 1, 2, integrated, id)


A, B, SAME = device("CUDA0", "0000:01:00.0"), device("CUDA1", "0000:02:00.0"), device("Vulkan0", "0000:01:00.0")
UNKNOWN, INSIDE, ALSO = device("X"), device("Vulkan1", integrated=True), device("OpenCL0", integrated=True)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([(CPU, 0, None)], []),
        ([(ACCEL, 1, None), (CPU, 0, None)], []),
        ([(GPU, 1, A), (GPU, 1, B), (CPU, 0, None)], [A, B]),
        ([(GPU, 1, A), (GPU, 2, SAME), (CPU, 0, None)], [A]),
        ([(GPU, 1, UNKNOWN), (GPU, 1, UNKNOWN)], [UNKNOWN, UNKNOWN]),
        ([(IGPU, 2, INSIDE), (GPU, 1, A)], [A]),
        ([(IGPU, 2, INSIDE), (IGPU, 3, ALSO), (IGPU, 2, INSIDE)], [INSIDE, INSIDE]),
    ],
)
def test_those_that_llama_cpp_would_take(rows: list[Any], expected: list[Device]) -> None:
    assert devices._chosen(Listed(*rows)) == expected


@pytest.mark.parametrize("error", [OSError("no such file"), AttributeError("ggml_backend_dev_get"), StellarError("no")])
def test_a_library_that_does_not_tell_is_no_gpu(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    class Odd:
        def llama_supports_gpu_offload(self) -> bool:
            return True

    def fail() -> None:
        raise error

    monkeypatch.setattr(devices, "api", Odd)
    monkeypatch.setattr(devices, "_Library", fail)
    assert gpus() == []
