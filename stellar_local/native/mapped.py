"""Pages of a mapped file that are no longer needed in memory. Knows Linux's list of mappings; elsewhere does nothing.

llama.cpp maps a model's file and, for some types, copies weights into an order of its own that the processor multiplies
faster (CPU_REPACK). The pages they were read from stay counted as the process's memory, so that a model would seem to
take nearly twice its size, and a container's limit would be met by pages that nobody reads again.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

_DONTNEED = 4  # MADV_DONTNEED of Linux: for a mapping that is only read, the pages come back from the file when touched


def let_go(path: Path, maps: Path = Path("/proc/self/maps")) -> int:
    """Give back the pages of `path` that this process has mapped for reading; returns how many bytes were mapped.

    What is read again comes from the system's cache. Raises nothing: where it cannot be done, pages stay.
    """
    if not sys.platform.startswith("linux"):
        return 0
    let = 0
    try:
        status = path.stat()
        libc = ctypes.CDLL(None, use_errno=True)
        for line in maps.read_text(errors="surrogateescape").splitlines():
            span, access, _, device, inode, *_ = line.split(maxsplit=5)
            if int(inode) != status.st_ino or "w" in access or "r" not in access:
                continue
            major, minor = (int(part, 16) for part in device.split(":"))
            if os.makedev(major, minor) != status.st_dev:
                continue
            start, end = (int(part, 16) for part in span.split("-"))
            if libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _DONTNEED) == 0:
                let += end - start
    except (OSError, ValueError, AttributeError):
        pass
    return let
