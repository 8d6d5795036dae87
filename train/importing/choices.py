"""What the command line decides about reading rows. Knows no format's details."""

from __future__ import annotations

from dataclasses import dataclass

FORMATS = ("auto", "alpaca", "sharegpt", "csv", "astro-qa")
LANGUAGES = ("auto", "zh", "en")


@dataclass(frozen=True)
class Names:
    """The columns, or keys, that hold each part of a triple; "" where they are to be found."""

    instruction: str = ""
    input: str = ""
    output: str = ""


@dataclass(frozen=True)
class Choices:
    """How rows are read: `format` and `language` may be auto; see `stellar data import --help` for the rest."""

    format: str = "auto"
    language: str = "auto"
    names: Names = Names()
    phrasings: int = 1
    seed: int = 42
    all_turns: bool = False
    keep_system: bool = False
