"""Texts of both languages for the tests of likeness, and the measure worked out without hashes."""

from __future__ import annotations

import random

WORDS = [
    "star",
    "planet",
    "orbit",
    "light",
    "mass",
    "galaxy",
    "nebula",
    "comet",
    "dwarf",
    "giant",
    "core",
    "shell",
    "dust",
]
SIGNS = [*"恒星行轨道光质量系云彗矮巨核壳尘环月坑耀斑风天文学家观测到的在有是和从"]


def by_hand(one: str, other: str, size: int) -> float:
    """Jaccard's measure of two texts' runs of `size` characters, a blank on both sides."""
    first, second = ({f" {text} "[at : at + size] for at in range(len(text) + 3 - size)} for text in (one, other))
    return len(first & second) / len(first | second)


def edited(text: str, generator: random.Random) -> str:
    at = generator.randrange(len(text))
    return text[:at] + generator.choice("xyz") + text[at + 1 :]


def texts(count: int, seed: int) -> list[str]:
    """English and Chinese in turn."""
    generator = random.Random(seed)
    return [
        " ".join(generator.choices(WORDS, k=25)) if number % 2 else "".join(generator.choices(SIGNS, k=60))
        for number in range(count)
    ]
