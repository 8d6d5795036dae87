"""Typed access to a JSON object of a model's folder: a value that can be used, or an error that names the field.

Such a file comes from anywhere, so a number must fit what a GGUF stores: whole ones 32 bits without a sign, others a
32-bit float that is neither 0 nor infinite. Knows types and bounds; knows no field by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stellar_local.errors import ModelError

_MOST = (1 << 32) - 1
_FLOATS = (2.0**-126, (2.0 - 2.0**-23) * 2.0**127)  # the smallest and the largest normal 32-bit float
_SHOWN = 80  # characters


class Fields:
    """The fields of a JSON object. `where` names it in errors ("config.json"), `hint` says what to do about them."""

    def __init__(self, fields: Mapping[str, Any], where: str, hint: str) -> None:
        self._fields, self._where, self._hint = fields, where, hint

    def count(self, key: str, default: int | None = None, most: int = _MOST) -> int:
        """A whole number from 1 to `most`; `default` where the field is absent or null. Raises ModelError."""
        value = self._fields.get(key)
        return self._whole(key, default if value is None else value, most)

    def number(self, key: str, default: float | None = None) -> float:
        """A positive number; `default` where the field is absent or null. Raises ModelError."""
        value = self._fields.get(key)
        return self._real(key, default if value is None else value)

    def flag(self, key: str) -> bool:
        """True or false, false where the field is absent or null; no text, not even "false". Raises ModelError."""
        value = self._fields.get(key)
        if value is not None and not isinstance(value, bool):
            raise self.unusable(key, value)
        return bool(value)

    def counts(self, key: str) -> dict[str, int]:
        """An object of whole numbers above 0, {} where there is none. Raises ModelError."""
        return {name: self._whole(key, value, _MOST) for name, value in self.mapping(key).items()}

    def numbers(self, key: str) -> dict[str, float]:
        """An object of positive numbers, {} where there is none. Raises ModelError."""
        return {name: self._real(key, value) for name, value in self.mapping(key).items()}

    def names(self, key: str) -> tuple[str, ...]:
        """A list of texts that are not empty, () where there is none. Raises ModelError."""
        value = self._fields.get(key) or []
        if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
            raise self.unusable(key, value)
        return tuple(value)

    def mapping(self, key: str) -> dict[str, Any]:
        """An object, {} where there is none. Raises ModelError."""
        value = self._fields.get(key) or {}
        if not isinstance(value, dict):
            raise self.unusable(key, value)
        return value

    def unusable(self, key: str, value: object) -> ModelError:
        """The error for a field whose value, or a part of it, is of no use."""
        return ModelError(f"{self._where} has no usable {key}: {shown(value)}", self._hint)

    def _whole(self, key: str, value: object, most: int) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= most:
            raise self.unusable(key, value)
        return value

    def _real(self, key: str, value: object) -> float:
        # Compared before it is turned into a float: a whole number in JSON may be too long for one.
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not _FLOATS[0] <= value <= _FLOATS[1]:
            raise self.unusable(key, value)
        return float(value)


def shown(value: object) -> str:
    """A value as Python writes it, cut where it would fill the screen."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
