"""Ctrl-C and SIGTERM while a batch runs: the first asks for an orderly end, the second stops at once.

Knows the two signals; what an orderly end is, the runner knows.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import ExitCode


class Signals:
    """`code` is what the process is to exit with because of a signal; None while none came."""

    def __init__(self) -> None:
        self.code: ExitCode | None = None


@contextmanager
def orderly(ask: Callable[[], None]) -> Iterator[Signals]:
    """While the block runs, call `ask` at the first SIGINT or SIGTERM and raise KeyboardInterrupt at the next.

    `ask` runs between any two instructions of the main thread, so it may only leave a message. A signal that whoever
    started us has switched off stays so. Outside the main thread nothing is caught.
    """
    signals = Signals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return

    def caught(number: int, _frame: Any) -> None:
        if signals.code is not None:
            raise KeyboardInterrupt
        signals.code = ExitCode.INTERRUPTED if number == signal.SIGINT else ExitCode.TERMINATED
        ask()

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    watched = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    try:
        for number in watched:
            signal.signal(number, caught)
        yield signals
    finally:
        for number in watched:
            signal.signal(number, before[number])
