"""Signals that are caught for a while: each is told, those switched off stay so, and all is as it was afterwards."""

from __future__ import annotations

import signal
import threading

import pytest

from stellar_local.interrupts import caught

BOTH = (signal.SIGINT, signal.SIGTERM)


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in BOTH]


def test_each_signal_is_told() -> None:
    before, told = handlers(), list[int]()
    with caught(told.append):
        for number in (*BOTH, signal.SIGINT):
            signal.raise_signal(number)
    assert told == [*BOTH, signal.SIGINT]
    assert handlers() == before


def test_what_is_switched_off_stays_so() -> None:
    before, told = signal.signal(signal.SIGINT, signal.SIG_IGN), list[int]()
    try:
        with caught(told.append):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
        assert told == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_all_is_as_it_was_after_an_error_and_in_other_threads() -> None:
    before, seen = handlers(), list[object]()
    with pytest.raises(KeyError), caught(print):
        raise KeyError

    def look() -> None:
        with caught(print):
            seen.append(handlers())

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [before] and handlers() == before
