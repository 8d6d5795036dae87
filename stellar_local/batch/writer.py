"""Answers → output lines, flushed one by one. Knows the output stream and its ways to end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, Any

from ..records import to_line


class LineWriter:
    """Writes each record as one line at once, so that a reader sees an answer when it is due.

    A closed pipe raises BrokenPipeError, which the command line turns into a quiet end.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def write(self, record: Mapping[str, Any]) -> None:
        """Write one record and flush it."""
        self._stream.write(to_line(record).encode("utf-8") + b"\n")
        self._stream.flush()
