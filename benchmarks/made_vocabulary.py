"""A vocabulary of any size that is nobody's: three special tokens, all bytes, and numbers, in SentencePiece's way."""

from __future__ import annotations

BOS, EOS = 1, 2
_UNKNOWN, _CONTROL, _BYTE, _NORMAL = 2, 3, 6, 1  # token types, of SentencePiece and of GGUF


def made_vocabulary(size: int) -> list[tuple[str, int]]:
    """Texts and types of `size` tokens, at least 259."""
    found = [("<unk>", _UNKNOWN), ("<s>", _CONTROL), ("</s>", _CONTROL)]
    found += [(f"<0x{byte:02X}>", _BYTE) for byte in range(256)]
    return found + [(f"▁{number}", _NORMAL) for number in range(size - len(found))]
