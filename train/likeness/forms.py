"""A row as it is compared: its texts in normal form. Knows triples; compares nothing itself."""

from __future__ import annotations

from dataclasses import dataclass

from ..corpus import Triple
from .normal import normalise


@dataclass(frozen=True)
class Form:
    """The normal forms of a row's texts; `question` is instruction and input as one."""

    instruction: str
    input: str
    question: str
    answer: str

    @classmethod
    def of(cls, row: Triple) -> Form:
        """The form of a row."""
        instruction, given = normalise(row.instruction), normalise(row.input)
        question = normalise(f"{row.instruction}\n{row.input}") if given else instruction
        return cls(instruction, given, question, normalise(row.output))

    @property
    def asked(self) -> tuple[str, str]:
        """What is compared of a question: one long instruction before many inputs must not make them alike."""
        return self.instruction, self.input

    @property
    def whole(self) -> tuple[str, str, str]:
        """What is compared of a row."""
        return self.instruction, self.input, self.answer
