"""Progress that keeps quiet where there is little to do: a small corpus is built before a line about it is read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from stellar_local.console import progress

Item = TypeVar("Item")
_MANY = 5000  # items from which on a step takes so long that it is shown


def shown(items: Iterable[Item], total: int, label: str) -> Iterator[Item]:
    """The items, with progress on stderr as they are taken."""
    if total < _MANY:
        yield from items
        return
    with progress(label, total, "rows") as bar:
        for item in items:
            yield item
            bar.advance()
