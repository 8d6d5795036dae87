"""From token bytes to text that can be shown at once: whole characters, stop texts found, placeholders replaced.

Knows bytes and strings only. What might still become a stop text or a placeholder is held back until it is decided.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence


class TextStream:
    """Feed it the bytes of each token; it gives back the text that is final.

    A character split over tokens comes out whole; bytes that are no UTF-8 become U+FFFD. After a stop text was found,
    `stopped` is true and nothing more comes out; the stop text itself never does.
    """

    def __init__(self, stop: Sequence[str] = (), replace: Mapping[str, str] | None = None) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._replace = {key: value for key, value in (replace or {}).items() if key}
        self._stop = [text for text in stop if text]
        self._watched = [*self._stop, *self._replace]
        self._held = ""
        self.stopped = False

    def feed(self, data: bytes) -> str:
        """Take a token's bytes, return the text that is certain now ("" if none is)."""
        text = self._decoder.decode(data)
        return self._emit(text, final=False) if self._watched else text

    @property
    def held(self) -> str:
        """What is held back, of whole characters."""
        return self._held

    def finish(self, cut: bool = False) -> str:
        """The end of the stream: everything still held back. An unfinished character comes out as U+FFFD, or not at
        all where the stream was `cut`: its other bytes were still to come.
        """
        return self._emit("" if cut else self._decoder.decode(b"", final=True), final=True)

    def _emit(self, text: str, final: bool) -> str:
        if self.stopped:
            return ""
        pending, out = self._held + text, ""
        while True:
            found = self._first(pending)
            if found is None:
                break
            at, mark = found
            if not final and any(self._is_begun(pending[start:]) for start in range(at + 1)):
                break  # a mark that begins earlier, or a longer one that begins here, may still come
            out += pending[:at]
            if mark in self._stop:
                self.stopped, self._held = True, ""
                return out
            out += self._replace[mark]
            pending = pending[at + len(mark) :]
        keep = 0 if final else self._undecided(pending)
        self._held = pending[len(pending) - keep :]
        return out + pending[: len(pending) - keep]

    def _first(self, text: str) -> tuple[int, str] | None:
        """The earliest mark in the text; of several at one place the longest."""
        places = [(text.find(mark), -len(mark), mark) for mark in self._watched if mark in text]
        return (min(places)[0], min(places)[2]) if places else None

    def _is_begun(self, tail: str) -> bool:
        """Whether a mark begins with all of `tail` and needs more."""
        return any(len(mark) > len(tail) and mark.startswith(tail) for mark in self._watched)

    def _undecided(self, text: str) -> int:
        """How many characters at the end may be the beginning of a mark."""
        longest = 0
        for mark in self._watched:
            for size in range(min(len(mark), len(text)), longest, -1):
                if mark.startswith(text[-size:]):
                    longest = size
                    break
        return longest
