"""llama.cpp's grammar notation (GBNF), read as llama.cpp reads it. Knows nothing of tokens, or of what follows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NoReturn

from ..errors import RequestError

_MOST_RULES = 1000
_DEEPEST = 100  # parentheses in parentheses
_MOST_REPEATS = 2000  # llama.cpp's limit
_LAST = 0x10FFFF
_ESCAPES = {"t": "\t", "r": "\r", "n": "\n", **{sign: sign for sign in '\\"[]-'}}
_HEX = {"x": 2, "u": 4, "U": 8}

Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Chars:
    """One character out of these code points."""

    ranges: Ranges


@dataclass(frozen=True)
class Ref:
    """Another rule."""

    name: str


@dataclass(frozen=True)
class Seq:
    """One after the other; of none, the empty text."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Alt:
    """One of several."""

    choices: tuple[Node, ...]


@dataclass(frozen=True)
class Repeat:
    """A part from `least` to `most` times; None is without bound."""

    part: Node
    least: int
    most: int | None


Node = Chars | Ref | Seq | Alt | Repeat


def parse(text: str) -> dict[str, Node]:
    """The rules by name. Raises RequestError("invalid_grammar") with the place of a mistake."""
    return _Parser(text).rules()


def fail(reason: str, hint: str = "") -> NoReturn:
    """Raise the one error of this notation: the grammar `reason`."""
    raise RequestError("invalid_grammar", f"the grammar {reason}", hint or "llama.cpp's grammars/README.md explains it")


def _sound(ranges: list[tuple[int, int]], negated: bool) -> Ranges:
    """Sorted and merged, without U+0000 and surrogates, which no text holds."""
    if negated:
        edges, start = [], 0
        for low, high in sorted(ranges):
            if low > start:
                edges.append((start, low - 1))
            start = max(start, high + 1)
        ranges = [*edges, (start, _LAST)] if start <= _LAST else edges
    parts = [(max(low, a), min(high, b)) for low, high in sorted(ranges) for a, b in ((1, 0xD7FF), (0xE000, _LAST))]
    merged: list[tuple[int, int]] = []
    for low, high in sorted(part for part in parts if part[0] <= part[1]):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    if not merged:
        fail("has a class of characters that nothing can match")
    return tuple(merged)


