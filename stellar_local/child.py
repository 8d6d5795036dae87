"""Our own code in a child process: this Python with this sys.path, so that it finds what we would find and no more.

`python -m` would put the current folder first, where a json.py of somebody's model would take the standard library's
place. Knows nothing of what a child does.
"""

from __future__ import annotations

import os
import sys


def own_python(code: str, *arguments: str) -> list[str]:
    """The command that runs Python code of ours; its sys.argv[1:] are the arguments."""
    return [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {code}", *arguments]


def own_environment() -> dict[str, str]:
    """The environment of such a child: it speaks UTF-8, and where ggml aborts it starts no debugger on itself, which
    takes long and tells users nothing.
    """
    return {**os.environ, "PYTHONIOENCODING": "utf-8", "GGML_NO_BACKTRACE": "1"}
