"""The line below the prompt: model, context, speed, adapters, session; what fits of it. Knows no terminal."""

from __future__ import annotations

from ..console import cells, fitted
from .state import Chat

_SEPARATOR = " · "
_LEAST_NAME = 8  # columns of the model's name before other parts go


def toolbar(chat: Chat, columns: int) -> str:
    """What is worth knowing at a glance, in so many columns; the least worthy goes first where they are few."""
    name = chat.runtime.model.path.stem
    parts = {  # in the order shown
        "context": _context(chat),
        "speed": _speed(chat),
        "lora": _lora(chat),
        "session": chat.session.name if chat.session else "",
        "help": "/help",
    }
    for gone in ("", "help", "speed", "session", "lora"):
        parts.pop(gone, None)
        rest = _SEPARATOR.join(part for part in parts.values() if part)
        room = columns - cells(_SEPARATOR + rest)
        if room >= (cells(name) if not gone else min(_LEAST_NAME, cells(name))):
            return fitted(name, room) + _SEPARATOR + rest
    return fitted(rest, columns)


def _context(chat: Chat) -> str:
    return f"{_short(chat.used)}/{_short(chat.runtime.engine.longest)}"


def _short(count: int) -> str:
    return f"{count / 1000:.1f}k" if count >= 10_000 else f"{count:,}"


def _speed(chat: Chat) -> str:
    if chat.last is None:
        return ""
    speed = chat.last.timing.tokens_per_second(chat.last.usage.completion_tokens)
    return f"{speed:.0f} tok/s" if speed else ""


def _lora(chat: Chat) -> str:
    return " ".join(f"{name}×{scale:g}" for name, scale in chat.runtime.adapters.items() if scale)
