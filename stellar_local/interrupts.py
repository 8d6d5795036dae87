"""Ctrl-C and SIGTERM caught while a block runs. Knows the two signals; what becomes of them, the caller knows."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def caught(handle: Callable[[int], None]) -> Iterator[None]:
    """While the block runs, call `handle` with the number of each SIGINT and SIGTERM instead of ending.

    It runs between any two instructions of the main thread. A signal that whoever started us has switched off stays
    so. Outside the main thread, which alone may set handlers, nothing is caught.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    watched = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    try:
        for number in watched:
            signal.signal(number, lambda number, _frame: handle(number))
        yield
    finally:
        for number in watched:
            signal.signal(number, before[number])
