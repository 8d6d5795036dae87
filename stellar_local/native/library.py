"""Loading llama.cpp's library once, and its log: quiet unless asked, the last complaints kept for error messages.

Knows how the library is found and what to say when it cannot be loaded; knows nothing of models.
"""

from __future__ import annotations

import ctypes
import importlib
import re
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import StellarError
from .companions import load_missing
from .cores import spin_briefly

_ERROR_LEVEL, _CONTINUE_LEVEL = 4, 5  # ggml_log_level in ggml.h
_state: dict[str, Any] = {}
_complaints: deque[str] = deque(maxlen=8)
_records: list[list[str]] = []
_verbose = False


def set_verbose(verbose: bool) -> None:
    """Show llama.cpp's whole log on stderr, or (the default) nothing of it."""
    global _verbose
    _verbose = verbose


def complaints() -> str:
    """The library's last error lines since the previous call, joined; "" if there were none."""
    text = "; ".join(line.strip() for line in _complaints if line.strip())
    _complaints.clear()
    return text


def speaks_of_memory(complaint: str) -> bool:
    """Whether a complaint of the library's is that memory was not to be had."""
    return bool(re.search(r"alloc|out of memory|mmap failed", complaint, re.IGNORECASE))


@contextmanager
def recorded() -> Iterator[list[str]]:
    """The library's whole log of the block, piece by piece, in the list that this gives; several threads mix."""
    pieces: list[str] = []
    _records.append(pieces)
    try:
        yield pieces
    finally:
        _records[:] = [one for one in _records if one is not pieces]  # others may hold equal pieces


class Interruption:
    """Whether Ctrl-C was pressed while native code ran."""

    asked = False


@contextmanager
def deferred_interrupt() -> Iterator[Interruption]:
    """Around a native call with Python callbacks: Ctrl-C sets the flag, and is raised when the block ends.

    An exception inside a callback would be printed and lost, so none may arise there.
    """
    interruption = Interruption()
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield interruption
        return

    def note(_number: int, _frame: Any) -> None:
        interruption.asked = True

    signal.signal(signal.SIGINT, note)
    try:
        yield interruption
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if interruption.asked:
        raise KeyboardInterrupt


def _imported() -> Any:
    """llama-cpp-python's module; what its library needs is looked for among pip's packages too."""
    met: set[str] = set()
    while True:
        try:
            return importlib.import_module("llama_cpp.llama_cpp")
        except (OSError, RuntimeError) as error:
            message = str(error)
            if message in met or not load_missing(message):
                raise
            met.add(message)


def api() -> Any:
    """The low-level module of llama-cpp-python, initialised once per process.

    Raises StellarError if the package or one of its native libraries cannot be loaded.
    """
    if "api" in _state:
        return _state["api"]
    spin_briefly()
    try:
        module = _imported()
    except ModuleNotFoundError as error:
        raise StellarError(
            f"llama-cpp-python is not installed ({error.name} is missing)", "pip install llama-cpp-python"
        ) from error
    except (OSError, RuntimeError, FileNotFoundError) as error:
        raise StellarError(
            f"llama.cpp's native library cannot be loaded: {error}",
            "reinstall it: pip install --force-reinstall --no-cache-dir llama-cpp-python",
        ) from error
    last_level = 0

    def log(level: int, text: bytes, _data: Any) -> None:
        nonlocal last_level
        last_level = last_level if level == _CONTINUE_LEVEL else level
        line = text.decode("utf-8", "replace")
        if last_level == _ERROR_LEVEL:
            _complaints.append(line)
        for pieces in _records:
            pieces.append(line)
        if _verbose:
            sys.stderr.write(line)

    _state["log"] = module.llama_log_callback(log)  # kept alive: the library holds only its address
    module.llama_log_set(_state["log"], ctypes.c_void_p(0))
    module.llama_backend_init()
    _state["api"] = module
    return module
