"""Ctrl-C and SIGTERM while a batch runs: the first asks for an orderly end, the second stops at once.

Knows the two signals; what an orderly end is, the runner knows.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..errors import ExitCode
from ..interrupts import caught


class Signals:
    """`code` is what the process is to exit with because of a signal; None while none came."""

    def __init__(self) -> None:
        self.code: ExitCode | None = None


@contextmanager
def orderly(ask: Callable[[], None]) -> Iterator[Signals]:
    """While the block runs, call `ask` at the first SIGINT or SIGTERM and raise KeyboardInterrupt at the next.

    What `interrupts.caught` says of handlers holds here too: `ask` may only leave a message.
    """
    signals = Signals()

    def handle(number: int) -> None:
        if signals.code is not None:
            raise KeyboardInterrupt
        signals.code = ExitCode.INTERRUPTED if number == signal.SIGINT else ExitCode.TERMINATED
        ask()

    with caught(handle):
        yield signals