@dataclass
class _Parser:
    """A recursive descent over the text, as llama.cpp's: newlines end a rule, but not inside parentheses."""

    source: str
    at: int = 0
    found: dict[str, Node] = field(default_factory=dict)

    def rules(self) -> dict[str, Node]:
        self._space(True)
        while self.at < len(self.source):
            name = self._name()
            if len(self.found) == _MOST_RULES:
                fail(f"has more than {_MOST_RULES} rules")
            self._space(False)
            if not self.source.startswith("::=", self.at):
                self._wrong("::= is missing")
            self.at += 3
            self._space(True)
            self.found[name] = self._alternatives(0)
            if self._peek() not in ("", "\r", "\n"):
                self._wrong("a new line must begin here")
            self._space(True)
        return self.found

    def _wrong(self, reason: str) -> NoReturn:
        line = self.source.count("\n", 0, self.at) + 1
        rest = self.source[self.at : self.at + 20].split("\n")[0]
        fail(f"is wrong in line {line}, at {rest!r}: {reason}")

    def _peek(self) -> str:
        return self.source[self.at : self.at + 1]

    def _space(self, newlines: bool) -> None:
        blank = " \t\r\n" if newlines else " \t"
        while self._peek() and self._peek() in blank + "#":
            if self._peek() == "#":
                while self._peek() not in ("", "\r", "\n"):
                    self.at += 1
            else:
                self.at += 1

    def _run(self, wanted: str, what: str) -> str:
        start = self.at
        while self._peek() and self._peek() in wanted:
            self.at += 1
        if start == self.at:
            self._wrong(f"{what} is missing")
        return self.source[start : self.at]

    def _name(self) -> str:
        return self._run("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-", "a rule's name")

    def _alternatives(self, depth: int) -> Node:
        choices = [self._sequence(depth)]
        while self._peek() == "|":
            self.at += 1
            self._space(True)
            choices.append(self._sequence(depth))
        return choices[0] if len(choices) == 1 else Alt(tuple(choices))

    def _sequence(self, depth: int) -> Node:
        if depth > _DEEPEST:
            self._wrong(f"parentheses are nested more than {_DEEPEST} deep")
        parts: list[Node] = []
        while sign := self._peek():
            if sign in "*+?{":
                if not parts:
                    self._wrong("there is nothing to repeat")
                parts[-1] = Repeat(parts[-1], *self._times(depth))
            elif sign == '"':
                parts.append(self._literal())
            elif sign == "[":
                parts.append(self._class())
            elif sign == "(":
                self.at += 1
                self._space(True)
                parts.append(self._alternatives(depth + 1))
                if self._peek() != ")":
                    self._wrong(") is missing")
                self.at += 1
            elif sign == ".":
                self.at += 1
                parts.append(Chars(_sound([], True)))
            elif sign in "<!":
                self._wrong("tokens in a grammar are not supported: write their text")
            elif sign.isascii() and (sign.isalnum() or sign == "-"):
                parts.append(Ref(self._name()))
            else:
                break
            self._space(depth > 0)
        return parts[0] if len(parts) == 1 else Seq(tuple(parts))

    def _times(self, depth: int) -> tuple[int, int | None]:
        sign = self._peek()
        self.at += 1
        if sign != "{":
            return {"*": (0, None), "+": (1, None), "?": (0, 1)}[sign]
        self._space(depth > 0)
        least = int(self._run("0123456789", "a number")[:9])
        most: int | None = least
        self._space(depth > 0)
        if self._peek() == ",":
            self.at += 1
            self._space(depth > 0)
            most = int(self._run("0123456789", "a number")[:9]) if self._peek().isdigit() else None
            self._space(depth > 0)
        if self._peek() != "}":
            self._wrong("} is missing")
        self.at += 1
        if max(least, most or 0) > _MOST_REPEATS or (most is not None and most < least):
            self._wrong(f"a repetition is from m to n times, 0 ≤ m ≤ n ≤ {_MOST_REPEATS}")
        return least, most

    def _literal(self) -> Node:
        self.at += 1
        parts = []
        while self._peek() != '"':
            code = self._char()
            parts.append(Chars(_sound([(code, code)], False)))
        self.at += 1
        return parts[0] if len(parts) == 1 else Seq(tuple(parts))

    def _class(self) -> Node:
        self.at += 1
        negated = self._peek() == "^"
        self.at += negated
        ranges = []
        while self._peek() != "]":
            low = high = self._char()
            if self._peek() == "-" and self.source[self.at + 1 : self.at + 2] != "]":
                self.at += 1
                high = self._char()
                if high < low:
                    self._wrong("a range of characters is upside down")
            ranges.append((low, high))
        self.at += 1
        if not ranges:
            self._wrong("a class of characters is empty")
        return Chars(_sound(ranges, negated))

    def _char(self) -> int:
        sign = self._peek()
        if not sign:
            self._wrong("it ends in the middle of a text")
        self.at += 1
        if sign != "\\":
            return ord(sign)
        kind = self._peek()
        self.at += 1
        if kind in _ESCAPES:
            return ord(_ESCAPES[kind])
        if kind not in _HEX:
            self.at -= 2
            self._wrong("unknown escape")
        digits = self.source[self.at : self.at + _HEX[kind]]
        if len(digits) < _HEX[kind] or not all(digit in "0123456789abcdefABCDEF" for digit in digits):
            self._wrong(f"{_HEX[kind]} hexadecimal digits must follow \\{kind}")
        self.at += len(digits)
        if int(digits, 16) > _LAST:
            self._wrong("no such character")
        return int(digits, 16)
