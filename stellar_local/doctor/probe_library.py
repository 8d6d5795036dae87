"""In a child process: load llama.cpp and tell what it is, what it was built with and which devices it sees."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import asdict
from typing import Any


def main(tell: Callable[..., None]) -> None:
    """Load the library, then ask it, from what is least likely to fail on."""
    tell(stage="import")
    spec = importlib.util.find_spec("llama_cpp")
    tell(package=spec.origin if spec else None)
    from ..native.devices import backends, gpus
    from ..native.library import api, set_verbose

    set_verbose(True)
    tell(stage="load")
    library = api()
    tell(library=str(library._lib._name), stage="ask")
    tell(system_info=library.llama_print_system_info().decode("utf-8", "replace"))
    tell(offload=bool(library.llama_supports_gpu_offload()))
    found: dict[str, Any] = {"backends": backends(), "devices": [asdict(device) for device in gpus()]}
    tell(**found)
