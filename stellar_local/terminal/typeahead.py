"""Keys typed while an answer streams: not shown, but kept for the next prompt. Knows terminals, no models."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

# Text pasted meanwhile comes between marks, so that its lines stay one message.
_MARK_PASTES, _MARK_NONE = b"\x1b[?2004h", b"\x1b[?2004l"


@contextmanager
def kept(keyboard: int, screen: int) -> Iterator[None]:
    """While the block runs, the terminal keeps what is typed without showing it; restored however the block ends.

    `keyboard` and `screen` are file descriptors of the terminal. Ctrl-C still sends SIGINT, and takes no typed key with
    it. Ctrl-Z gives the shell its terminal back, and `fg` goes on. Nothing happens where there is no terminal, on a
    system without these settings (Windows), and in the background, where setting them would stop the process.
    """
    if sys.platform == "win32":
        yield
        return
    import termios

    try:
        before = termios.tcgetattr(keyboard)
    except termios.error:
        yield
        return
    during = [*before[:6], [*before[6]]]
    during[0] &= ~termios.ICRNL  # Enter stays a carriage return, as it is in the prompt: there Ctrl-J is another key
    during[3] &= ~(termios.ECHO | termios.ICANON)
    during[6][termios.VQUIT] = b"\0"  # Ctrl-\ would end the program with nothing saved and the terminal as it is now
    during[3] |= termios.NOFLSH  # else Ctrl-C throws away what was typed, and what is still to be shown

    def apply(settings: list[object], marks: bytes) -> None:
        if _in_foreground(keyboard):
            with suppress(termios.error, OSError):
                termios.tcsetattr(keyboard, termios.TCSANOW, settings)  # type: ignore[arg-type]  # typeshed: list[Any]
                os.write(screen, marks)

    try:
        apply(during, _MARK_PASTES)
        with _around_a_stop(lambda: apply(before, _MARK_NONE), lambda: apply(during, _MARK_PASTES)):
            yield
    finally:
        apply(before, _MARK_NONE)


def _in_foreground(keyboard: int) -> bool:
    """Whether this process may set the terminal; one that is not ours to be stopped by (no job control) counts."""
    try:
        return os.tcgetpgrp(keyboard) == os.getpgrp()
    except OSError:
        return True


@contextmanager
def _around_a_stop(before: Callable[[], None], after: Callable[[], None]) -> Iterator[None]:
    """While the block runs, call `before` when Ctrl-Z stops the process, and `after` when it goes on.

    Only where stopping is the rule: a shell without job control has SIGTSTP ignored.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTSTP) != signal.SIG_DFL:
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        before()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTSTP)  # here the process stops
        signal.signal(signal.SIGTSTP, stop)
        after()

    signal.signal(signal.SIGTSTP, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
