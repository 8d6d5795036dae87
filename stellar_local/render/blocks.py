"""Splits Markdown into blocks while it comes in, a line at a time: CommonMark's block structure, and tables.

Knows lines; knows nothing of inline markup, colours or screens. What is finished is given out once, with the glyphs
of the quotes and lists it stands in. HTML is text.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from . import marks
from .nesting import Nesting

_WAITING = ("paragraph", "table", "dashes")  # leaves that are given out at their end
_DEEPEST = 16  # quotes and items in one another; what is deeper is text


class Block(NamedTuple):
    """A finished block. `kind` is "paragraph", "heading" (of `level`), "rule", "table" (its lines), "math" (a line of
    it), or a part of code: "fence" (its language), then "code" for each line, then "end".

    `first` and `rest` go before its first row and the others; `space` goes into an empty row before it, None means
    that there is none.
    """

    kind: str
    text: str = ""
    level: int = 0
    space: str | None = None
    first: str = ""
    rest: str = ""


@dataclass
class _Leaf:
    """The block in hand: "paragraph" or "table" with lines; "fence", "math", "front", which `closer` ends; "indented";
    "dashes", which may begin front matter."""

    kind: str
    lines: list[str] = field(default_factory=list)
    closer: str = ""
    indent: int = 0
    nests: bool = False  # a fence of Markdown, in which fences open and close
    depth: int = 0
    blanks: int = 0  # empty lines held back, in "indented"


class Blocks:
    """Feed it lines; it gives out each block once, in order."""

    def __init__(self) -> None:
        self._nesting = Nesting()
        self._leaf: _Leaf | None = None
        self._blank = self._any = False
        self._held: list[Block] = []
        self._own: list[Block] = []

    @property
    def spaced(self) -> bool:
        """Whether an empty row goes before the next block."""
        return self._blank and self._any

    @property
    def waiting(self) -> bool:
        """Whether the last line is part of a block that was not given out yet."""
        return (self._leaf is not None and self._leaf.kind in _WAITING) or self._nesting.waits()

    def line(self, line: str) -> tuple[list[Block], list[Block]]:
        """Take a line, without its newline. Gives the blocks that end before it, and those that end with it."""
        self._take(line.expandtabs(4))
        return self._given()

    def decided(self, begin: str) -> int:
        """After how many characters of a line it is certain that it begins a list item which ends the block in hand;
        0 if it does not, or not yet."""
        begun = marks.begun_item(begin)
        if not begun or self._leaf is None or self._leaf.kind not in ("paragraph", "table"):
            return 0
        rest, matched = self._nesting.enter(begun.expandtabs(4))
        indent = marks.indent_of(rest)
        return len(begun) if indent < 4 and self._item(rest[indent:], matched) else 0

    def cut(self) -> list[Block]:
        """End the block in hand before the line that was `decided`."""
        self._finish()
        return self._given()[0]

    def end(self) -> list[Block]:
        """The end of the text: all that is left."""
        self._shut(0)
        held, own = self._given()
        return held + own

    def _given(self) -> tuple[list[Block], list[Block]]:
        given, self._held, self._own = (self._held, self._own), [], []
        return given

    def _give(self, into: list[Block], kind: str, text: str = "", level: int = 0) -> None:
        into.append(Block(kind, text, level, *self._nesting.prefixes(self.spaced)))
        self._blank, self._any = False, True

    def _finish(self) -> None:
        """The leaf in hand is complete."""
        leaf, self._leaf = self._leaf, None
        if leaf is None:
            return
        if leaf.kind in ("paragraph", "table"):
            self._give(self._held, leaf.kind, "\n".join(leaf.lines))
        elif leaf.kind == "dashes":
            self._give(self._held, "rule")
        elif leaf.kind != "math":
            self._give(self._own, "end")
            self._blank = self._blank or leaf.blanks > 0

    def _shut(self, count: int) -> None:
        """Close the leaf and all but the first `count` containers; an item without content shows its marker."""
        self._finish()
        if count < len(self._nesting) and self._nesting.waits():
            self._give(self._held, "paragraph")
        self._nesting.close(count)

    def _take(self, text: str) -> None:
        if self._leaf and self._leaf.kind == "dashes":
            if marks.is_key(text):
                self._give(self._own, "fence", "yaml")
                self._leaf = _Leaf("front")
            else:
                self._finish()
        elif text == "---" and not (self._any or self._blank or self._leaf or self._nesting):
            self._leaf = _Leaf("dashes")
            return
        if self._leaf and self._leaf.kind in ("fence", "math", "front"):
            inside = self._nesting.inside(text)
            if inside is not None:
                self._verbatim(self._leaf, inside)
                return
            self._finish()
        rest, matched = self._nesting.enter(text)
        if self._leaf and self._leaf.kind == "indented":
            if matched == len(self._nesting) and (marks.indent_of(rest) >= 4 or not rest.strip(" ")):
                self._indented(self._leaf, rest)
                return
            self._finish()
        if rest.strip(" "):
            self._begin(rest, matched)
        else:
            if self._leaf is None and 0 < matched == len(self._nesting) and self._nesting.waits(matched - 1):
                matched -= 1  # an item may begin with one empty line only
            self._shut(matched)
            self._blank = True

    def _verbatim(self, leaf: _Leaf, text: str) -> None:
        """A line of fenced code, of math or of front matter."""
        body = text.strip(" ")
        if leaf.kind == "math":
            if body:
                self._give(self._own, "math", text.rstrip(" "))
            self._blank = self._blank or not body
            self._leaf = leaf if body and leaf.closer not in body else None
        elif leaf.kind == "front":
            if body in ("---", "...", ""):  # nobody leaves a line empty there; without this a rule could begin one
                self._finish()
                self._blank = not body
            else:
                self._give(self._own, "code", text)
        else:
            ends = marks.indent_of(text) <= 3 and marks.closes(body, leaf.closer)
            if ends and not leaf.depth:
                self._finish()
                return
            if leaf.nests and body.startswith(leaf.closer):
                leaf.depth += -1 if ends else bool(marks.fence(body))
            self._give(self._own, "code", text[min(marks.indent_of(text), leaf.indent) :])

    def _indented(self, leaf: _Leaf, text: str) -> None:
        if not text.strip(" "):
            leaf.blanks += 1
            return
        for _ in range(leaf.blanks):
            self._give(self._own, "code")
        leaf.blanks = 0
        self._give(self._own, "code", text[4:])

    def _item(self, body: str, matched: int) -> tuple[str, int] | None:
        """What `item` finds, if an item may begin here: inside a paragraph only one with text, and only number 1."""
        found = marks.item(body)
        if found and self._leaf and self._leaf.kind == "paragraph" and matched == len(self._nesting):
            marker, wide = found
            if not body[wide:].strip(" ") or (marker not in marks.BULLETS and int(marker[:-1]) != 1):
                return None
        return found

    def _begin(self, rest: str, matched: int) -> None:
        """What a line holds beyond the containers that go on: new ones, then a block that begins or goes on."""
        while rest.strip(" ") and matched < _DEEPEST:
            indent = marks.indent_of(rest)
            body = rest[indent:]
            if indent >= 4:
                if self._leaf and self._leaf.kind == "paragraph":
                    break
                self._shut(matched)
                self._give(self._own, "fence")
                self._leaf = _Leaf("indented")
                self._give(self._own, "code", rest[4:])
                return
            if (inner := marks.quoted(rest)) is not None:
                self._shut(matched)
                self._nesting.quote()
                rest = inner
            elif self._single(body, matched, indent):
                return
            elif found := self._item(body, matched):
                self._shut(matched)
                marker, wide = found
                self._nesting.item(marker, indent + wide)
                rest = body[wide:]
            else:
                break
            matched += 1
        if rest.strip(" "):
            self._text(rest.strip(" "), matched)

    def _single(self, body: str, matched: int, indent: int) -> bool:
        """Take a line that begins (or is) a block other than a paragraph."""
        leaf = self._leaf
        if leaf and leaf.kind == "paragraph" and matched == len(self._nesting) and (level := marks.underline(body)):
            self._leaf = None
            self._give(self._held, "heading", "\n".join(leaf.lines), level)
        elif title := marks.heading(body):
            self._shut(matched)
            self._give(self._own, "heading", title[1], title[0])
        elif code := marks.fence(body):
            self._shut(matched)
            self._give(self._own, "fence", code[1])
            nests = code[1].partition(" ")[0].lower() in ("markdown", "md")
            self._leaf = _Leaf("fence", closer=code[0], indent=indent, nests=nests)
        elif marks.is_rule(body):
            self._shut(matched)
            self._give(self._own, "rule")
        elif display := marks.math(body):
            self._shut(matched)
            self._give(self._own, "math", body.rstrip(" "))
            self._leaf = None if display[1] else _Leaf("math", closer=display[0])
        else:
            return False
        return True

    def _text(self, text: str, matched: int) -> None:
        """A line of a paragraph or of a table."""
        leaf, whole = self._leaf, matched == len(self._nesting)
        if leaf and leaf.kind == "table" and not whole:
            leaf = None
        elif leaf and whole and leaf.kind == "paragraph":
            if len(leaf.lines) == 1 and marks.delimits(text, leaf.lines[0]):
                leaf.kind = "table"
            elif text[0] == "|" and leaf.lines[-1][0] != "|":
                leaf = None  # perhaps a table without an empty line before it
        if leaf:
            leaf.lines.append(text)
        else:
            self._shut(matched)
            self._leaf = _Leaf("paragraph", [text])
