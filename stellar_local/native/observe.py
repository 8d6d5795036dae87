"""Looking on while llama.cpp computes: an observer sees the graph's tensors one by one, and reads those it wants.

Through llama.cpp's `cb_eval`. llama-cpp-python has no form of ggml's tensors, so that of the pinned release is written
down here, and compared with tensors made by ggml itself before anything is read. Knows tensors, their operations and
their memory; knows no model and nothing of what an observer does with the values.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import StellarError
from .ggml import GgmlType, base_library
from .library import api

F32 = int(GgmlType.F32)
_I32 = 26  # GGML_TYPE_I32
_READABLE: dict[int, type[np.generic]] = {F32: np.float32, _I32: np.int32}
_OBJECT = 32  # bytes that ggml puts before each tensor: struct ggml_object in ggml.c


class _Tensor(ctypes.Structure):
    """struct ggml_tensor in ggml.h."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * 10),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * 64),
        ("extra", ctypes.c_void_p),
        ("padding", ctypes.c_char * 8),
    ]


class _Memory(ctypes.Structure):
    """struct ggml_init_params in ggml.h."""

    _fields_ = [("size", ctypes.c_size_t), ("buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]


@lru_cache(maxsize=1)
def _ggml() -> ctypes.CDLL:
    """ggml's library with the functions used here typed, after a proof that its tensors are laid out as we think.

    Raises StellarError where they are not.
    """
    library, pointer, number = base_library(), ctypes.c_void_p, ctypes.c_int64
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "ggml_tensor_overhead": (ctypes.c_size_t, []),
        "ggml_init": (pointer, [_Memory]),
        "ggml_free": (None, [pointer]),
        "ggml_new_tensor_2d": (pointer, [pointer, ctypes.c_int, number, number]),
        "ggml_view_2d": (pointer, [pointer, pointer, number, number, ctypes.c_size_t, ctypes.c_size_t]),
        "ggml_mul_mat": (pointer, [pointer, pointer, pointer]),
        "ggml_set_name": (pointer, [pointer, ctypes.c_char_p]),
        "ggml_get_data": (pointer, [pointer]),
        "ggml_op_name": (ctypes.c_char_p, [ctypes.c_int]),
        "ggml_backend_cpu_buffer_type": (pointer, []),
        "ggml_backend_alloc_ctx_tensors_from_buft": (pointer, [pointer, pointer]),
        "ggml_backend_buffer_free": (None, [pointer]),
        "ggml_backend_buffer_is_host": (ctypes.c_bool, [pointer]),
        "ggml_backend_tensor_get": (None, [pointer, pointer, ctypes.c_size_t, ctypes.c_size_t]),
    }
    try:
        for name, (result, arguments) in signatures.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except AttributeError as error:
        raise _unknown(f"it has no {name}") from error
    # Its size comes first: reading further than a tensor goes would end the process.
    if (size := library.ggml_tensor_overhead() - _OBJECT) != ctypes.sizeof(_Tensor):
        raise _unknown(f"its tensors take {size} bytes, not {ctypes.sizeof(_Tensor)}")
    _prove(library)
    return library


def _prove(library: ctypes.CDLL) -> None:
    """Compare tensors that ggml makes, of known shapes and names, with what is read of them. Raises StellarError."""
    context = library.ggml_init(_Memory(1 << 16, None, True))
    buffer = None
    try:
        weight, inputs = (library.ggml_new_tensor_2d(context, F32, 8, rows) for rows in (3, 5))
        part = library.ggml_view_2d(context, inputs, 8, 2, 32, 64)
        product = library.ggml_mul_mat(context, weight, part)
        library.ggml_set_name(weight, b"weight")
        buffer = library.ggml_backend_alloc_ctx_tensors_from_buft(context, library.ggml_backend_cpu_buffer_type())
        one, two, three = (_Tensor.from_address(address) for address in (weight, part, product))
        found = {
            "type": one.type == F32,
            "shape": [*two.ne] == [8, 2, 1, 1],
            "strides": [*two.nb] == [4, 32, 64, 64],
            "name": one.name == b"weight",
            "sources": [*three.src[:3]] == [weight, part, None],
            "view": (two.view_src, two.view_offs) == (inputs, 64),
            "buffer": one.buffer == buffer,
            "data": one.data == library.ggml_get_data(weight) != None,  # noqa: E711 - a chain of comparisons
        }
        # A wrong number would be outside ggml's table of names; only a right one is looked up.
        found["operation"] = 0 < three.op < 128 and library.ggml_op_name(three.op) == b"MUL_MAT"
    finally:
        if buffer:
            library.ggml_backend_buffer_free(buffer)
        library.ggml_free(context)
    if wrong := [name for name, right in found.items() if not right]:
        raise _unknown(f"its tensors have another {', '.join(wrong)}")


def _unknown(reason: str) -> StellarError:
    return StellarError(
        f"llama.cpp cannot be looked at while it computes: this build is another than the one we know ({reason})",
        "install the release of llama-cpp-python that stellar-local asks for",
    )


class Node:
    """A tensor of a graph that is being computed; good until the observer's function returns."""

    def __init__(self, address: int) -> None:
        self.address = address  # the same for the same tensor of one graph
        self._tensor = _Tensor.from_address(address)

    @property
    def operation(self) -> str:
        """How it is computed, by ggml's name: "MUL_MAT"."""
        return _operation(self._tensor.op)

    @property
    def name(self) -> str:
        """Its name, without what llama.cpp puts around that of a copy for another device (`CUDA0#blk.0…#0`)."""
        name: str = self._tensor.name.decode("utf-8", "replace")
        return name.split("#")[1] if "#" in name else name

    @property
    def type(self) -> int:
        """Its ggml type."""
        return int(self._tensor.type)

    @property
    def shape(self) -> tuple[int, ...]:
        """Its four lengths in ggml's order, that of the rows first."""
        return tuple(self._tensor.ne)

    def source(self, number: int) -> Node:
        """What it is computed from. Raises StellarError if it has no such source."""
        address = self._tensor.src[number]
        if not address:
            raise StellarError(f"the tensor {self.name} has no source {number}")
        return Node(address)

    @property
    def span(self) -> int:
        """The bytes from its first value to its last."""
        steps = zip(self._tensor.ne, self._tensor.nb, strict=True)
        return int(4 + sum((length - 1) * step for length, step in steps))

    def read(self, room: npt.NDArray[np.uint8] | None = None) -> npt.NDArray[Any]:
        """Its values, float32 or int32 in NumPy's order of dimensions, the rows' last.

        A view of main memory where it lies there, and not to be written to; else a copy from the GPU, in `room` if
        that has `span` bytes: memory that is used again is faster. Raises StellarError for another type, for values
        that do not lie one by one in rows, and for a tensor without memory.
        """
        tensor, library = self._tensor, _ggml()
        dtype = _READABLE.get(tensor.type)
        if dtype is None or tensor.nb[0] != 4:
            raise StellarError(
                f"the values of {self.name} cannot be read: type {tensor.type}, {tensor.nb[0]} bytes apart"
            )
        holder = _Tensor.from_address(tensor.view_src) if tensor.view_src else tensor
        if not holder.buffer or not tensor.data:
            raise StellarError(f"the values of {self.name} cannot be read: it has no memory")
        memory: Any
        if library.ggml_backend_buffer_is_host(holder.buffer):
            memory = (ctypes.c_char * self.span).from_address(tensor.data)
        else:
            memory = np.empty(self.span, np.uint8) if room is None or room.nbytes < self.span else room
            library.ggml_backend_tensor_get(self.address, memory.ctypes.data, 0, self.span)
        values: npt.NDArray[Any] = np.ndarray(self.shape[::-1], dtype, memory, strides=tuple(tensor.nb)[::-1])
        return values


@lru_cache(maxsize=256)
def _operation(number: int) -> str:
    name: bytes = _ggml().ggml_op_name(number)
    return name.decode()


class Observer:
    """Looks on while a context computes, once it is `active`.

    `wants` is asked about each tensor before it is computed; where it says yes, `take` gets the tensor right after.
    Each such tensor makes llama.cpp stop, and a GPU wait. What they raise is raised by the context's `decode`; from
    then on they are not called, and the batch's values are worth nothing. Raises StellarError where this build's
    tensors are laid out in a way that we do not know.
    """

    def __init__(self, wants: Callable[[Node], bool], take: Callable[[Node], None]) -> None:
        _ggml()
        self.active = False
        self._wants, self._take = wants, take
        self._failure: BaseException | None = None
        # Kept alive here: llama.cpp holds only its address.
        self.callback = api().ggml_backend_sched_eval_callback(self._called)

    def _called(self, address: int, asked: bool, _data: Any) -> bool:
        """An exception that left this function would be printed and lost."""
        try:
            if not self.active or self._failure is not None:
                return False
            if asked:
                return self._wants(Node(address))
            self._take(Node(address))
            return True
        except BaseException as error:
            self._failure = error
            return False

    def settle(self) -> None:
        """Raise what `wants` or `take` raised during the last batch, if they did."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
