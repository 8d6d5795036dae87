"""Which level of a folder was picked, and why, in the chat's language. Knows plan's reasons and the texts."""

from __future__ import annotations

from ..plan.choose import Choice, worded
from .texts import Texts


def picked(choice: Choice, texts: Texts) -> str:
    """One line for the start of a chat; "" for a file that was given itself."""
    words = worded(choice)
    return texts(f"plan.{words[0]}", **words[1]) if words else ""
