"""Which token brings a JSON document nearer to its end: how an answer is closed before its tokens run out.

Knows JSON's punctuation and the bytes of each token; what is allowed next, it asks of llguidance's matcher.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Allowed = npt.NDArray[np.bool_]
Ids = npt.NDArray[np.intp]

LONGEST_PATH = 1024  # tokens looked ahead at most
_COMMA = re.compile(rb'"[\]}]*\s*,')


def allowed_next(matcher: Any, n_vocab: int) -> Allowed:
    """The tokens that the matcher allows next, bool of shape (n_vocab,)."""
    bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)
    return np.unpackbits(bits, count=n_vocab, bitorder="little").view(np.bool_)


class Place:
    """Where in a JSON text we are: inside a string, in a number, or elsewhere."""

    def __init__(self, in_string: bool = False, escaped: bool = False, in_number: bool = False) -> None:
        self.in_string, self._escaped, self.in_number = in_string, escaped, in_number

    def copy(self) -> Place:
        return Place(self.in_string, self._escaped, self.in_number)

    def feed(self, piece: bytes) -> None:
        """Go on by a token's bytes."""
        for byte in piece:
            if self._escaped:
                self._escaped = False
            elif byte == 0x22:
                self.in_string = not self.in_string
            elif self.in_string:
                self._escaped = byte == 0x5C
            self.in_number = not self.in_string and byte in b"0123456789+-.eE"  # true and false end so too: no harm


class Closer:
    """A vocabulary sorted by how well its tokens close a document. `pieces` are their bytes; special tokens' empty."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.pieces = pieces
        self._lengths = np.array([len(piece) for piece in pieces])
        self._first_bytes = np.array([piece[0] if piece else 0 for piece in pieces])
        self.quotes = self._like(rb'"[\]}]*')  # end a string, and more
        self.brackets = self._like(rb"[\]}]+")
        self.commas = np.array([_COMMA.search(piece) is not None for piece in pieces])  # a string's end and a comma
        self.openers = np.array([b"{" in piece or b"[" in piece for piece in pieces])
        self.comma_first = np.array([piece.lstrip().startswith(b",") for piece in pieces])
        comma = self._like(rb",")
        # In order of preference where a value or a name begins: the shortest values first.
        elsewhere = [
            rb'""|\[\]|\{\}',
            rb"\d",
            rb"t|tr|tru|true|f|fa|fal|fals|false|n|nu|nul|null",
            rb'".*',
            rb"[,:]",
            rb"\[",
            rb"\{",
        ]
        self._groups = {
            "string": [self.quotes],
            "number": [self.brackets, comma],
            "elsewhere": [self.brackets, *map(self._like, elsewhere)],
        }

    def _like(self, pattern: bytes) -> Ids:
        """The tokens that match a pattern, the longest first."""
        ids = np.array([token for token, piece in enumerate(self.pieces) if re.fullmatch(pattern, piece)], np.intp)
        return ids[np.argsort(-self._lengths[ids], kind="stable")]

    def _best(self, allowed: Allowed, place: Place, tried: npt.NDArray[np.bool_]) -> int | None:
        for group in self._groups["string" if place.in_string else "number" if place.in_number else "elsewhere"]:
            found = group[allowed[group]]
            if len(found):
                tried[:] = False
                return int(found[0])
        # What has a form of its own (a name, a pattern) is best done with in few tokens. But the longest alone could
        # go on without end, where it is some other character that the pattern waits for.
        ids = allowed.nonzero()[0]
        fresh = ids[~tried[self._first_bytes[ids]]]
        ids = fresh if len(fresh) else ids
        if not len(ids):
            return None
        token = int(ids[self._lengths[ids].argmax()])
        tried[self._first_bytes[token]] = True
        return token

    def path(self, matcher: Any, place: Place, most: int) -> list[int] | None:
        """Tokens that complete the document from here, at most `most`; None where the search finds none.

        It is a way, not the shortest: each token is the best by itself. The matcher, a copy, goes along.
        """
        place, path = place.copy(), list[int]()
        tried = np.zeros(256, np.bool_)  # bytes that tokens of the value in hand began with
        while not matcher.is_accepting():
            token = self._best(allowed_next(matcher, len(self.pieces)), place, tried) if len(path) < most else None
            if token is None or not matcher.consume_token(token):
                return None
            path.append(token)
            place.feed(self.pieces[token])
        return None if matcher.is_error() else path
