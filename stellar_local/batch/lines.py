"""Bytes from a file descriptor → lines, none of which can take much memory. Knows nothing of what is in them.

Reads the descriptor itself: a thread that is blocked in Python's buffered stdin holds its lock, and the interpreter
dies of that at exit.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterator

LONGEST = 16 << 20  # bytes of a line
BOM = b"\xef\xbb\xbf"
_CHUNK = 1 << 16

# A line's bytes without its newline (None: it was longer than allowed), and the input's bytes up to its end.
Line = tuple[bytes | None, int]


def read_lines(descriptor: int, waiting: Callable[[], None] = lambda: None, longest: int = LONGEST) -> Iterator[Line]:
    """Yield lines as they come, split at newlines only. `waiting` is called before each read, which may block.

    A line of more than `longest` bytes is skipped without being held in memory. Raises OSError.
    """
    parts: list[bytes] = []
    held, offset, skipping = 0, 0, False
    while True:
        waiting()
        chunk = _read(descriptor)
        *ended, rest = chunk.split(b"\n")
        for piece in ended:
            if parts or skipping:
                piece, parts = b"".join([*parts, piece]), []
            offset += held + len(piece) + 1 if skipping else len(piece) + 1
            yield None if skipping or len(piece) > longest else piece, offset
            held, skipping = 0, False
        if not chunk:
            break
        if rest and not skipping:
            parts.append(rest)
        held += len(rest)
        if held > longest:
            parts, skipping = [], True
    if held:
        yield None if skipping else b"".join(parts), offset + held


def _read(descriptor: int) -> bytes:
    while True:
        try:
            return os.read(descriptor, _CHUNK)
        except BlockingIOError:  # whoever started us made the pipe non-blocking
            select.select([descriptor], [], [])
