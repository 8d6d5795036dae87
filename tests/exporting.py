"""`export` with an order's fields as arguments, as the tests call it."""

from __future__ import annotations

from typing import Any

from convert.export import Exported
from convert.export import export as carry_out
from convert.job import Order


def export(*fields: Any, **more: Any) -> Exported:
    """Carry out Order(*fields, **more)."""
    return carry_out(Order(*fields, **more))
