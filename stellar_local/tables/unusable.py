"""What makes one row of a table of no use, while the others go on."""

from __future__ import annotations


class Unusable(Exception):
    """A row that cannot be used; the message is the reason, worded so that rows can be counted by it."""
