"""A thread that reads items ahead, a bounded number, and hands them over as soon as reading would wait.

Knows that reading may block; knows nothing of formats or models.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .fields import Item

_BATCH = 64  # items handed over at once, at most
_BYTES = 1 << 20  # of input, after which they are handed over all the same: lines may be long
_BATCHES = 3  # handed over and not taken yet, at most


@dataclass(frozen=True)
class Ended:
    """The input is over, or cannot be read further."""

    error: Exception | None = None


class Feeder:
    """Runs `items` in a daemon thread; `put` gets lists of items and at last an Ended, in that thread.

    `items` is given a function to call before anything that may block. After each list the taker calls `taken`.
    """

    def __init__(
        self, items: Callable[[Callable[[], None]], Iterator[Item]], put: Callable[[list[Item] | Ended], None]
    ) -> None:
        self._items, self._put = items, put
        self._room = threading.Semaphore(_BATCHES)
        self._batch: list[Item] = []
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="stellar-reader", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def taken(self) -> None:
        """A list has been worked off: there is room for another."""
        self._room.release()

    def stop(self) -> None:
        """Hand over nothing more. The thread may still be waiting for input; it holds nothing that others need."""
        self._stopped = True
        self._room.release()

    def _run(self) -> None:
        error = None
        try:
            for item in self._items(self._flush):
                self._batch.append(item)
                if len(self._batch) >= _BATCH or item.end - self._batch[0].end > _BYTES:
                    self._flush()
                if self._stopped:
                    return
        except Exception as raised:  # told where the items are taken
            error = raised
        self._flush()
        if not self._stopped:
            self._put(Ended(error))

    def _flush(self) -> None:
        if self._batch and not self._stopped:
            self._room.acquire()
            batch, self._batch = self._batch, []
            if not self._stopped:
                self._put(batch)
