"""Libraries of NVIDIA's that llama.cpp needs and pip has installed: loaded by hand, as the system does not look there.

The CUDA wheels of llama-cpp-python leave out libcudart and libcublas, which the packages nvidia-cuda-runtime-cu12 and
nvidia-cublas-cu12 (or those that PyTorch brought) put into site-packages/nvidia. Knows those folders and the words of
the system's loader. Written for Linux, tried with libraries made for the purpose, not with NVIDIA's.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
import sys
from pathlib import Path

_MOST = 16  # libraries to load for one that needs them


def missing_library(message: str) -> str:
    """The file name of a library that glibc's or musl's loader did not find, by its message; "" if it names none."""
    found = re.search(r"(\S+): cannot open shared object file", message) or re.search(
        r"Error loading shared library ([^\s:]+): No such file", message
    )
    return found[1] if found else ""


def installed_by_pip(name: str) -> Path | None:
    """Where pip's nvidia packages have a library of this file name; None if they do not."""
    try:
        spec = importlib.util.find_spec("nvidia")
    except (ImportError, ValueError):
        return None
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for found in sorted(Path(folder).glob(f"*/lib/{name}")):
            return found
    return None


def load_missing(message: str) -> bool:
    """Load the library that a loader's message misses, and those that it needs itself, so that the next attempt finds
    it; False where pip's nvidia packages cannot help.
    """
    if not sys.platform.startswith("linux"):
        return False
    wanted = [missing_library(message)]
    for _ in range(_MOST):
        path = installed_by_pip(wanted[-1]) if wanted[-1] else None
        if path is None:
            return False
        try:
            ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            wanted.append(missing_library(str(error)))
            continue
        wanted.pop()
        if not wanted:
            return True
    return False
