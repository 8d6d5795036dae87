"""SentencePiece's model file: its pieces read and written in protobuf's wire format, without protobuf.

Source: sentencepiece_model.proto. Knows the file; knows nothing of GGUF or of Hugging Face folders.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stellar_local.errors import ModelError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # the same numbers as GGUF's token types
UNIGRAM, BPE = 1, 2
ADDED_SCORE = -1000.0  # what llama.cpp's converter gives to tokens that were added to a model
_TYPES = range(NORMAL, BYTE + 1)
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class Piece:
    """One piece of the vocabulary: its text (spaces as ▁), score and type."""

    text: str
    score: float
    type: int = NORMAL


@dataclass(frozen=True)
class SpmModel:
    """What we need of a model file: its pieces, the algorithm, and whether a space is put before a text."""

    pieces: Sequence[Piece]
    algorithm: int = BPE
    space_prefix: bool = True
    remove_extra_spaces: bool = False
    normalizer: str = "identity"
    byte_fallback: bool = True


def parse(data: bytes, where: str) -> SpmModel:
    """Read a model file. Raises ModelError if it is none."""
    pieces: list[Piece] = []
    trainer: dict[int, object] = {}
    normalizer: dict[int, object] = {}
    try:
        for field, value in _fields(data):
            if field == 1 and isinstance(value, bytes):
                inner = dict(_fields(value))
                text, score, kind = inner.get(1, b""), inner.get(2, b"\0\0\0\0"), inner.get(3, NORMAL)
                if not isinstance(text, bytes) or not isinstance(score, bytes) or not isinstance(kind, int):
                    raise ValueError
                if kind not in _TYPES:
                    raise ValueError(f"type {kind}")
                pieces.append(Piece(text.decode("utf-8"), struct.unpack("<f", score)[0], kind))
            elif field == 2 and isinstance(value, bytes):
                trainer = dict(_fields(value))
            elif field == 3 and isinstance(value, bytes):
                normalizer = dict(_fields(value))
    except (ValueError, IndexError, struct.error) as error:
        raise ModelError(
            f"not a SentencePiece model: {where}", "copy tokenizer.model from the original base"
        ) from error
    if not pieces:
        raise ModelError(f"not a SentencePiece model: {where}", "copy tokenizer.model from the original base")
    name = normalizer.get(1, b"")
    return SpmModel(
        pieces,
        algorithm=int(str(trainer.get(3, UNIGRAM))),
        space_prefix=bool(normalizer.get(3, 1)),
        remove_extra_spaces=bool(normalizer.get(4, 1)),
        normalizer=name.decode("utf-8", "replace") if isinstance(name, bytes) else "",
        byte_fallback=bool(trainer.get(35, 0)),
    )


def build(model: SpmModel, special: dict[str, int]) -> bytes:
    """Write a model file; `special` maps unk, bos, eos and pad to ids, where the model has them."""
    out = bytearray()
    for piece in model.pieces:
        body = _bytes(1, piece.text.encode("utf-8")) + _key(2, _FIXED32) + struct.pack("<f", piece.score)
        if piece.type != NORMAL:
            body += _number(3, piece.type)
        out += _bytes(1, body)
    trainer = _number(3, model.algorithm) + _number(4, len(model.pieces)) + _number(35, model.byte_fallback)
    for field, name in ((40, "unk"), (41, "bos"), (42, "eos"), (43, "pad")):
        trainer += _number(field, special.get(name, -1))
    for field, name in ((45, "unk"), (46, "bos"), (47, "eos"), (48, "pad")):
        if name in special:
            trainer += _bytes(field, model.pieces[special[name]].text.encode("utf-8"))
    normalizer = _bytes(1, model.normalizer.encode("utf-8")) + _bytes(2, b"")
    normalizer += _number(3, model.space_prefix) + _number(4, model.remove_extra_spaces) + _number(5, 1)
    return bytes(out + _bytes(2, trainer) + _bytes(3, normalizer))


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message: numbers as int, everything else as bytes. Raises ValueError, IndexError."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        field, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield field, value
            continue
        if kind == _BYTES:
            size, at = _varint(data, at)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {kind}")
        if field == 0 or at + size > len(data):
            raise ValueError("cut")
        yield field, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError("varint")


def _key(field: int, kind: int) -> bytes:
    return _encode(field << 3 | kind)


def _encode(value: int) -> bytes:
    value &= (1 << 64) - 1  # negative numbers are sign-extended to ten bytes
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(field: int, value: int) -> bytes:
    return _key(field, _VARINT) + _encode(int(value))


def _bytes(field: int, value: bytes) -> bytes:
    return _key(field, _BYTES) + _encode(len(value)) + value
