"""What a check can find: the kinds, how grave each is, what to do about it, and the places where it was found."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..corpus import EMPTY_ANSWER, EMPTY_QUESTION, HALF, HINTS, NO_ROW, NOT_JSON, NOT_UTF8

BROKEN, WARNING, NOTE = "broken", "warning", "note"
EMPTY_FILE, UNREADABLE = "no rows", "cannot be read"
OVER, BARE, ENDLESS = "over the cutoff", "no answer token", "no end token"
DUPLICATE, NEAR, CONFLICT, LEAK = "duplicate", "near duplicate", "same question, other answer", "leak"
ECHO, CONTROL, SPECIAL = "answer repeats the question", "control character", "special token's text"
PLACEHOLDER, FOREIGN_NAME = "placeholder", "another model's name"

# kind → (how grave it is, what to do)
KINDS: dict[str, tuple[str, str]] = {
    **{kind: (BROKEN, HINTS[kind]) for kind in (NOT_UTF8, NOT_JSON, NO_ROW, EMPTY_QUESTION, EMPTY_ANSWER, HALF)},
    EMPTY_FILE: (BROKEN, "give a file with rows"),
    UNREADABLE: (BROKEN, "mend or leave out the file"),
    OVER: (WARNING, "raise --cutoff-len, or shorten the rows; by default training leaves them out"),
    BARE: (WARNING, "shorten the question or raise --cutoff-len; nothing can be learned from such a row"),
    ENDLESS: (WARNING, "choose a template with an end token; without one the model does not learn to stop"),
    DUPLICATE: (WARNING, "`stellar data build` removes them by a recipe; rows that it repeats itself are meant"),
    NEAR: (WARNING, "keep paraphrases that are meant; `stellar data build` removes the rest by a recipe"),
    CONFLICT: (WARNING, "keep one answer, unless several are meant to be learned"),
    LEAK: (WARNING, "remove the rows: a score on what was trained on says nothing"),
    ECHO: (NOTE, "the model would learn to say the question again"),
    CONTROL: (NOTE, "remove these characters"),
    SPECIAL: (NOTE, "it is learned as plain text and has no effect; it is often left over from another format"),
    PLACEHOLDER: (NOTE, "put the real name in its place"),
    FOREIGN_NAME: (NOTE, "make sure that the answer does not claim to be that model"),
}


@dataclass(frozen=True)
class Finding:
    """One place: a file (`source`) and a line (0: the whole file), what is there, and the beginning of its text."""

    source: str
    line: int
    detail: str
    excerpt: str

    @property
    def place(self) -> str:
        """Where it is, as editors understand it."""
        return f"{self.source}:{self.line}" if self.line else self.source


@dataclass
class Findings:
    """All that was found, by kind, in the order of the files."""

    by_kind: dict[str, list[Finding]] = field(default_factory=dict)

    def add(self, kind: str, finding: Finding) -> None:
        """Add one; `kind` is one of KINDS."""
        self.by_kind.setdefault(kind, []).append(finding)

    def of(self, gravity: str) -> dict[str, list[Finding]]:
        """The kinds that were found and are this grave."""
        return {
            kind: self.by_kind[kind] for kind, (grave, _) in KINDS.items() if grave == gravity and kind in self.by_kind
        }

    def count(self, gravity: str) -> int:
        """How many findings are this grave."""
        return sum(map(len, self.of(gravity).values()))
