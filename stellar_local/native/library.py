"""Loading llama.cpp's library once, and its log: quiet unless asked, the last complaints kept for error messages.

Knows how the library is found and what to say when it cannot be loaded; knows nothing of models.
"""

from __future__ import annotations

import ctypes
import importlib
import sys
from collections import deque
from typing import Any

from ..errors import StellarError
from .cores import spin_briefly

_ERROR_LEVEL, _CONTINUE_LEVEL = 4, 5  # ggml_log_level in ggml.h
_state: dict[str, Any] = {}
_complaints: deque[str] = deque(maxlen=8)
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


def api() -> Any:
    """The low-level module of llama-cpp-python, initialised once per process.

    Raises StellarError if the package or one of its native libraries cannot be loaded.
    """
    if "api" in _state:
        return _state["api"]
    spin_briefly()
    try:
        module = importlib.import_module("llama_cpp.llama_cpp")
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
        if _verbose:
            sys.stderr.write(line)

    _state["log"] = module.llama_log_callback(log)  # kept alive: the library holds only its address
    module.llama_log_set(_state["log"], ctypes.c_void_p(0))
    module.llama_backend_init()
    _state["api"] = module
    return module
